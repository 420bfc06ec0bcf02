"""kill -9 under MQTT and Kafka clients in one broker: `python -m interop.crash.mqtt --rounds N`.

Beside a Kafka producer and a Kafka group: devices that publish at QoS 1 and 2, some of it retained, wills of clients
that are cut, a durable subscriber at QoS 2 of everything (what Kafka clients produce too), a shared subscription with
members that leave without having acknowledged anything, one at QoS 2. After each round, with all at rest, everything is
held against the log as Kafka reads it. Wills that a kill delayed are looked for at the end of a generation, after the
broker's grace for clients that come back.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic

from interop.brokers import Broker, Trivium
from interop.crash import device_checks as checks
from interop.crash.devices import Client, DevicePublisher, Leaver, WillClients
from interop.crash.load import CLIENT, PARTITIONS, GroupReader, IdempotentProducer, read_all
from interop.crash.rounds import Run, arguments, crash

LOAD_S_MAX = 1.2
RECOVERING_S_MAX = 0.8
CATCH_UP_S = 300.0
WILL_GRACE_S = 2  # that the broker is told to give clients to come back in
WILLS_S_MAX = 20.0
CONFIG = f"[groups]\ninitial_rebalance_delay_ms = 0\n[mqtt]\nwill_grace_s = {WILL_GRACE_S}\n"


class MqttRun(Run):
    """Kafka clients and devices."""

    generation_rounds = 12

    def __init__(self, broker: Broker, seed: int) -> None:
        assert isinstance(broker, Trivium)
        super().__init__(broker, seed)
        self.topic = ""
        self._generation = 0
        kafka, mqtt = broker.bootstrap, f"127.0.0.1:{broker.mqtt_port}"
        self.mqtt = mqtt
        self.qos1 = DevicePublisher("qos1", mqtt, self.ledger, 1, 4)
        self.qos2 = DevicePublisher("qos2", mqtt, self.ledger, 2, 5)
        self.keeper = DevicePublisher("keeper", mqtt, self.ledger, 2, 4, retain=True)
        self.wills = WillClients("wills", mqtt, self.ledger)
        producer = IdempotentProducer("plain", kafka, self.ledger)
        self.devices: list[DevicePublisher] = [self.qos1, self.qos2, self.keeper]
        self.workers = [*self.devices, self.wills, producer, GroupReader("reader", kafka, self.ledger)]
        self.whole = Client("whole", mqtt, self.ledger)
        self.members = [Client(f"member-{number}", mqtt, self.ledger, version=4 + number) for number in range(2)]
        self.once = [Client(f"once-{number}", mqtt, self.ledger, version=4 + number) for number in range(2)]
        self.shared = [(member, "$share/crash/", 1) for member in self.members]
        self.shared += [(member, "$share/once/", 2) for member in self.once]
        for worker in self.workers:
            worker.start()

    # -- topics

    def new_generation(self) -> None:
        if self.topic:
            self._check_wills()
        self._generation += 1
        admin = AdminClient({**CLIENT, "bootstrap.servers": self.broker.bootstrap})
        if self.topic:
            self.whole.until_answered(lambda: self.whole.paho.unsubscribe(f"{self.topic}/#"))
            for member, group, _ in self.shared:
                filter_ = f"{group}{self.topic}/#"
                member.until_answered(lambda member=member, filter_=filter_: member.paho.unsubscribe(filter_))
            for future in admin.delete_topics([self.topic]).values():
                future.result(20)
        self.topic = f"crash-devices-{self._generation}"
        for future in admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)]).values():
            future.result(20)
        self.whole.received.clear()
        self.whole.until_answered(lambda: self.whole.paho.subscribe(f"{self.topic}/#", 2))
        for member, group, qos in self.shared:
            member.received.clear()
            asked = [(f"{group}{self.topic}/#", qos)]
            member.until_answered(lambda member=member, asked=asked: member.paho.subscribe(asked))
        for device in self.devices:
            device.sent = {}
        self.wills.owed = []
        self.ledger.forget()
        self.resume()
        self.pause()
        self.check()

    # -- a round

    def resume(self) -> None:
        for worker in self.workers:
            worker.resume(self.topic)

    def round(self) -> None:
        leavers = [
            Leaver(f"leaver-{durable}", self.mqtt, f"$share/crash/{self.topic}/#", durable=durable)
            for durable in (False, True)
            if self.random.random() < 0.7
        ]
        self.resume()
        time.sleep(self.random.uniform(0.05, LOAD_S_MAX))
        for leaver in leavers:
            if self.random.random() < 0.5:
                leaver.cut()
        time.sleep(self.random.uniform(0.0, 0.1))
        self.kill_and_restart(RECOVERING_S_MAX)
        time.sleep(self.random.uniform(0.0, 0.3))
        self.pause()
        for leaver in leavers:
            leaver.cut()
            leaver.end()
        self.check()

    def finish(self) -> None:
        self._check_wills()

    def counts(self) -> str:
        published = sum(len(one) for device in self.devices for one in device.sent.values())
        return f"{published} published by devices, {len(self.whole.received)} received, {len(self.wills.owed)} wills"

    # -- checks

    def log(self) -> checks.Names:
        """The topic as Kafka reads it, by MQTT name."""
        names: checks.Names = defaultdict(list)
        records = read_all(self.broker.bootstrap, self.topic, "read_uncommitted")
        self.ledger.check_places(self.topic, records)
        for record in records:
            names[f"{self.topic}/{record.key}"].append(record.value.encode())
        return dict(names)

    def check(self) -> None:
        """Everything that holds at once, all workers at rest."""
        # Wills that a kill delayed may come at any time.
        log = {name: payloads for name, payloads in self.log().items() if "/wills/" not in name}
        once = {name for name in log if "/qos1/" not in name}
        self._eventually(
            lambda: {name: found for name, found in self._received(self.whole).items() if name in log},
            lambda found: checks.check_received(found, log, once),
        )
        self._eventually(
            lambda: [self._received(member) for member in self.members],
            lambda found: checks.check_shared(found, log),
        )
        self._eventually(
            lambda: [self._received(member) for member in self.once],
            lambda found: checks.check_shared_once(found, log, once),
        )
        violated = checks.check_published(self.qos1.sent, log, once=False)
        violated += checks.check_published(self.qos2.sent, log, once=True)
        violated += checks.check_published(self.keeper.sent, log, once=True)
        violated += checks.check_retained(self._retained(), {n: p for n, p in log.items() if "/keeper/" in n})
        for what in violated:
            self.ledger.violate(what)

    def _check_wills(self) -> None:
        """After the grace."""
        deadline = time.monotonic() + WILLS_S_MAX
        while checks.check_wills(self.wills.owed, self.log()) and time.monotonic() < deadline:
            time.sleep(0.5)
        for what in checks.check_wills(self.wills.owed, self.log()):
            self.ledger.violate(what)

    def _received(self, client: Client) -> checks.Names:
        names: checks.Names = defaultdict(list)
        for name, payload in list(client.received):
            names[name].append(payload)
        return dict(names)

    def _eventually(self, read: Callable[[], Any], check: Callable[[Any], list[str]]) -> None:
        """Deliveries take their time: what is still violated after CATCH_UP_S is."""
        deadline = time.monotonic() + CATCH_UP_S
        while (violated := check(read())) and time.monotonic() < deadline:
            time.sleep(0.02)
        for what in violated:
            self.ledger.violate(what)

    def _retained(self) -> dict[str, bytes]:
        wanted = len(self.keeper.sent)
        client = Client("retained", self.mqtt, self.ledger, clean=True)
        client.until_answered(lambda: client.paho.subscribe(f"{self.topic}/keeper/#", 1))
        deadline = time.monotonic() + CATCH_UP_S
        while len(client.received) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        client.end()
        return dict(client.received)

    def end(self) -> None:
        super().end()
        for client in (self.whole, *self.members, *self.once, *(device.client for device in self.devices)):
            client.paho.loop_stop()


def main() -> int:
    options = arguments((__doc__ or "").splitlines()[0], rounds=6).parse_args()
    return crash(
        options,
        lambda directory: Trivium(directory, flush=options.flush, config=CONFIG),
        MqttRun,
        "nothing acknowledged was lost, QoS 2 came once, in order",
    )


if __name__ == "__main__":
    sys.exit(main())
