"""The cells of the MQTT figures: what is run against each broker, and what is taken down.

Every cell starts every contender anew over an empty directory, so that no cell inherits another's data. A case that a
broker cannot do (it refuses, loses the connection, or takes too long) leaves its place in the table empty, with a note.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from interop.brokers import Broker, BrokerError
from interop.mqtt_figures.contenders import (
    ALL,
    AMQTT,
    MOSQUITTO,
    NATS,
    TRIVIUM_ASYNC,
    TRIVIUM_SYNC,
    Contender,
)
from interop.mqtt_figures.running import Load, LoadError, Run, flow
from interop.mqtt_figures.scale import retained, sessions, subscriptions
from interop.places import scratch_root

OURS = (TRIVIUM_ASYNC, TRIVIUM_SYNC)
NEAR = (MOSQUITTO, *OURS)  # where the others would only take time
FDATASYNC_WRITES = 500
IDLE_S = 10
PROBES_S = 100  # messages to one of the devices, at QoS 1, in a second
IDLE_NOTE = "Each pings every 60 s. Messages are of QoS 1, each of ours after fdatasync."


# -- throughput -------------------------------------------------------------------------------------------------------

PAIRS = {"pubs": 100, "subs": 100, "topics": 100, "qos": 1, "window": 1}
FLOWS: dict[str, dict[str, float | str]] = {
    "QoS 1, 1 to 1, 50 in flight": {"pubs": 1, "subs": 1, "qos": 1, "window": 50},
    "QoS 1, 100 pairs, 1 in flight": PAIRS,
    "QoS 1, 1,000 pairs, 1 in flight": {**PAIRS, "pubs": 1000, "subs": 1000, "topics": 1000},
    "QoS 0, fan-out 1 to 100": {"pubs": 1, "subs": 100, "qos": 0, "window": 10},
    "QoS 0, 1 to 1": {"pubs": 1, "subs": 1, "qos": 0, "window": 50},
    "QoS 2, 1 to 1, 50 in flight": {"pubs": 1, "subs": 1, "qos": 2, "window": 50},
    "QoS 2, 100 pairs, 1 in flight": {**PAIRS, "qos": 2},
    "QoS 1, persistent sessions, 100 pairs": {**PAIRS, "clean": 0},
    "QoS 1, 100 pairs, subscribers of `a/b/+`": {**PAIRS, "style": "plus"},
    "QoS 1, 100 pairs, subscribers of `a/b/#`": {**PAIRS, "style": "hash"},
    "QoS 1, 100 publishers, a shared subscription of 4": {**PAIRS, "subs": 4, "style": "share"},
    "QoS 1, retained, 1 to 1, 50 in flight": {"pubs": 1, "subs": 1, "qos": 1, "window": 50, "retain": 1},
}
OTHERS_FLOWS = (0, 1, 3)  # the others get few flows: they take long and set no goal


def throughput(run: Run) -> None:
    """Closed loop: as fast as acknowledgements allow; messages delivered a second."""
    for _ in range(run.scale.repeats):
        for title, options in FLOWS.items():
            for contender in run.each(NEAR):
                _note_flow(run, "throughput", title, contender, options)


def others(run: Run) -> None:
    """The same for nats-server and amqtt, with mosquitto beside them."""
    for number in OTHERS_FLOWS:
        title = list(FLOWS)[number]
        for contender in run.each((MOSQUITTO, TRIVIUM_ASYNC, NATS, AMQTT)):
            _note_flow(run, "others", title, contender, FLOWS[title])


def _note_flow(
    run: Run, cell: str, title: str, contender: Contender, options: dict[str, float | str]
) -> dict[str, Any] | None:
    try:
        with contender.running() as broker:
            found = flow(broker, seconds=run.scale.seconds, payload=100, **options)
            broker.check()
    except (LoadError, BrokerError) as error:
        run.notes.append(f"{contender.name}, {title}: {' '.join(str(error).split())[:200]}")
        return None
    if found["gaps"] or (found["repeats"] and options.get("clean", 1)):
        run.notes.append(f"{contender.name}, {title}: {found['gaps']} messages missing, {found['repeats']} repeated")
    if not found["delivered_s"]:
        run.notes.append(f"{contender.name}, {title}: nothing arrived")
        return None
    run.results.add(cell, title, contender.name, found["delivered_s"], "msg/s")
    return found


# -- latency ----------------------------------------------------------------------------------------------------------


def latency(run: Run) -> None:
    """Open loop at half of mosquitto's peak in the same run; latency from the moment a message was due."""
    for title in list(FLOWS)[:3]:
        options = dict(FLOWS[title])
        with MOSQUITTO.running() as broker:
            peak = flow(broker, seconds=run.scale.seconds, payload=100, **options)["delivered_s"]
        for contender in run.each(NEAR):
            with contender.running() as broker:
                found = flow(broker, seconds=run.scale.seconds, payload=100, rate=peak / 2, **options)
            case = f"{title.partition(',')[2].strip()}, {peak / 2000:.0f} k msg/s"
            for share in ("p50", "p99", "max"):
                run.results.add("latency", f"{case}: {share}", contender.name, found[f"{share}_us"] / 1000, "ms")
            if found["delivered_s"] < 0.97 * peak / 2:
                run.notes.append(f"{contender.name}, {case}: only {found['delivered_s']} msg/s came")


