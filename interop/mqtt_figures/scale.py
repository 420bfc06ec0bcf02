"""The cells about great numbers: offline sessions, subscriptions, retained messages."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from core.matching import SubscriptionIndex
from interop.bench_retained import measure as measure_retained
from interop.brokers import BrokerError
from interop.mqtt_figures.contenders import MOSQUITTO, TRIVIUM_SYNC, Contender, MqttBroker, MqttTrivium
from interop.mqtt_figures.running import Load, LoadError, Run
from interop.mqtt_figures.stored import write_sessions
from interop.places import scratch_root

REST_S: Final = 3  # until sessions that were left have come to rest
MADE: Final = 20_000  # sessions that are made to see how fast that goes
OURS: Final = "trivium"
MATCHES: Final = 2_000  # look-ups in the index, in each row
ONE_MATCH: Final = "one match"

RETAINED_NOTE: Final = (
    "The process also holds the store's cache of recent batches (up to 48 MiB) and SQLite's (16 MiB), which do not "
    "grow with the names."
)
SESSIONS_NOTE: Final = (
    "CONNACK is timed from CONNECT, not from the attempt to connect: of so many at once the system keeps as many as a "
    "listener has asked for (mosquitto 100, we 4,096); whom it drops tries again after 1, 3 and 7 s. "
    "Ours keep all they know on disk, and the start folds it; mosquitto's are in memory and end with it."
)

# -- sessions at rest -------------------------------------------------------------------------------------------------


def sessions(run: Run) -> None:
    """Offline persistent sessions, some of which return at once, every hundredth with a message that waits. mosquitto's
    are made by clients; ours stand in the log, and the broker starts with them.
    """
    for contender in run.each((MOSQUITTO, TRIVIUM_SYNC)):
        try:
            _sessions(run, contender)
        except (LoadError, BrokerError) as error:
            run.notes.append(f"{contender.name}, sessions: {' '.join(str(error).split())[:200]}")
    run.notes.append(SESSIONS_NOTE)


def _sessions(run: Run, contender: Contender) -> None:
    count, returning = run.scale.sessions, run.scale.returning
    add = run.results.add
    with contender.running() as broker:
        before = broker.rss_anon_bytes()
        made_count = min(count, MADE) if isinstance(broker, MqttTrivium) else count
        made = Load(broker.port, mode="create", count=made_count, seconds=600, at_once=500).last()
        add("sessions", "made by clients", contender.name, made["sessions"] / made["seconds"], "sessions/s")
        if isinstance(broker, MqttTrivium):
            broker.stop()
            write_sessions(broker.data, count)
            broker.start()
            add("sessions", f"start with {count:,} sessions", contender.name, broker.ready_s, "s")
            peak = _peak_bytes(broker)
            add("sessions", f"start with {count:,} sessions: highest memory", contender.name, peak / 2**20, "MiB")
        else:
            time.sleep(REST_S)
        memory = (broker.rss_anon_bytes() - before) / count
        add("sessions", f"memory of one of {count:,}", contender.name, memory, "B")
        fed = Load(broker.port, mode="feed", count=returning, of=count, seconds=60).last()
        expected = int(fed["messages"])
        back = Load(
            broker.port, mode="return", count=returning, of=count, expect=expected, at_once=returning, seconds=120
        ).last()
        case = f"{returning:,} of them return at once"
        add("sessions", f"{case}: CONNACK p50", contender.name, back["connect_p50_us"] / 1000, "ms")
        add("sessions", f"{case}: CONNACK p99", contender.name, back["connect_p99_us"] / 1000, "ms")
        add("sessions", f"{case}: until all have CONNACK", contender.name, back["connack_s"], "s")
        add("sessions", f"{case}: until {expected} messages have come", contender.name, back["drained_s"], "s")
        add("sessions", f"{case}: broker's memory then", contender.name, broker.rss_anon_bytes() / 2**20, "MiB")
        if back["messages"] < expected:
            run.notes.append(f"{contender.name}: {back['messages']} of {expected} waiting messages came")
        if isinstance(broker, MqttTrivium):
            broker.stop()
            add("sessions", "longest pause of the garbage collector", contender.name, longest_pause_ms(broker), "ms")


def longest_pause_ms(broker: MqttBroker) -> float:
    """What a stopped broker of ours says in its log."""
    found = re.findall(r"longest_gc_pause_ms\W+([\d.]+)", re.sub(r"\x1b\[\d*m", "", broker.log_tail()))
    if not found:
        raise BrokerError(f"no garbage collection pause in the log\n{broker.log_tail()}")
    return float(found[-1])


def _peak_bytes(broker: MqttBroker) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{broker.pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


# -- subscriptions ----------------------------------------------------------------------------------------------------


def subscriptions(run: Run) -> None:
    """The subscription index in this process: what a match costs, and what a subscription weighs."""
    largest = run.scale.sessions
    kinds: dict[str, Callable[[int], str]] = {
        "exact, 3 levels": lambda number: f"fleet/{number}/state",
        "`fleet/N/+`": lambda number: f"fleet/{number}/+",
        "`fleet/+/N`": lambda number: f"fleet/+/{number}",
        "`fleet/N/#`": lambda number: f"fleet/{number}/#",
        "`fleet/N/+`, 12 levels": lambda number: f"fleet/{number}/+/d/e/f/g/h/i/j/k/l",
    }
    names: dict[str, Callable[[int], str]] = {kind: lambda number: f"fleet/{number}/state" for kind in kinds}
    names["`fleet/+/N`"] = lambda number: f"fleet/any/{number}"
    names["`fleet/N/+`, 12 levels"] = lambda number: f"fleet/{number}/c/d/e/f/g/h/i/j/k/l"
    for kind, filter_of in kinds.items():
        for count in (largest // 100, largest):
            for title, value, unit in _alone(partial(_index_figures, filter_of, names[kind], count)):
                if count == largest or title == ONE_MATCH:
                    run.results.add("subscriptions", f"{kind}, {count:,}: {title}", OURS, value, unit)


def _index_figures(
    filter_of: Callable[[int], str], name_of: Callable[[int], str], count: int
) -> list[tuple[str, float, str]]:
    before = _resident_bytes()
    index = SubscriptionIndex()
    for number in range(count):
        index.add(filter_of(number), number, 1)
    figures = [("memory of one", (_resident_bytes() - before) / count, "B")]
    figures.append((ONE_MATCH, _match_us(index, name_of, count), "us"))
    for matches in (10, 100):
        for number in range(matches - 1):
            index.add("fleet/+/#", count + number, 1)
        figures.append((f"{matches} matches", _match_us(index, name_of, count), "us"))
    return figures


def _alone(measure: Callable[[], list[tuple[str, float, str]]]) -> list[tuple[str, float, str]]:
    """What `measure` gives in a process of its own, whose memory nothing was freed in before."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, json.dumps(measure()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return [(title, value, unit) for title, value, unit in json.loads(text)]


def _match_us(index: SubscriptionIndex, name_of: Callable[[int], str], count: int) -> float:
    names = [name_of(number) for number in range(0, count, max(1, count // MATCHES))]
    began = time.perf_counter()
    for name in names:
        index.match(name)
    return 1e6 * (time.perf_counter() - began) / len(names)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- retained messages ------------------------------------------------------------------------------------------------


def retained(run: Run) -> None:
    """The table of retained messages in this process, over a store with `flush = async`."""
    names = run.scale.retained
    for title, value, unit in measure_retained(names, scratch_root()):
        run.results.add("retained", f"{names:,} names of 26 bytes: {title}", OURS, value, unit)
    run.notes.append(RETAINED_NOTE)
