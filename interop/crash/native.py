"""kill -9 under everything that the native protocol offers: `python -m interop.crash.native --rounds N`.

Producers on asyncio, trio and in scripts; ids that are stored once, sent by many; messages that are scheduled for about
the moment of the kill and cancelled then; half messages; queue groups, ordered or not; readers; copies in transactions;
resets that are followed by a kill; devices that publish with `deliver-at`. Consumers, copiers and producers of half
messages are processes, which are killed too. With `--disk-mb` the data lies on a small disk that is full now and then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import trivium
import trivium.blocking
from interop.brokers import Broker, Trivium, _die_with_parent
from interop.crash import device_checks
from interop.crash.devices import Client, DevicePublisher
from interop.crash.load import PARTITIONS, Worker, WorkerError, read_all
from interop.crash.native_disk import SMALL, SmallDisk
from interop.crash.native_rest import GROUPS, AtRest
from interop.crash.native_roles import ATTEMPTS_MAX, Journal, Topics, now_ms
from interop.crash.native_workers import (
    FOR_EVER_S,
    BlockingSender,
    KafkaSender,
    OnceSender,
    Scheduler,
    Sender,
    Told,
)
from interop.crash.rounds import Run, arguments, crash
from trivium.record_batch import Codec

LOAD_S_MAX = 1.2
RECOVERING_S_MAX = 1.0
PROCESS_KILLED_SHARE = 0.6  # of rounds
RESET_SHARE = 0.5
CATCH_UP_S = 60.0
FULL_SHARE = 0.4
CONFIG = "[groups]\ninitial_rebalance_delay_ms = 0\n"


class DelayedDevice(DevicePublisher):
    """Publishes with `deliver-at`, about when the broker is to be killed."""

    aim_ms = 0

    def properties(self) -> Properties:
        due_ms = (self.aim_ms if self.aim_ms > now_ms() else now_ms() + 30) + self._number % 15
        found = Properties(PacketTypes.PUBLISH)
        found.UserProperty = [("deliver-at", str(due_ms))]
        return found


class NativeRun(Run):
    """See the module."""

    generation_rounds = 10

    def __init__(self, broker: Broker, seed: int, disk: SmallDisk | None = None) -> None:
        assert isinstance(broker, Trivium)
        super().__init__(broker, seed)
        self.native = f"127.0.0.1:{broker.native_port}"
        mqtt = f"127.0.0.1:{broker.mqtt_port}"
        self.disk = disk
        self.told = Told()
        self.messages = self.raced = self.process_kills = self.resets = self.full = 0
        self._generation = 0
        self._processes: list[subprocess.Popen[bytes] | None] = [None, None, None]
        self._lives = 0
        self._opened = trivium.blocking.connect(self.native, request_timeout_s=FOR_EVER_S)
        self.client = self._opened.__enter__()
        at, told, ledger = self.native, self.told, self.ledger
        self.senders: list[Worker] = [
            Sender("asyncio", at, ledger, told, "asyncio", Codec.NONE),
            Sender("trio", at, ledger, told, "trio", Codec.LZ4),
            BlockingSender("script", at, ledger, told),
        ]
        self.once: list[Worker] = [
            OnceSender("once-asyncio", at, ledger, told, "asyncio"),
            OnceSender("once-trio", at, ledger, told, "trio"),
            KafkaSender("once-kafka", broker.bootstrap, ledger, told, delayed=False),
        ]
        self.later: list[Worker] = [
            Scheduler("later-asyncio", at, ledger, told, "asyncio"),
            Scheduler("later-trio", at, ledger, told, "trio"),
        ]
        self.kafka_later = KafkaSender("later-kafka", broker.bootstrap, ledger, told, delayed=True)
        self.devices = [
            DelayedDevice("device-1", mqtt, ledger, 1, 5),
            DelayedDevice("device-2", mqtt, ledger, 2, 5),
        ]
        for device in self.devices:
            device.client.may_be_refused = disk is not None
        self.whole = Client("whole", mqtt, self.ledger)
        self.rewound = Client("rewound", mqtt, self.ledger)
        self.rewound_from = 0
        self.workers = [*self.senders, *self.once, *self.later, self.kafka_later, *self.devices]
        for worker in self.workers:
            worker.start()

    # -- topics and processes

    def new_generation(self) -> None:
        for index in range(len(self._processes)):
            self._kill_process(index)
        if self._generation:
            for client in (self.whole, self.rewound):
                client.until_answered(lambda client=client: client.paho.unsubscribe(f"{self.device_topic}/#"))
            for group in GROUPS:
                self.client.delete_queue(group)
            for topic in [one.name for one in self.client.topics()]:
                if topic.startswith(("crash-", "dead-letters.")):
                    self.client.delete_topic(topic)
        self._generation += 1
        number = self._generation
        self.topics = Topics(*(f"crash-native-{what}-{number}" for what in ("plain", "copies", "halves")))
        self.once_topic, self.later_topic = f"crash-native-once-{number}", f"crash-native-later-{number}"
        self.device_topic, self.kafka_topic = f"crash-native-devices-{number}", f"crash-native-kafka-{number}"
        for topic in (*self.topics, self.later_topic, self.device_topic, self.kafka_topic):
            self.client.create_topic(topic, PARTITIONS)
        self.client.create_topic(self.once_topic, PARTITIONS, {"once.window.ms": "3600000", "once.ids.max": "100000"})
        for group in GROUPS:
            self.client.configure_queue(
                group, invisible_ms=5_000, attempts_max=ATTEMPTS_MAX, rejoin_ms=300, backoff_ms=[1, 5, 20]
            )
        self.directory = self.broker.directory.parent / f"{self.broker.directory.name}-lines-{number}"
        self.directory.mkdir()
        self.journal = Journal(self.directory)
        self.told.forget()
        self.ledger.forget()
        self.kafka_later.sent = set()
        for device in self.devices:
            device.sent, device.payloads = {}, {}
            device.client.refused_ids.clear()
        for client in (self.whole, self.rewound):
            client.received.clear()
        self.rewound_from = 0
        self.whole.until_answered(lambda: self.whole.paho.subscribe(f"{self.device_topic}/#", 2))
        self.rewound.until_answered(lambda: self.rewound.paho.subscribe(f"{self.device_topic}/#", 1))
        for index in range(len(self._processes)):
            self._start_process(index)
        self.resume()
        self.rest()

    def _start_process(self, index: int) -> None:
        self._lives += 1
        life = f"p{index}-{self._lives}"
        where = [self.native, str(self.directory), *self.topics]
        command = [sys.executable, "-m"]
        if index == 2:
            command += ["interop.crash.native_blocking", life, *where]
        else:
            command += ["interop.crash.native_process", ("asyncio", "trio")[index], life, str(index), *where]
        with (self.directory / "errors").open("ab") as errors:
            self._processes[index] = subprocess.Popen(command, stderr=errors, preexec_fn=_die_with_parent)

    def _kill_process(self, index: int) -> None:
        process = self._processes[index]
        if process is not None:
            process.kill()
            process.wait()
            self._processes[index] = None

    def check_processes(self) -> None:
        """Raises WorkerError if one has ended by itself."""
        for process in self._processes:
            if process is not None and process.poll() is not None:
                errors = (self.directory / "errors").read_text(errors="replace")
                raise WorkerError(f"a process ended with {process.returncode}:\n{errors[-4000:]}")

    # -- a round

    def resume(self) -> None:
        (self.directory / "rest").unlink(missing_ok=True)
        for workers, topic in (
            (self.senders, self.topics.plain),
            (self.once, self.once_topic),
            (self.later, self.later_topic),
            ([self.kafka_later], self.kafka_topic),
            (self.devices, self.device_topic),
        ):
            for worker in workers:
                worker.resume(topic)

    def round(self) -> None:
        aim_ms = now_ms() + int(1000 * self.random.uniform(0.15, LOAD_S_MAX))
        for worker in (*self.later, self.kafka_later, *self.devices):
            worker.aim_ms = aim_ms  # type: ignore[attr-defined]
        self.resume()
        victim = self.random.randrange(3) if self.random.random() < PROCESS_KILLED_SHARE else None
        if victim is not None:
            time.sleep(self.random.uniform(0, 0.1))
            self._kill_process(victim)
            self.process_kills += 1
        filled = self.disk is not None and self.random.random() < FULL_SHARE
        if filled and self.disk is not None:
            time.sleep(self.random.uniform(0.0, 0.2))
            self.disk.fill()
            self.full += 1
        time.sleep(max(0.0, aim_ms - now_ms() + self.random.uniform(-10, 10)) / 1000)
        resetting = None
        if not filled and self.random.random() < RESET_SHARE:
            resetting = threading.Thread(target=self._reset, args=(self.random.choice((0, 0, 3, 10)),))
            resetting.start()
            if self.random.random() < 0.7:
                resetting.join(20)
            else:
                time.sleep(self.random.uniform(0, 0.01))
        self.kill_and_restart(RECOVERING_S_MAX)
        if victim is not None:
            self._start_process(victim)
        if filled and self.disk is not None:
            time.sleep(self.random.uniform(0.0, 0.3))
            self.disk.free()
        if resetting is not None:
            resetting.join()
        time.sleep(self.random.uniform(0.0, 0.2))
        self.rest()

    def _reset(self, offset: int) -> None:
        """A queue group, a reader that keeps its place under a group's name, a session."""
        self.resets += 1
        for kind, name in (("queue", "moved"), ("group", "keepers")):
            self.journal.say("reset?", name)
            try:
                places = self.client.reset(name, offset=offset, topics=[self.topics.plain], kind=kind)  # type: ignore[arg-type]
            except trivium.RequestRefused as refused:
                self.ledger.violate(f"reset of {name}: {refused}")
                continue
            self.journal.say("reset", name, *(f"{part}:{at}" for (_, part), at in places.items()))
        before = len(self.rewound.received)
        self.client.reset("rewound", trivium.EARLIEST, topics=[self.device_topic], kind="session")
        self.rewound_from = before

    # -- checks

    def rest(self) -> None:
        """All workers at rest and all that waited at its end, then everything against what was told."""
        (self.directory / "rest").touch()
        self.pause()
        for message_id in self.told.unanswered():
            self.told.cancellation(message_id, self.client.cancel(message_id))
        at_rest = AtRest(
            self.client,
            self.broker.bootstrap,
            self.topics,
            self.once_topic,
            self.later_topic,
            self.directory,
            self.told,
            self.ledger,
            self.check_processes,
        )
        at_rest.wait()
        at_rest.check()
        self._check_kafka()
        self._check_devices()

    def _check_kafka(self) -> None:
        found = [one.value for one in read_all(self.broker.bootstrap, self.kafka_topic, "read_committed")]
        if sorted(found) != sorted(self.kafka_later.sent):
            odd = set(found) ^ self.kafka_later.sent
            self.ledger.violate(f"scheduled by Kafka: {len(found)} of {len(self.kafka_later.sent)}, {sorted(odd)[:5]}")

    def _check_devices(self) -> None:
        log: device_checks.Names = {}
        for record in read_all(self.broker.bootstrap, self.device_topic, "read_committed"):
            log.setdefault(f"{self.device_topic}/{record.key}", []).append(record.value.encode())
        for device in self.devices:
            refused = {device.payloads[packet_id] for packet_id in device.client.refused_ids}
            for name, payloads in device.sent.items():
                found = log.get(name, [])
                once = device.qos < 2 or len(found) == len(set(found))
                if not once or not set(payloads) - refused <= set(found) <= set(payloads):
                    self.ledger.violate(f"published to {name} for later: {len(found)} found of {len(payloads)}")
        once = {name for name in log if "/device-2/" in name}
        self._eventually(lambda: device_checks.check_received(received(self.whole, 0), log, once))
        self._eventually(lambda: self._not_rewound(log))

    def _not_rewound(self, log: device_checks.Names) -> list[str]:
        found = received(self.rewound, self.rewound_from)
        lost = {name: set(payloads) - set(found.get(name, [])) for name, payloads in log.items()}
        return [f"{name} after the reset of its session: {sorted(left)[:5]}" for name, left in lost.items() if left]

    def _eventually(self, check: object) -> None:
        deadline = time.monotonic() + CATCH_UP_S
        while (violated := check()) and time.monotonic() < deadline:  # type: ignore[operator]
            time.sleep(0.02)
        for what in violated:
            self.ledger.violate(what)

    def finish(self) -> None:
        """Each round has checked everything; what the processes said is of no use any more."""
        for index in range(len(self._processes)):
            self._kill_process(index)
        for directory in self.directory.parent.glob(f"{self.broker.directory.name}-lines-*"):
            shutil.rmtree(directory)

    def counts(self) -> str:
        told = self.told
        return (
            f"{self.process_kills} processes killed, {self.resets} resets, {self.full} times full; {told.total} sent, "
            f"{told.raced} cancellations ({told.cancelled_total} cancelled, {told.delivered_total} delivered)"
        )

    def end(self) -> None:
        super().end()
        for index in range(len(self._processes)):
            self._kill_process(index)
        for client in (self.whole, self.rewound, *(device.client for device in self.devices)):
            client.paho.loop_stop()


def received(client: Client, first: int) -> device_checks.Names:
    names: device_checks.Names = {}
    for name, payload in client.received[first:]:
        names.setdefault(name, []).append(payload)
    return names


def main() -> int:
    parser = arguments((__doc__ or "").splitlines()[0], rounds=6)
    parser.add_argument("--disk-mb", type=int, default=0, help="a disk of this size (tmpfs, needs root), full at times")
    options = parser.parse_args()
    disk = SmallDisk(options.disk_mb) if options.disk_mb else None

    def new_broker(directory: Path) -> Broker:
        if disk is None:
            return Trivium(directory, flush=options.flush, config=CONFIG)
        disk.mount(directory)
        return Trivium(directory, flush=options.flush, config=CONFIG + SMALL)

    try:
        return crash(
            options,
            new_broker,
            lambda broker, seed: NativeRun(broker, seed, disk),
            "what native clients were told is so",
        )
    finally:
        if disk is not None:
            disk.unmount()


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)  # clients in threads may wait for a broker that is gone
