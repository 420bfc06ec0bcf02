"""What the SDK sends beyond plain messages: later, once, on a condition, all or none, half, in transactions."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest
import trio

import trivium
import trivium.blocking
from tests.native.harness import in_thread, serving
from tests.patience import PATIENCE_S
from trivium.client import Client
from trivium.connection import Connection
from trivium.consumer import Consumer
from trivium.frames.codec import KIND_OF, encode
from trivium.frames.halves import JoinProducers, LeaveProducers
from trivium.frames.sending import Send, SendReply, SendResult
from trivium.frames.transactions import EndTransaction
from trivium.half_messages import HalfProducer


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def values(consumer: Consumer, count: int) -> list[bytes | None]:
    return [(await anext(consumer)).value for _ in range(count)]


async def test_a_message_has_its_id_at_once_and_keeps_it() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        posted = [producer.post("t", b"%d" % number) for number in range(3)]
        assert len({one.message_id for one in posted}) == 3
        sent = [await one.wait() for one in posted]
        assert [one.message_id for one in sent] == [one.message_id for one in posted]
        assert [one.offset for one in sent] == [0, 1, 2]
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            messages = [await anext(consumer) for _ in range(3)]
        assert [message.message_id for message in messages] == [one.message_id for one in sent]
        assert messages[0].headers == []


async def test_post_says_when_the_buffer_is_full() -> None:
    async with (
        serving() as addresses,
        trivium.connect(addresses.native) as client,
        client.producer(buffer_bytes_max=1_000) as producer,
    ):
        first = producer.post("t", bytes(900))
        with pytest.raises(trivium.BufferFull):
            producer.post("t", bytes(900))
        assert (await first.wait()).offset == 0
        assert (await producer.send("t", bytes(900))).offset == 1


async def test_later_listed_cancelled_and_delivered() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        due_ms = now_ms() + 3_600_000
        sent = await producer.send("t", b"later", key=b"k", deliver_at_ms=due_ms)
        assert (sent.scheduled, sent.offset) == (True, -1)
        other = await producer.send("t", b"never", deliver_at_ms=due_ms + 60_000)
        listed = [message async for message in client.scheduled()]
        assert [(row.message_id, row.due_ms, row.topic, row.key) for row in listed] == [
            (sent.message_id, due_ms, "t", b"k"),
            (other.message_id, due_ms + 60_000, "t", None),
        ]
        assert await client.cancel(other.message_id) is trivium.Cancellation.CANCELLED
        assert await client.cancel("nobody's") is trivium.Cancellation.UNKNOWN
        wait_ms = 100
        while True:
            due_ms, topic = now_ms() + wait_ms, f"in-{wait_ms}-ms"
            sent = await producer.send(topic, b"soon", deliver_at_ms=due_ms)
            if sent.scheduled:
                break
            wait_ms *= 4  # it was due before it was there
        async with client.consumer(topic, start=trivium.EARLIEST) as consumer:
            message = await anext(consumer)
        assert (message.value, message.message_id) == (b"soon", sent.message_id)
        assert due_ms <= message.timestamp_ms <= now_ms()
        assert await client.cancel(sent.message_id) is trivium.Cancellation.DELIVERED


async def test_a_compressed_batch_is_looked_into_when_the_sdk_says_so() -> None:
    async with (
        serving() as addresses,
        trivium.connect(addresses.native) as client,
        client.producer(codec=trivium.Codec.ZSTD) as producer,
    ):
        sent = await producer.send("t", b"later", deliver_at_ms=now_ms() + 60_000)
        assert sent.scheduled


async def test_once_with_the_first_id_also_for_another_producer() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        await client.create_topic("t", 1, {"once.window.ms": "60000"})
        async with client.producer() as producer:
            first = await producer.send("t", b"x", once_id="order-7")
        async with client.producer() as producer:
            again = await producer.send("t", b"x", once_id="order-7")
            assert (again.duplicate, again.message_id, again.offset) == (True, first.message_id, -1)
            other = await producer.send("t", b"y", once_id="order-8")
            assert not other.duplicate
            with pytest.raises(trivium.RequestRefused, match=r"once\.window\.ms") as refused:
                await producer.send("plain", b"x", once_id="a")
            assert refused.value.code == trivium.ErrorCode.WRONG_MESSAGE_TYPE
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            assert await values(consumer, 2) == [b"x", b"y"]


async def test_on_a_condition_of_the_keys_last_offset() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1)
        first = await producer.send_if("t", b"1", key=b"a", last_offset=-1)
        with pytest.raises(trivium.KeyChanged) as changed:
            await producer.send_if("t", b"1", key=b"a", last_offset=-1)
        assert changed.value.last_offset == first.offset
        await producer.send("t", b"other", key=b"b")
        second = await producer.send_if("t", b"2", key=b"a", last_offset=first.offset)
        assert second.offset == 2


async def test_of_many_conditional_senders_each_change_is_built_on_the_last() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1)
        done = 0

        async def count_up(times: int) -> None:
            nonlocal done
            last = -1
            while times:
                try:
                    last = (await producer.send_if("t", b"", key=b"counter", last_offset=last)).offset
                    times -= 1
                    done += 1
                except trivium.KeyChanged as changed:
                    last = changed.last_offset

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(count_up, 5)
            for _ in range(30):
                await producer.send("t", b"plain", key=b"another")
        assert done == 20
        assert await client.find_offsets("t", trivium.LATEST) == {0: 50}


async def test_all_or_none_over_partitions() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 3)
        await client.create_topic("small", 1, {"max.message.bytes": "500"})
        messages = [trivium.NewMessage("t", b"%d" % number, partition=number % 3) for number in range(6)]
        sent = await producer.send_all(messages)
        assert sorted((one.partition, one.offset) for one in sent) == [(p, o) for p in range(3) for o in range(2)]
        with pytest.raises(trivium.RequestRefused) as refused:
            await producer.send_all([*messages, trivium.NewMessage("small", bytes(1_000))])
        assert refused.value.code == trivium.ErrorCode.BATCH_TOO_LARGE
        assert await client.find_offsets("t", trivium.LATEST) == {0: 2, 1: 2, 2: 2}
        assert await producer.send_all([]) == []


async def test_one_way_messages_arrive_and_refusals_are_nobodys() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        await client.create_topic("t", 1, {"max.message.bytes": "500"})
        for number in range(50):
            await producer.send_one_way("t", bytes(1_000) if number == 20 else b"%d" % number)
        await producer.send("t", b"last")
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            found = await values(consumer, 50)
        assert found == [b"%d" % number for number in range(50) if number != 20] + [b"last"]


async def test_a_topic_says_what_it_takes() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client, client.producer() as producer:
        for kind in ("normal", "fifo", "delay", "transaction"):
            await client.create_topic(kind, 1, {"message.type": kind})
        later = now_ms() + 60_000
        await producer.send("normal", b"x")
        await producer.send("fifo", b"x", key=b"k")
        await producer.send("delay", b"x", deliver_at_ms=later)
        for topic, due_ms in (("normal", later), ("fifo", None), ("delay", None), ("transaction", None)):
            with pytest.raises(trivium.RequestRefused) as refused:
                await producer.send(topic, b"x", deliver_at_ms=due_ms)
            assert refused.value.code == trivium.ErrorCode.WRONG_MESSAGE_TYPE


# -- half messages


async def committing(half: trivium.HalfMessage) -> int:
    return trivium.COMMIT


async def test_a_half_is_seen_when_its_block_ends_well() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        async with client.half_producer("g", committing) as producer:
            async with producer.half("t", b"good", key=b"k") as half:
                assert await client.find_offsets("t", trivium.LATEST) == {0: 0}
                assert [row.message_id async for row in client.halves("g")] == [half.message_id]
            with pytest.raises(KeyError):
                async with producer.half("t", b"bad"):
                    raise KeyError
            with pytest.raises(trivium.RequestRefused) as refused:
                await half.roll_back()
            assert refused.value.code == trivium.ErrorCode.MESSAGE_ENDED
            await half.commit()
            with pytest.raises(trivium.RequestRefused) as refused:
                await client.end_half("nobody's", commit=True)
            assert refused.value.code == trivium.ErrorCode.UNKNOWN_MESSAGE
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            message = await anext(consumer)
        assert (message.value, message.message_id) == (b"good", half.message_id)
        assert await client.find_offsets("t", trivium.LATEST) == {0: 1}


async def test_another_producer_of_the_group_is_asked_when_the_first_is_gone() -> None:
    asked: list[trivium.HalfMessage] = []

    async def check(half: trivium.HalfMessage) -> int:
        asked.append(half)
        if half.checks == 1:
            raise RuntimeError("the database is away")
        return trivium.COMMIT

    async with serving() as addresses:
        async with trivium.connect(addresses.native) as client, client.half_producer("g", committing) as producer:
            half = await producer.send("t", b"x", key=b"k", first_check_ms=300, check_interval_ms=50)
        async with (
            trivium.connect(addresses.native) as client,
            client.half_producer("g", check),
            client.consumer("t", start=trivium.EARLIEST) as consumer,
        ):
            assert (await anext(consumer)).message_id == half.message_id
        assert [(one.message_id, one.topic, one.key, one.value, one.checks) for one in asked] == [
            (half.message_id, "t", b"k", b"x", 1),
            (half.message_id, "t", b"k", b"x", 2),
        ]


async def test_a_parked_half_is_listed_and_resumed() -> None:
    answers = [trivium.DO_NOT_KNOW]

    async def check(half: trivium.HalfMessage) -> int:
        return answers[0]

    async def parked(client: Client) -> list[str]:
        found: list[str] = []
        while not found:
            await client.topics()  # a turn of the broker
            found = [row.message_id async for row in client.halves(parked=True)]
        return found

    async with (
        serving() as addresses,
        trivium.connect(addresses.native) as client,
        client.half_producer("g", check) as producer,
    ):
        half = await producer.send("t", b"x", first_check_ms=1, check_interval_ms=1, checks_max=2)
        assert await parked(client) == [half.message_id]
        answers[0] = trivium.COMMIT
        await client.resume_half(half.message_id)
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            assert (await anext(consumer)).message_id == half.message_id
        with pytest.raises(trivium.RequestRefused):
            await client.resume_half(half.message_id)


async def test_a_client_has_one_producer_of_a_group() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        async with client.half_producer("g", committing):
            with pytest.raises(ValueError, match="already"):
                async with client.half_producer("g", committing):
                    pass
        async with client.half_producer("g", committing) as producer:
            assert isinstance(producer, HalfProducer)


# -- transactions


async def test_consume_transform_produce_in_one_transaction() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        async with client.producer() as producer:
            for number in range(6):
                await producer.send("in", b"%d" % number)
        async with client.transactional("copier") as sender, client.consumer("in", start=trivium.EARLIEST) as consumer:
            for number in range(6):
                message = await anext(consumer)
                try:
                    async with sender.transaction() as txn:
                        await txn.send("out", b"<%s>" % message.value, key=b"k")
                        await txn.send_offsets("g", {("in", message.partition): message.offset + 1})
                        assert (await client.committed("g")).get(("in", 0), 0) != number + 1
                        if number % 2:
                            raise KeyError
                except KeyError:
                    continue
                assert await client.committed("g") == {("in", 0): number + 1}
        async with client.consumer("out", start=trivium.EARLIEST) as consumer:
            assert await values(consumer, 3) == [b"<0>", b"<2>", b"<4>"]


async def test_a_zombie_is_fenced_and_what_it_began_is_not_seen() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        async with client.transactional("id") as zombie:

            async def begin_late() -> None:
                async with zombie.transaction() as txn:
                    await txn.send("t", b"zombie")
                    await txn.flush()
                    async with client.transactional("id") as heir, heir.transaction() as mine:
                        await mine.send("t", b"heir")

            with pytest.raises(trivium.RequestRefused) as refused:
                await begin_late()
            assert refused.value.code == trivium.ErrorCode.PRODUCER_FENCED
            with pytest.raises(trivium.RequestRefused):
                async with zombie.transaction() as txn:
                    await txn.send("t", b"zombie")
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            assert await values(consumer, 1) == [b"heir"]


async def test_who_sends_while_another_takes_the_id_over_is_told_that_it_is_fenced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trivium.transactions.CONCURRENT_WAIT_S", 0)
    async with (
        serving() as addresses,
        trivium.connect(addresses.native) as client,
        client.transactional("id") as zombie,
    ):
        request = client.request

        async def at_that_moment(message: Any, *rest: Any) -> Any:
            if not isinstance(message, Send):
                return await request(message, *rest)
            monkeypatch.undo()
            async with client.transactional("id"):
                return SendReply([SendResult(trivium.ErrorCode.CONCURRENT_TRANSACTIONS, "", 0, [], -1)]), b""

        async def send() -> None:
            async with zombie.transaction() as txn:
                await txn.send("t", b"zombie")

        monkeypatch.setattr(client, "request", at_that_moment)
        with pytest.raises(trivium.RequestRefused) as refused:
            await send()
        assert refused.value.code == trivium.ErrorCode.PRODUCER_FENCED


async def nobody_knows(half: trivium.HalfMessage) -> int:
    return trivium.DO_NOT_KNOW


async def test_a_producer_of_half_messages_that_has_left_is_not_asked() -> None:
    async with (
        serving() as addresses,
        trivium.connect(addresses.native) as client,
        trivium.connect(addresses.native) as other,
        client.half_producer("g", committing) as producer,
    ):
        for number in range(101):  # a connection is in at most 100 groups
            async with other.half_producer(f"g{number}", nobody_knows):
                pass
        async with other.half_producer("g", nobody_knows):
            pass
        await producer.send("t", b"1", first_check_ms=1, checks_max=1)
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            with trio.fail_after(30):
                assert await values(consumer, 1) == [b"1"]


async def test_a_producer_of_half_messages_that_is_cancelled_while_it_joins_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scope = trio.CancelScope()
    send = Connection._send

    async def joining(self: Connection, data: bytes) -> None:
        await send(self, data)
        if data[8] == KIND_OF[JoinProducers]:
            scope.cancel()

    async with (
        serving() as addresses,
        trivium.connect(addresses.native) as client,
        trivium.connect(addresses.native) as other,
        client.half_producer("g", committing) as producer,
    ):
        await other.connection()
        with monkeypatch.context() as patched, scope:
            patched.setattr(Connection, "_send", joining)
            await other.half_producer("g", nobody_knows).__aenter__()
        assert scope.cancelled_caught
        assert not (await other.connection()).closed
        await producer.send("t", b"1", first_check_ms=1, checks_max=1)
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            with trio.fail_after(PATIENCE_S):
                assert await values(consumer, 1) == [b"1"]


async def test_joining_and_leaving_producers_take_effect_in_their_order() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        frames = [
            encode(KIND_OF[type(message)], 1_000 + number, message, 0)
            for number in range(300)  # a connection is in at most 100 groups
            for message in (JoinProducers(f"g{number}"), LeaveProducers(f"g{number}"))
        ]
        await (await client.connection())._send(b"".join(frames))
        async with client.half_producer("g", nobody_knows):
            pass


@pytest.mark.parametrize("commit", [False, True])
@pytest.mark.parametrize("arrives", [False, True])
async def test_an_end_that_was_not_answered_is_asked_again_before_the_next_transaction(
    commit: bool, arrives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        request = client.request

        async def no_answer(message: Any, *rest: Any) -> Any:
            if not isinstance(message, EndTransaction):
                return await request(message, *rest)
            monkeypatch.undo()
            if arrives:
                await request(message, *rest)
            raise trivium.RequestTimedOut

        async with client.transactional("id") as sender:

            async def first() -> None:
                async with sender.transaction() as txn:
                    await txn.send("t", b"first")
                    await txn.flush()
                    monkeypatch.setattr(client, "request", no_answer)
                    if not commit:
                        raise KeyError

            with pytest.raises(trivium.RequestTimedOut if commit else KeyError):
                await first()
            async with sender.transaction() as txn:
                await txn.send("t", b"second")
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            expected = [b"first", b"second"] if commit else [b"second"]
            assert await values(consumer, len(expected)) == expected


async def test_a_sender_goes_on_after_a_transaction_whose_time_was_over() -> None:
    async with serving() as addresses, trivium.connect(addresses.native) as client:
        async with client.transactional("id") as sender:

            async def first() -> None:
                async with sender.transaction() as txn:
                    await txn.send("t", b"first")
                    await txn.flush()
                    # It is as if the broker's clock ended it.
                    await client.request(EndTransaction("id", *sender._producer, 0))

            with pytest.raises(trivium.RequestRefused):
                await first()
            async with sender.transaction() as txn:
                await txn.send("t", b"second")
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            assert await values(consumer, 1) == [b"second"]


async def test_an_empty_transaction_costs_nothing() -> None:
    async with (
        serving() as addresses,
        trivium.connect(addresses.native) as client,
        client.transactional("id") as sender,
        sender.transaction(),
    ):
        pass


# -- the other loops


async def everything(address: str) -> None:
    async with trivium.connect(address) as client, client.producer() as producer:
        due_ms = now_ms() + 60_000
        sent = await producer.send("t", b"later", deliver_at_ms=due_ms)
        assert await client.cancel(sent.message_id) is trivium.Cancellation.CANCELLED
        async with client.half_producer("g", committing) as halves, halves.half("t", b"half"):
            pass
        async with client.transactional("id") as sender, sender.transaction() as txn:
            await txn.send("t", b"txn")
        async with client.consumer("t", start=trivium.EARLIEST) as consumer:
            assert await values(consumer, 2) == [b"half", b"txn"]


def test_on_asyncio() -> None:
    with in_thread() as addresses:
        anyio.run(everything, addresses.native, backend="asyncio")


def test_blocking() -> None:
    def check(half: trivium.HalfMessage) -> int:
        return trivium.COMMIT if half.value == b"checked" else trivium.ROLL_BACK

    with in_thread() as addresses, trivium.blocking.connect(addresses.native) as client:
        with client.producer() as producer:
            posted = producer.post("t", b"0")
            assert posted.wait().message_id == posted.message_id
            later = producer.send("t", b"later", deliver_at_ms=now_ms() + 60_000)
            assert [row.message_id for row in client.scheduled()] == [later.message_id]
            assert client.cancel(later.message_id) is trivium.Cancellation.CANCELLED
            assert len(producer.send_all([trivium.NewMessage("t", b"1"), trivium.NewMessage("t", b"2")])) == 2
            producer.send_one_way("t", b"3")
            with pytest.raises(trivium.KeyChanged):
                producer.send_if("t", b"", key=b"k", last_offset=5)
        with client.half_producer("g", check) as halves:
            with halves.half("t", b"4"):
                pass
            halves.send("t", b"checked", first_check_ms=1)
            with client.consumer("t", start=trivium.EARLIEST) as consumer:
                assert [next(consumer).value for _ in range(6)] == [b"0", b"1", b"2", b"3", b"4", b"checked"]
            assert list(client.halves()) == []
        with client.transactional("id") as sender, sender.transaction() as txn:
            txn.send("t", b"5")
