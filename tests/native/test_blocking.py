"""What is particular to scripts: threads, interruptions, signals, forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest

import trivium
from tests.native.harness import in_thread
from trivium import blocking
from trivium.handouts import Message

FORKING = """
import os, sys
from trivium import blocking

with blocking.connect(sys.argv[1]) as client, client.producer() as producer:
    producer.send("t", b"parent")
    if not (child := os.fork()):
        try:
            producer.send("t", b"child")
        except RuntimeError as error:
            print(error, flush=True)
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    print(producer.send("t", b"parent again").partition)
"""


class Interrupted(BaseException):
    pass


def fill(client: blocking.Client, count: int) -> set[bytes | None]:
    client.create_topic("t", 1)
    with client.producer() as producer:
        values = [b"%d" % number for number in range(count)]
        producer.send_all([trivium.NewMessage("t", value) for value in values])
    return set(values)


def test_none_of_a_long_backlog_is_left_out() -> None:
    with in_thread() as addresses, blocking.connect(addresses.native) as client:
        values = fill(client, 2 * blocking.FETCHED_MAX + 50)
        with client.subscribe("t", group="g", start=trivium.EARLIEST, credit_messages=10_000) as messages:
            for message in messages:
                values.discard(message.value)
                messages.ack_nowait(message)
                if message.offset == 2 * blocking.FETCHED_MAX + 49:
                    break
            assert values == set()


def test_many_threads_share_one_subscriber() -> None:
    with in_thread() as addresses, blocking.connect(addresses.native) as client:
        values = fill(client, 1_000)
        got: Counter[bytes | None] = Counter()
        with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:

            def work() -> None:
                for message in messages:
                    got[message.value] += 1
                    messages.ack(message)
                    if len(got) == 1_000:
                        messages.stop()

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        assert got == Counter(values)


def test_what_the_script_has_not_been_given_was_no_attempt() -> None:
    with in_thread() as addresses, blocking.connect(addresses.native) as client:
        fill(client, 10)
        with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            messages.ack(next(messages))
        with client.subscribe("t", group="g", credit_messages=0) as messages:
            assert [(one.value, one.attempt) for one in messages.receive(10)] == [
                (b"%d" % number, 1) for number in range(1, 10)
            ]


def test_an_interrupted_wait_takes_no_message() -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with in_thread() as addresses, blocking.connect(addresses.native) as client, client.producer() as producer:
            client.create_topic("t", 1)
            with client.consumer("t") as consumer:
                pull = consumer._made._pull

                async def interrupted_pull() -> None:
                    consumer._made._pull = pull  # type: ignore[method-assign]
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                    await pull()

                consumer._made._pull = interrupted_pull  # type: ignore[method-assign]
                with pytest.raises(Interrupted):
                    next(consumer)
                producer.send("t", b"1")
                assert next(consumer).value == b"1"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_lets_handlers_finish() -> None:
    with in_thread() as addresses, blocking.connect(addresses.native) as client:
        fill(client, 1)
        before = signal.getsignal(signal.SIGTERM)

        def work(message: Message) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        with client.subscribe("t", group="g", start=trivium.EARLIEST) as messages:
            messages.run(work, concurrency=2)
        assert signal.getsignal(signal.SIGTERM) is before
        (place,) = client.describe_queues("g")[0].places
        assert place.floor == 1


def test_a_forked_process_is_told_to_connect_anew_and_leaves_alone_what_is_the_parents() -> None:
    with in_thread() as addresses:
        done = subprocess.run(
            [sys.executable, "-c", FORKING, addresses.native], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout.splitlines() == [
        "the client was connected before this process was forked: connect again in here",
        "0",
        "0",
    ]


def test_a_script_reads_traces_and_asks_members() -> None:
    with in_thread() as addresses, blocking.connect(addresses.native, client_id="me") as client:
        client.create_topic("t", 1, {"trace": "on"})
        with client.producer() as producer:
            sent = producer.send("t", b"1")
        assert [trace.event for trace in client.traces(message_id=sent.message_id)] == [trivium.TraceEvent.STORED]
        with client.subscribe("t", group="g"):
            (member,) = client.describe_queues("g")[0].members
            assert client.member_status("g", member.member)["settings"]["client_id"] == "me"