# -- TLS --------------------------------------------------------------------------------------------------------------


def tls(run: Run) -> None:
    """The first flows over TLS, for those that have a TLS listener here."""
    for title in list(FLOWS)[:2]:
        for contender in run.each(NEAR):
            try:
                with contender.running() as broker:
                    if not broker.tls_port:
                        continue
                    options = {**FLOWS[title], "tls": 1, "seconds": run.scale.seconds, "payload": 100}
                    found = Load(broker.tls_port, **options).last()
                    run.results.add("tls", f"TLS: {title}", contender.name, found["delivered_s"], "msg/s")
            except (LoadError, BrokerError) as error:
                run.notes.append(f"{contender.name}, TLS, {title}: {' '.join(str(error).split())[:200]}")


# -- many devices -----------------------------------------------------------------------------------------------------


def idle(run: Run) -> None:
    """Devices that subscribe and ping: memory as a slope over their number, processor, connect storm, one message."""
    for encrypted in (False, True):
        for contender in run.each((MOSQUITTO, TRIVIUM_SYNC)):
            try:
                _idle(run, contender, encrypted)
            except (LoadError, BrokerError) as error:
                run.notes.append(f"{contender.name}, idle devices: {' '.join(str(error).split())[:200]}")
    run.notes.append(IDLE_NOTE)


def _idle(run: Run, contender: Contender, encrypted: bool) -> None:
    with contender.running() as broker:
        if encrypted and not broker.tls_port:
            return
        port, over = (broker.tls_port, "TLS") if encrypted else (broker.port, "TCP")
        before = broker.rss_anon_bytes()
        points: list[tuple[int, int]] = []
        for count in run.scale.idle:
            load = _devices(port, count, encrypted, probe=0, seconds=IDLE_S if count == run.scale.idle[-1] else 1)
            ready = load.event()
            time.sleep(0.5)
            points.append((count, broker.rss_anon_bytes()))
            if count == run.scale.idle[-1]:
                silent = _share(broker)
            load.last()
            time.sleep(0.5)
        load = _devices(port, count, encrypted, probe=PROBES_S, seconds=IDLE_S)
        load.event()
        time.sleep(0.5)
        probed = _share(broker)
        found = load.last()
        add = run.results.add
        slope = statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
        add("idle", f"{over}: memory of a device", contender.name, slope / 1024, "KiB")
        add("idle", f"{over}: broker before, without devices", contender.name, before / 2**20, "MiB")
        case = f"{over}: {points[-1][0]:,} devices"
        add("idle", f"{case}, opened and subscribed", contender.name, ready["connects_s"], "connections/s")
        add("idle", f"{case}, refused", contender.name, ready["refused"], "connections")
        add("idle", f"{case}, pinging: processor", contender.name, 100 * silent, "% of a core")
        add("idle", f"{case}, pinging, {PROBES_S} messages/s: processor", contender.name, 100 * probed, "% of a core")
        add("idle", f"{case}: a message to one of them, p99", contender.name, found["probe_p99_us"] / 1000, "ms")
        if found["probed"] < found["probes"] - 5:
            run.notes.append(f"{contender.name}, {case}: {found['probes'] - found['probed']} probes did not arrive")


def _devices(port: int, count: int, encrypted: bool, *, probe: int, seconds: int) -> Load:
    return Load(port, idle=count, keepalive=60, probe=probe, seconds=seconds, warm=1, tls=int(encrypted), at_once=1000)


def _share(broker: Broker) -> float:
    """Of a core, over most of the time that the devices stay."""
    cpu_s, began = broker.cpu_s(), time.monotonic()
    time.sleep(IDLE_S - 2)
    return (broker.cpu_s() - cpu_s) / (time.monotonic() - began)


# -- the disk ---------------------------------------------------------------------------------------------------------


def disk(run: Run) -> None:
    """fdatasync of 4 KiB appended to zeros written ahead: what stands between a message and its PUBACK when synced."""
    scratch_root().mkdir(parents=True, exist_ok=True)
    took: list[float] = []
    with tempfile.NamedTemporaryFile(dir=scratch_root()) as file:
        file.write(bytes(FDATASYNC_WRITES * 4096))
        file.flush()
        os.fsync(file.fileno())
        for number in range(FDATASYNC_WRITES):
            os.pwrite(file.fileno(), b"x" * 4096, number * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    took.sort()
    for share in (0.5, 0.99):
        value = took[int(len(took) * share)] * 1e6
        run.results.add("disk", f"fdatasync, p{share * 100:.0f}", "this disk", value, "us")


CELLS: dict[str, Callable[[Run], None]] = {
    "disk": disk,
    "throughput": throughput,
    "others": others,
    "latency": latency,
    "tls": tls,
    "idle": idle,
    "sessions": sessions,
    "subscriptions": subscriptions,
    "retained": retained,
}
TITLES = {
    "disk": "The disk",
    "throughput": "Throughput, 100 B payloads",
    "others": "nats-server (JetStream) and amqtt",
    "latency": "Latency at half of mosquitto's peak",
    "tls": "TLS",
    "idle": "Idle devices",
    "sessions": "Sessions at rest",
    "subscriptions": "Subscriptions: the index alone, in one process",
    "retained": "Retained messages: the table alone, in one process",
}
BY_NAME = {one.name: one for one in ALL}
