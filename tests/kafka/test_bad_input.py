"""Attacks over sockets on a broker process: it answers or closes, its memory stays bounded, nobody else is disturbed,
and nothing acknowledged is lost. The long run is `python -m interop.fuzz`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.protocols.kafka.api_versions import ApiKey
from gateway.protocols.kafka.messages import MetadataRequest
from interop.brokers import Trivium
from interop.fuzz_kafka_attacks import KAFKA_ATTACKS
from interop.fuzz_kafka_client import Client
from interop.fuzz_kafka_witness import KafkaWitness
from interop.fuzz_outcomes import MIB, Address
from interop.fuzz_run import PeakMemory

# what requests and answers may hold (below), two conversions, the ring of recent batches, and the allocator's share
RISE_BYTES_MAX = 700 * MIB
SCALE = 0.05
LIMITS = f"""
[limits]
request_memory_bytes_max = {128 * MIB}
response_memory_bytes_max = {128 * MIB}
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trivium]:
    folder: Path = tmp_path_factory.mktemp("bad-input")
    with Trivium(folder, config=LIMITS) as running:
        yield running.start()
        assert "connection failed" not in running.log_file.read_text()


@pytest.fixture(scope="module")
def address(broker: Trivium) -> Address:
    return ("127.0.0.1", broker.port)


@pytest.mark.parametrize("name", KAFKA_ATTACKS)
def test_an_attack_disturbs_nobody_and_takes_bounded_memory(broker: Trivium, address: Address, name: str) -> None:
    witness = KafkaWitness(address)
    witness.start()
    with PeakMemory(broker.rss_anon_bytes) as memory:
        KAFKA_ATTACKS[name](address, SCALE)
    broker.check()
    witness.finish()
    assert memory.peak_bytes - memory.before_bytes < RISE_BYTES_MAX


def test_a_closed_connection_is_logged_with_peer_and_reason(broker: Trivium, address: Address) -> None:
    with Client(address) as client:
        peer = "{}:{}".format(*client.socket.getsockname())
        client.socket.sendall(b"\xff\xff\xff\xff")
        assert client.closed_by_peer()
    with Client(address) as client:
        client.call(ApiKey.METADATA, 9, MetadataRequest(topics=None))
    lines = [line for line in broker.log_file.read_text().splitlines() if peer in line]
    assert len(lines) == 1
    assert "frame of -1 bytes" in lines[0]
