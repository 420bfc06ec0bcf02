"""A well-behaved client beside the attacks: what it was acknowledged must be there in the end, and it must be served
all the time. And the memory of a process, sampled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from interop.fuzz_attacks import MIB, Address, Client, create_topic, fetch_request, produce
from trivium.record_batch import iter_batches
from trivium.records import Record, build, decode

PAUSE_S = 0.005
TOPIC = "witness"


class Witness(threading.Thread):
    """Produces one record after the other with acks=all, on one connection that must never break."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        create_topic(address, TOPIC)
        self._address = address
        self._done = threading.Event()
        self.acknowledged: list[int] = []  # the offset of record n
        self.slowest_s = 0.0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with Client(self._address) as client:
                while True:  # once at least, also where the attack was over before this thread ran
                    began = time.monotonic()
                    value = str(len(self.acknowledged)).encode()
                    answer = produce(client, TOPIC, build([Record(0, time.time_ns() // 1_000_000, None, value, [])]))
                    assert answer.error_code == ErrorCode.NONE, answer
                    self.acknowledged.append(answer.base_offset)
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                    if self._done.wait(PAUSE_S):
                        break
        except Exception as error:  # told to the one who waits for this thread
            self.failure = error

    def take_slowest_s(self) -> float:
        slowest, self.slowest_s = self.slowest_s, 0.0
        return slowest

    def finish(self) -> None:
        """Ends it and reads everything back. Raises AssertionError."""
        self._done.set()
        self.join(60)
        assert self.failure is None, f"the well-behaved client failed: {self.failure!r}"
        assert not self.is_alive()
        assert self.acknowledged
        found: dict[int, bytes | None] = {}
        offset = self.acknowledged[0]
        with Client(self._address) as client:
            while offset <= self.acknowledged[-1]:
                answer = client.call(ApiKey.FETCH, 4, fetch_request(TOPIC, offset, bytes_max=MIB))
                part = answer.responses[0].partitions[0]
                assert part.error_code == ErrorCode.NONE, part
                assert part.records, f"nothing at {offset}"
                for header, batch in iter_batches(part.records):
                    found.update({record.offset: record.value for record in decode(batch, MIB)})
                    offset = header.next_offset
        assert found == {offset: str(n).encode() for n, offset in enumerate(self.acknowledged)}


class PeakMemory(threading.Thread):
    """Samples `read()` (bytes) until the end of the block; `peak_bytes` is the largest."""

    def __init__(self, read: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._read = read
        self._done = threading.Event()
        self.before_bytes = self.peak_bytes = read()

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._read())

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()
