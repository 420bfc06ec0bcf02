"""Bad input against the MQTT listeners of a real broker: memory stays bounded, a device beside it is not disturbed.

The long run is `python -m interop.fuzz_mqtt`, which also has what waits for time: half-open connections.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interop.brokers import Trivium
from interop.fuzz_mqtt import Witness
from interop.fuzz_mqtt_attacks import ATTACKS, MIB, Addresses
from interop.fuzz_witness import PeakMemory

SCALE = 0.05
GROWTH_BYTES_MAX = 200 * MIB


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trivium]:
    with Trivium(tmp_path_factory.mktemp("broker")) as running:
        running.start()
        yield running


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"half-open"}))
def test_an_attack_ends_nothing_but_itself(broker: Trivium, name: str) -> None:
    at = Addresses(("127.0.0.1", broker.mqtt_port), ("127.0.0.1", broker.websocket_port))
    witness = Witness(at)
    witness.start()
    with PeakMemory(broker.rss_anon_bytes) as memory:
        ATTACKS[name](at, SCALE)
    broker.check()
    witness.finish()
    assert memory.peak_bytes - memory.before_bytes < GROWTH_BYTES_MAX
    log = broker.log_file.read_text()
    assert "Traceback" not in log, log[-3000:]
