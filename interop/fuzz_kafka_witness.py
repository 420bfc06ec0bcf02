"""A well-behaved Kafka client beside the attacks: what it was acknowledged must be there in the end."""

from __future__ import annotations

import time

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.errors import ErrorCode
from interop.fuzz_kafka_client import Client, create_topic, fetch_request, produce
from interop.fuzz_outcomes import MIB, Address
from interop.fuzz_run import Witness
from trivium.record_batch import iter_batches
from trivium.records import Record, build, decode

TOPIC = "witness"


class KafkaWitness(Witness):
    """Produces one record after the other with acks=all; in the end all are read back."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        create_topic(address, TOPIC)
        self._address = address
        self.acknowledged: list[int] = []  # the offset of record n

    def _serve(self) -> None:
        with Client(self._address) as client:
            self._go_on(lambda: self._produce(client))

    def _produce(self, client: Client) -> None:
        value = str(len(self.acknowledged)).encode()
        answer = produce(client, TOPIC, build([Record(0, time.time_ns() // 1_000_000, None, value, [])]))
        assert answer.error_code == ErrorCode.NONE, answer
        self.acknowledged.append(answer.base_offset)

    def finish(self) -> None:
        super().finish()
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
