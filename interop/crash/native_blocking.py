"""The same process as `native_process`, as a script with threads: `python -m interop.crash.native_blocking LIFE ...`.

Its reader keeps its place under a group's name, which is reset while it runs; it copies nothing.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import trivium
import trivium.blocking
from interop.crash.native_roles import Journal, Topics, check, fate_of, is_committed, may_pass, now_ms

COMMIT_EVERY = 40
KEEPERS = "keepers"


class Process:
    """One life of it."""

    def __init__(self, address: str, directory: Path, life: str, topics: Topics) -> None:
        self._address = address
        self._journal = Journal(directory)
        self._life = life
        self._topics = topics
        self._random = random.Random(life)
        self._failed = threading.Event()

    def run(self) -> None:
        roles: list[Callable[[], None]] = [
            lambda: self._settle("none"),
            lambda: self._settle("key"),
            self._read,
            self._keep,
            self._send_halves,
        ]
        for role in roles:
            threading.Thread(target=self._go_on, args=(role,), daemon=True).start()
        self._failed.wait()
        sys.exit(1)

    def _go_on(self, role: Callable[[], None]) -> None:
        while True:
            try:
                role()
            except BaseException as error:
                if not (isinstance(error, trivium.RequestRefused) and may_pass(error)):
                    traceback.print_exc()
                    self._failed.set()
                    return
                time.sleep(0.1)

    def _connect(self) -> contextlib.AbstractContextManager[trivium.blocking.Client]:
        return trivium.blocking.connect(self._address, request_timeout_s=240)

    def _settle(self, group: str) -> None:
        options = {"group": group, "order": group, "start": trivium.EARLIEST, "credit_messages": 20}
        with self._connect() as client, client.subscribe(self._topics.plain, **options) as messages:  # type: ignore[arg-type]
            for message in messages:
                self._journal.say_of("got", group, message)
                with contextlib.suppress(trivium.RequestRefused):
                    match fate_of(message):
                        case "ack":
                            self._journal.say_of("ack?", group, message)
                            messages.ack(message)
                            self._journal.say_of("acked", group, message)
                        case "reject":
                            self._journal.say_of("reject?", group, message)
                            messages.reject(message, "no")
                            self._journal.say_of("rejected", group, message)
                        case "nack":
                            messages.nack(message, "again", delay_ms=self._random.choice((None, 0, 5)))
                        case _:
                            messages.postpone(message, self._random.choice((0, 5)))

    def _read(self) -> None:
        with self._connect() as client, client.consumer(self._topics.plain, start=trivium.EARLIEST) as consumer:
            for message in consumer:
                value = (message.value or b"").decode()
                self._journal.say("read", self._life, message.partition, message.offset, value)

    def _keep(self) -> None:
        """Reads on where its group is, and keeps that."""
        with (
            self._connect() as client,
            client.consumer(self._topics.plain, group=KEEPERS, start=trivium.EARLIEST) as consumer,
        ):
            for partition, offset in sorted((at[1], offset) for at, offset in consumer.positions.items()):
                self._journal.say("begun", self._life, partition, offset)
            for count, message in enumerate(consumer, 1):
                self._journal.say("kept", self._life, message.partition, message.offset)
                if count % COMMIT_EVERY == 0:
                    self._journal.say("commit?", self._life)
                    consumer.commit()
                    self._journal.say("committed", self._life)

    def _send_halves(self) -> None:
        with (
            self._connect() as client,
            client.half_producer("halves", lambda half: check(self._journal, half)) as producer,
        ):
            number = 0
            while True:
                time.sleep(self._random.uniform(0.0, 0.05))
                if self._journal.is_resting:
                    continue
                value, number = f"{self._life}:{now_ms()}:{number}", number + 1
                self._journal.say("half?", value)
                options = {"first_check_ms": 300, "check_interval_ms": 300, "checks_max": 10_000}
                try:
                    half = producer.send(self._topics.halves, value.encode(), **options)  # type: ignore[arg-type]
                except trivium.RequestRefused as refused:
                    if refused.code != trivium.ErrorCode.MESSAGE_ENDED:
                        raise
                    self._journal.say("half", value, "-")  # its answer was lost, and others were asked since
                    continue
                self._journal.say("half", value, half.message_id)
                self._journal.say("said", value, now_ms())
                if is_committed(value):
                    half.commit()
                else:
                    half.roll_back()


def main() -> None:
    life, address, directory, *topics = sys.argv[1:]
    Process(address, Path(directory), life, Topics(*topics)).run()


if __name__ == "__main__":
    main()
