"""Bad input against the MQTT listeners of a real broker: memory stays bounded, a device beside it is not disturbed.

The long run is `python -m interop.fuzz_mqtt`, which also has what waits for time: half-open connections.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interop.brokers import Trivium
from interop.fuzz_mqtt import MqttWitness
from interop.fuzz_mqtt_attacks import MQTT_ATTACKS, Addresses
from interop.fuzz_outcomes import MIB
from interop.fuzz_run import PeakMemory

SCALE = 0.05
GROWTH_BYTES_MAX = 200 * MIB


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trivium]:
    with Trivium(tmp_path_factory.mktemp("broker")) as running:
        running.start()
        yield running


@pytest.mark.parametrize("name", sorted(set(MQTT_ATTACKS) - {"half-open"}))
def test_an_attack_ends_nothing_but_itself(broker: Trivium, name: str) -> None:
    at = Addresses(("127.0.0.1", broker.mqtt_port), ("127.0.0.1", broker.websocket_port))
    witness = MqttWitness(at)
    witness.start()
    with PeakMemory(broker.rss_anon_bytes) as memory:
        MQTT_ATTACKS[name](at, SCALE)
    broker.check()
    witness.finish()
    assert memory.peak_bytes - memory.before_bytes < GROWTH_BYTES_MAX
    log = broker.log_file.read_text()
    assert "Traceback" not in log, log[-3000:]
