"""One record, every road: what paho publishes kafka-python consumes, what Kafka's producers send paho gets.

Devices are MQTT 5 unless a test says otherwise. What must not come is proved absent by what comes behind it.
"""

from __future__ import annotations

import base64
import sys
import time
from typing import Any

from confluent_kafka import Producer
from harness import BOOTSTRAP, CODECS, WAIT_S, eventually, main, same, test, true, unique
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from mqtt_device import V5, V311, Device, Got, Options
from mqtt_scenarios import control, durable
from paho_client import PahoDevice

KINDS = ("kafka-python", "confluent-kafka")
Headers = list[tuple[str, bytes | None]]


def device(version: int = V5, **more: Any) -> Device:
    return PahoDevice(Options(unique("device"), version, **more))


def listener(*filters: str, qos: int = 2, version: int = V5, **more: Any) -> Device:
    made = device(version, **more)
    for filter_ in filters:
        same(made.subscribe(filter_, qos), qos, f"granted for {filter_}")
    return made


def new_topic(prefix: str, partitions: int = 1, **configs: str) -> str:
    name = unique(prefix)
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
    admin.close()
    return name


class Send:
    """A Kafka producer of either library behind one call; the partition follows the key as Java's client has it."""

    def __init__(self, kind: str, codec: str = "none", transactional_id: str = "") -> None:
        self.kind = kind
        extra: dict[str, Any] = {}
        if kind == "kafka-python":
            extra = {"compression_type": codec} if codec != "none" else {}
            extra |= {"transactional_id": transactional_id} if transactional_id else {}
            self._python = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=5, **extra)
        else:
            extra = {"transactional.id": transactional_id} if transactional_id else {}
            settings = {"bootstrap.servers": BOOTSTRAP, "log_level": 0, "partitioner": "murmur2_random", "linger.ms": 5}
            settings |= {"enable.idempotence": True, "broker.address.family": "v4", "compression.type": codec}
            self._confluent = Producer({**settings, **extra})
        if transactional_id:
            self.client.init_transactions()

    @property
    def client(self) -> Any:
        return self._python if self.kind == "kafka-python" else self._confluent

    def __call__(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> None:
        if self.kind == "kafka-python":
            self._python.send(topic, value, key, headers or [])
        else:
            self._confluent.produce(topic, value, key, headers=headers or [])
            self._confluent.poll(0)

    def flush(self) -> None:
        true(not self.client.flush(20), "not everything was sent in 20 s")

    def close(self) -> None:
        self.flush()
        if self.kind == "kafka-python":
            self._python.close()


def consume(topic: str, count: int, **settings: Any) -> list[Any]:
    """At least `count` records by partition and offset. Raises AssertionError after 20 s."""
    client = KafkaConsumer(bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest", **settings)
    # Internal topics are not listed, but can be read by name.
    internal = topic.startswith("__")
    partitions = {0} if internal else eventually(lambda: client.partitions_for_topic(topic), f"metadata of {topic}")
    client.assign([TopicPartition(topic, number) for number in sorted(partitions)])
    client.seek_to_beginning()
    records: list[Any] = []
    deadline = time.monotonic() + WAIT_S
    while len(records) < count:
        for batch in client.poll(timeout_ms=200).values():
            records += batch
        true(time.monotonic() < deadline, f"only {len(records)} of {count} records of {topic} after {WAIT_S:.0f} s")
    client.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def own(record: Any) -> Headers:
    """A record's headers without ours."""
    return [(name, value) for name, value in record.headers if not name.startswith("trivium.")]


def user(got: Got) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in got.properties.get("user", [])]


# -- from devices to Kafka ---------------------------------------------------------------------------------------------


@test("device-to-kafka-keys-order-headers")
def to_kafka() -> None:
    """Every kind of name, all qualities, over four partitions: key, value, headers, and the order of each key."""
    topic = new_topic("up", partitions=4)
    keys = {"": None, "/": b"", "/line3/temp": b"line3/temp", "//a": b"/a", "/ä/ü": "ä/ü".encode(), "/x/": b"x/"}
    publisher = device()
    sent: dict[bytes | None, list[tuple[bytes, Headers]]] = {key: [] for key in keys.values()}
    begun = []
    for number in range(20):
        for rest, key in keys.items():
            payload = b"%d" % number if number else b""
            pairs = [("n", str(number)), ("a", "1"), ("n", "again"), ("ü", "")]
            begun.append(publisher.publish_nowait(topic + rest, payload, number % 3, user=pairs))
            sent[key].append((payload, [(name, text.encode()) for name, text in pairs]))
    for one in begun:
        same(publisher.wait_published(one), 0, "answer")
    publisher.publish(f"{topic}/end", b"end", 1)  # QoS 0 is not answered: what is behind it is
    records = consume(topic, 20 * len(keys) + 1)
    for key in keys.values():
        found = [(record.value, own(record)) for record in records if record.key == key]
        same(found, sent[key], f"records of the key {key!r}")
        same(len({record.partition for record in records if record.key == key}), 1, "partitions of a key")
    publisher.disconnect()


@test("device-to-kafka-v3.1.1")
def to_kafka_3() -> None:
    topic = unique("up")  # made by the device
    publisher = device(V311)
    for number in range(30):
        publisher.publish(f"{topic}/a", b"%d" % number, number % 3)
    publisher.publish(f"{topic}/a", b"", 1)
    records = consume(topic, 31)
    same([record.key for record in records], [b"a"] * 31, "keys")
    same([record.value for record in records], [*[b"%d" % number for number in range(30)], b""], "values")
    same([dict(record.headers)["trivium.qos"] for record in records[:3]], [b"0", b"1", b"2"], "QoS")
    publisher.disconnect()


@test("device-to-kafka-properties")
def properties_to_kafka() -> None:
    topic = unique("up")
    publisher = device()
    publisher.publish(
        f"{topic}/a",
        b"x",
        2,
        retain=True,
        content_type="application/json",
        response_topic="answers/here",
        correlation=b"\x00\xff",
        expiry=77,
        format=1,
    )
    wanted = {
        "trivium.qos": b"2",
        "trivium.retain": b"1",
        "trivium.content-type": b"application/json",
        "trivium.response-topic": b"answers/here",
        "trivium.correlation-data": b"\x00\xff",
        "trivium.expiry-s": b"77",
        "trivium.payload-format": b"1",
    }
    same(dict(consume(topic, 1)[0].headers), wanted, "headers")
    publisher.disconnect()


@test("device-names-that-are-no-topic")
def catch_all() -> None:
    """A first level that is no topic name: the catch-all topic, the whole name as key."""
    tail = unique("name")
    watcher = listener("#")
    publisher = device()
    names = [f"/sys/{tail}", f"größe/{tail}", f"with space/{tail}", f"$other/{tail}"]
    for name in names:
        publisher.publish(name, name.encode(), 1)
    publisher.publish(f"end/{tail}", b"end", 1)
    found = eventually(
        lambda: [r for r in consume("mqtt.other", 1) if (r.key or b"").endswith(tail.encode())][3:] and True,
        "four records",
    )
    true(found, "records")
    records = [record for record in consume("mqtt.other", 4) if (record.key or b"").endswith(tail.encode())]
    same(sorted(record.key for record in records), sorted(name.encode() for name in names), "keys")
    eventually(lambda: b"end" in watcher.payloads(), "the last message")
    seen = [got.topic for got in watcher.messages if got.topic.endswith(tail)]
    same(seen, [name for name in names if name[0] != "$"] + [f"end/{tail}"], "names at a subscriber of #")
    watcher.disconnect()
    publisher.disconnect()


# -- from Kafka to devices ---------------------------------------------------------------------------------------------


def from_kafka(kind: str, codec: str) -> None:
    """Exact, + and # subscribers at each granted QoS get every record, in the order of its key."""
    topic = new_topic("down", partitions=3)
    exact = [listener(f"{topic}/a/0", qos=qos) for qos in range(3)]
    plus, hash_, old = listener(f"{topic}/+/1", qos=1), listener(f"{topic}/#", qos=2), listener("+/a/#", version=V311)
    send = Send(kind, codec)
    for number in range(60):
        send(topic, b"a/%d" % (number % 3), b"%d " % number * 50, [("n", b"%d" % number)])
    send.close()
    values = [b"%d " % number * 50 for number in range(60)]
    for qos, one in enumerate(exact):
        same([got.payload for got in one.wait(20)], values[::3], f"exact, QoS {qos}")
        same({got.qos for got in one.messages}, {qos}, "granted QoS")
        same([user(got) for got in one.messages], [[("n", str(n))] for n in range(0, 60, 3)], "headers")
    same([(got.payload, got.qos) for got in plus.wait(20)], [(value, 1) for value in values[1::3]], "+")
    for one in (hash_, old):
        eventually(lambda one=one: len([g for g in one.messages if g.topic.startswith(topic)]) >= 60, "60 messages")
        for key in range(3):
            found = [got.payload for got in one.messages if got.topic == f"{topic}/a/{key}"]
            same(found, values[key::3], f"{topic}/a/{key} of all")
    for one in (*exact, plus, hash_, old):
        one.disconnect()


for _kind in KINDS:
    for _codec in CODECS:
        test(f"kafka-to-device-{_kind}-{_codec}", _kind, _codec)(from_kafka)


@test("kafka-to-device-qos-and-properties")
def properties_from_kafka() -> None:
    topic = new_topic("down")
    watcher = listener(f"{topic}/#")
    send = Send("confluent-kafka")
    for qos in (b"0", b"1", b"2"):
        send(topic, b"a", b"x", [("trivium.qos", qos)])
    headers: Headers = [
        ("trivium.content-type", b"text/plain"),
        ("trivium.response-topic", b"answers/here"),
        ("trivium.correlation-data", b"\x00\xff"),
        ("trivium.expiry-s", b"100"),
        ("trivium.payload-format", b"1"),
        ("trivium.nonsense", b"hidden"),
        ("plain", "ä".encode()),
        ("plain", b"again"),
        ("binary", b"\xff\x00"),
        ("none", None),
        ("empty", b""),
    ]
    send(topic, b"b", b"y", headers)
    send(topic, b"b", b"bad", [("trivium.qos", b"9"), ("trivium.expiry-s", b"-"), ("trivium.response-topic", b"a/#")])
    send.close()
    watcher.wait(5)
    same([got.qos for got in watcher.messages if got.topic.endswith("/a") and got.qos != 2], [0, 1], "QoS")
    full = next(got for got in watcher.messages if got.payload == b"y")
    found = dict(full.properties)
    true(95 <= found.pop("expiry") <= 100, "expiry")
    wanted = [
        ("plain", "ä"),
        ("plain", "again"),
        ("trivium.base64.binary", base64.b64encode(b"\xff\x00").decode()),
        ("trivium.null.none", ""),
        ("empty", ""),
    ]
    same([tuple(pair) for pair in found.pop("user")], wanted, "user properties")
    same(
        found,
        {"content_type": "text/plain", "response_topic": "answers/here", "correlation": b"\x00\xff", "format": 1},
        "properties",
    )
    bad = next(got for got in watcher.messages if got.payload == b"bad")
    same((bad.qos, bad.properties), (2, {}), "what cannot be read is left out")
    # And back: a device that passes the user properties on gives Kafka the same headers again.
    watcher.publish(f"{topic}/c", b"z", 1, user=wanted)
    record = next(record for record in consume(topic, 6) if record.key == b"c")
    same(own(record), [pair for pair in headers if not pair[0].startswith("trivium.")], "headers on the way back")
    watcher.disconnect()


@test("kafka-to-device-odd-keys-and-null-values")
def odd_keys() -> None:
    topic = new_topic("odd")
    filters = (topic, f"{topic}/#", f"{topic}/+")
    watchers = {filter_: listener(filter_) for filter_ in filters}
    keys: list[bytes | None] = [None, b"", b"/a", b"a", b"a\x00b", b"\xff\xfe", b"a/+", b"#", b"k" * 66_000, b"$x"]
    send = Send("kafka-python")
    for number, key in enumerate(keys):
        send(topic, key, b"%d" % number)
    send(topic, b"null", None)
    send(topic, b"end", b"")
    send.close()
    texts = {4: ("trivium.key-base64", b"a\x00b"), 5: ("trivium.key-base64", b"\xff\xfe"), 6: ("trivium.key", b"a/+")}
    texts |= {7: ("trivium.key", b"#"), 8: ("trivium.key-base64", b"k" * 66_000)}
    names = {0: topic, 1: f"{topic}/", 2: f"{topic}//a", 3: f"{topic}/a", 9: f"{topic}/$x"}
    everything = watchers[f"{topic}/#"]
    everything.wait(12)
    for number in range(len(keys)):
        got = everything.messages[number]
        same(got.topic, names.get(number, topic), f"name of key {keys[number]!r:.30}")
        if number in texts:
            name, raw = texts[number]
            found = dict(user(got))
            if name == "trivium.key-base64":
                true(raw.startswith(base64.b64decode(found[name])), "key in base64, cut where it is too long")
            else:
                same(found, {name: raw.decode()}, "key in a property")
    null, end = everything.messages[10:12]
    same((null.payload, user(null)), (b"", [("trivium.null-value", "")]), "a null value")
    same((end.payload, user(end)), (b"", []), "an empty value")
    bare = [topic if number in (0, *texts) else None for number in range(10)].count(topic)
    eventually(lambda: len(watchers[topic].messages) >= bare, "messages of the bare topic")
    same([got.payload for got in watchers[topic].messages], [b"0", b"4", b"5", b"6", b"7", b"8"], "the bare topic")
    plus = watchers[f"{topic}/+"]
    eventually(lambda: plus.payloads()[-1:] == [b""] and len(plus.messages) >= 5, "messages of +")
    same([got.payload for got in plus.messages], [b"1", b"3", b"9", b"", b""], "one level")
    for one in watchers.values():
        one.disconnect()


# -- transactions ------------------------------------------------------------------------------------------------------


def transactions(kind: str) -> None:
    """Aborted records never reach a device, open ones not before the commit; order of the key is the log's."""
    topic, other = new_topic("tx", partitions=2), new_topic("other")
    live, client_id = listener(f"{topic}/#", f"{other}/#"), unique("device")
    offline = PahoDevice(durable(V5, client_id, clean=True))
    offline.subscribe(f"{topic}/#", 2)
    offline.disconnect()
    send, plain = Send(kind, "lz4", transactional_id=unique("tx")), Send(kind)
    for round_ in range(4):
        send.client.begin_transaction()
        for number in range(10):
            send(topic, b"a", b"%d-%d" % (round_, number))
        send.flush()
        plain(topic, b"a", b"plain-%d" % round_)  # behind an open transaction
        plain(other, b"s", b"sentinel-%d" % round_)
        plain.flush()
        eventually(lambda n=round_: b"sentinel-%d" % n in live.payloads(), "the other topic is not held up")
        true(not any(b"%d-" % round_ == payload[:2] for payload in live.payloads()), "an open transaction was shown")
        true(b"plain-%d" % round_ not in live.payloads(), "a record behind an open transaction was shown")
        if round_ % 2:
            send.client.abort_transaction()
        else:
            send.client.commit_transaction()
    wanted = [b"%d-%d" % (round_, number) for round_ in (0, 2) for number in range(10)]
    wanted = [*wanted[:10], b"plain-0", b"plain-1", *wanted[10:], b"plain-2", b"plain-3"]

    def seen(one: Device) -> list[bytes]:
        return [got.payload for got in one.messages if got.topic == f"{topic}/a"]

    eventually(lambda: b"plain-3" in seen(live), "the last record")
    same(seen(live), wanted, "what a live device got")
    back = PahoDevice(durable(V5, client_id))
    eventually(lambda: b"plain-3" in seen(back), "the last record, from the log")
    same(seen(back), wanted, "what a device got that came back")
    live.disconnect()
    back.disconnect()
    send.close()
    plain.close()


for _kind in KINDS:
    test(f"transactions-{_kind}", _kind)(transactions)


# -- order, restarts, retained -----------------------------------------------------------------------------------------


@test("order-through-kills-and-reconnections")
def order() -> None:
    """Kafka and MQTT publishers, one durable device, three lives of the broker: each name whole, in order, once."""
    topic, client_id = new_topic("order", partitions=3), unique("device")
    PahoDevice(durable(V5, client_id, clean=True)).disconnect()
    reader = PahoDevice(durable(V5, client_id))
    reader.subscribe(f"{topic}/#", 2)
    for life in range(3):
        if life:
            reader.reopen()
        send, publisher = Send("confluent-kafka"), device()
        for number in range(life * 100, life * 100 + 100):
            send(topic, b"k/%d" % (number % 2), b"%d" % number)
            publisher.publish(f"{topic}/m/{number % 2}", b"%d" % number, 2)
        send.close()
        publisher.disconnect()
        if life == 0:
            reader.drop()  # somewhere in the middle
        if life < 2:
            control("kill")
    reader.wait(600)
    for name in ("k/0", "k/1", "m/0", "m/1"):
        found = [int(got.payload) for got in reader.messages if got.topic == f"{topic}/{name}"]
        same(found, list(range(int(name[2]), 300, 2)), name)
    reader.disconnect()


@test("retained-is-a-compacted-topic")
def retained() -> None:
    """What is retained can be read by a Kafka consumer: the newest per name, deleted ones as null."""
    topic = unique("kept")
    publisher = device()
    for number in range(3):
        publisher.publish(f"{topic}/a", b"%d" % number, 1, retain=True, content_type="t/p", user=[("n", str(number))])
    publisher.publish(f"{topic}/a", b"not retained", 1)
    publisher.publish(f"{topic}/b", b"x", 1, retain=True)
    publisher.publish(f"{topic}/b", b"", 1, retain=True)
    newest: dict[bytes, Any] = {}
    for record in consume("__trivium_retained", 5):
        newest[record.key] = record
    kept = newest[f"{topic}/a".encode()]
    same(kept.value, b"2", "the retained message")
    same(dict(kept.headers)["trivium.content-type"], b"t/p", "its content type")
    same(own(kept), [("n", b"2")], "its user properties")
    same(newest[f"{topic}/b".encode()].value, None, "a deleted one")
    publisher.disconnect()


@test("request-and-response-over-both")
def request_response() -> None:
    """A device asks, a Kafka client answers to the response topic with the correlation data."""
    topic, answers = new_topic("ask"), new_topic("answers")
    asking = listener(f"{answers}/me")
    asking.publish(f"{topic}/q", b"2+2", 1, response_topic=f"{answers}/me", correlation=b"\x01\x02")
    record = consume(topic, 1)[0]
    headers = dict(record.headers)
    to, _, key = headers["trivium.response-topic"].decode().partition("/")
    send = Send("kafka-python")
    send(to, key.encode(), b"4", [("trivium.correlation-data", headers["trivium.correlation-data"])])
    send.close()
    got = asking.wait(1)[0]
    same((got.payload, got.properties["correlation"]), (b"4", b"\x01\x02"), "the answer")
    asking.disconnect()


if __name__ == "__main__":
    sys.exit(main())
