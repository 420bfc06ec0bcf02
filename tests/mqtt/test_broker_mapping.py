"""Mapping rules with the whole broker: both ways with Kafka clients, and changed while a session is away."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from conf.load import load
from gateway.cli import main
from gateway.core_settings import mqtt_settings
from tests.mqtt.child import WAIT_S, Device, child_broker

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its import uses what Python deprecates
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kafka")
RULES = """
[mqtt]
rules = [
    { filter = "fleet/+/telemetry/#", topic = "telemetry", key = "{1}/{#}" },
    { filter = "plant/+/temp", topic = "temps", key = "{1}" },
]
"""


def _config(folder: Path, text: str) -> list[str]:
    (folder / "trivium.toml").write_text(text)
    return ["--config", str(folder / "trivium.toml")]


def _records(bootstrap: str, topic: str, count: int) -> list[tuple[bytes | None, bytes]]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    found: list[tuple[bytes | None, bytes]] = []
    while len(found) < count:
        for records in consumer.poll(5000).values():
            found += [(record.key, record.value) for record in records]
    consumer.close()
    return found


def test_rules_hold_both_ways(tmp_path: Path) -> None:
    with child_broker(tmp_path, *_config(tmp_path, RULES)) as broker:
        device = Device(broker.mqtt)
        device.subscribe("fleet/+/telemetry/cpu/#", 1)
        device.publish("fleet/car7/telemetry/cpu/0", b"device", retain=True)
        device.publish("fleet/car7/other", b"no rule", 1)
        producer = KafkaProducer(bootstrap_servers=broker.kafka)
        producer.send("telemetry", key=b"car8/cpu/1", value=b"kafka").get(WAIT_S)
        producer.close()
        messages = [device.get() for _ in range(2)]
        assert [(m.topic, m.payload) for m in messages] == [
            ("fleet/car7/telemetry/cpu/0", b"device"),
            ("fleet/car8/telemetry/cpu/1", b"kafka"),
        ]
        assert _records(broker.kafka, "telemetry", 2)[0] == (b"car7/cpu/0", b"device")
        assert _records(broker.kafka, "fleet", 1) == [(b"car7/other", b"no rule")]
        device.subscribe("fleet/car7/telemetry/#", 0)
        retained = device.get()
        assert (retained.topic, retained.payload, retained.retain) == ("fleet/car7/telemetry/cpu/0", b"device", True)
        device.close()


def test_a_name_changes_its_mapping_from_a_position_on(tmp_path: Path) -> None:
    with child_broker(tmp_path, *_config(tmp_path, "")) as broker:
        for client_id, filter_ in (("plus", "plant/+/temp"), ("exact", "plant/line1/temp"), ("all", "#")):
            session = Device(broker.mqtt, client_id, clean=False)
            session.subscribe(filter_, 1)
            session.close()
        publisher = Device(broker.mqtt)
        publisher.publish("temps/line1", b"another")
        publisher.publish("plant/line1/temp", b"before")
        publisher.close()
        broker.kill()
        _config(tmp_path, RULES)
        broker.start()
        publisher = Device(broker.mqtt)
        publisher.publish("plant/line1/temp", b"after")
        publisher.close()
        assert _records(broker.kafka, "plant", 1) == [(b"line1/temp", b"before")]
        assert _records(broker.kafka, "temps", 2) == [(b"line1", b"another"), (b"line1", b"after")]
        ours = {("plant/line1/temp", b"before"), ("plant/line1/temp", b"after")}
        for client_id, expected in (("plus", ours), ("exact", ours), ("all", {*ours, ("temps/line1", b"another")})):
            session = Device(broker.mqtt, client_id, clean=False)
            assert session.session_present
            came = [(m.topic, m.payload) for m in [session.get() for _ in expected]]
            assert set(came) == expected
            # Also across the change: the topic of what came after was made before the other.
            assert [payload for topic, payload in came if topic == "plant/line1/temp"] == [b"before", b"after"]
            session.close()


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ('[{ filter = "a/+", topic = "t", key = "x" }]', "every wildcard"),
        (
            '[{ filter = "a/+", topic = "t", key = "{1}" }, { filter = "+/b", topic = "u", key = "{1}" }]',
            "the same name",
        ),
        (
            '[{ filter = "a/+", topic = "t", key = "{1}" }, { filter = "b/+", topic = "t", key = "{1}" }]',
            "the same key",
        ),
        ('[{ filter = "a/+", topic = "not legal", key = "{1}" }]', "no legal topic"),
        ('[{ filter = "a/+", topic = "__trivium_sessions", key = "{1}" }]', "broker's own"),
    ],
)
def test_rules_that_cannot_be_undone_stop_the_start(tmp_path: Path, rules: str, reason: str) -> None:
    file = tmp_path / "trivium.toml"
    file.write_text(f"[mqtt]\nrules = {rules}\n")
    with pytest.raises(ValueError, match=reason):
        mqtt_settings(load(file, {}))
    done = CliRunner().invoke(main, ["serve", "--data-dir", str(tmp_path / "data"), "--config", str(file)])
    assert done.exit_code == 2
    assert not (tmp_path / "data").exists()
