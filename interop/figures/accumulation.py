"""The cell of a massive backlog: four times the memory that the broker may use, and what it costs everybody else."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from interop.brokers import Broker, BrokerError
from interop.figures import tools
from interop.figures.little_memory import limited
from interop.figures.results import Results
from interop.figures.scale import Scale, Traces

CELL = "accumulation"
PARTITIONS = 12
RECORD_BYTES = 1000
PACED_RATE = 10_000  # records/s of the producer whose latency is looked at
FLOOD_SHARE = 4  # the producer at full speed sends this part of the backlog: the fourth
REST_BYTES_MAX = 1_000_000  # written in a second by a broker that has done its work
REST_S_MAX = 300


def accumulation(scale: Scale, results: Results, traces: Traces) -> None:
    """Latency and rate of a producer and of a group that keeps up with it: with no backlog, with one, and while a new
    group reads that from the beginning.
    """
    records = scale.large_bytes // RECORD_BYTES
    for contender in scale.contenders:
        if contender.topic_config:
            continue
        with contender.running() as broker:
            try:
                with limited(broker.pid, scale.large_bytes // 4):
                    try:
                        contender.create(broker, ["backlog", "beside"], PARTITIONS)
                        _measure(broker, contender.name, records, scale, results)
                    finally:
                        broker.kill()
            except OSError as error:
                raise BrokerError(f"no control group can be made here: {error}") from error


def _measure(broker: Broker, name: str, records: int, scale: Scale, results: Results) -> None:
    def add(case: str, value: float, unit: str) -> None:
        results.add(CELL, case, name, value, unit)

    def beside(when: str, *, rested: bool = True) -> None:
        if rested:
            _wait_for_rest(broker.pid)
        load = {"topics": ["beside"], "partitions": PARTITIONS, "size": RECORD_BYTES, "rate": PACED_RATE}
        paced = PACED_RATE * scale.latency_s // 3
        follower = tools.start_follower(broker.bootstrap, "beside", f"group {when}", paced)
        answer = tools.librdkafka(broker.bootstrap, records=paced, stamped=True, **load)
        group = tools.followed(follower)
        add(f"producer, {when}: p50", answer["p50_us"] / 1000, "ms")
        add(f"producer, {when}: p99", answer["p99_us"] / 1000, "ms")
        add(f"another group, {when}: p50", group["p50_us"] / 1000, "ms")
        add(f"another group, {when}: p99", group["p99_us"] / 1000, "ms")
        add(f"another group, {when}", group["records_s"], "records/s")

    def flood(when: str) -> None:
        _wait_for_rest(broker.pid)
        started = tools.start_producer(broker.bootstrap, "beside", records // FLOOD_SHARE, RECORD_BYTES)
        add(f"producer at full speed, {when}", tools.produced(started), "records/s")

    flood("to warm up")
    beside("no backlog")
    flood("no backlog")
    filled = tools.produced(tools.start_producer(broker.bootstrap, "backlog", records, RECORD_BYTES))
    add(f"{records * RECORD_BYTES / 1e9:.0f} GB backlog written", filled, "records/s")
    beside("a backlog behind it")
    flood("a backlog behind it")
    read: list[float] = []
    reader = threading.Thread(target=lambda: read.append(tools.consume(broker.bootstrap, "backlog", records)[0]))
    reader.start()
    beside("a new group reading the backlog", rested=False)
    reader.join()
    if read:
        add("a new group reads it from the beginning", read[0], "records/s")
    add("memory of the broker's own (RssAnon)", broker.rss_anon_bytes() / 1e6, "MB")


def _wait_for_rest(pid: int) -> None:
    """Until what was written before is on the disk, and put in its place: that is not what is looked at here."""
    os.sync()
    written = _written_bytes(pid)
    for _ in range(REST_S_MAX):
        time.sleep(1)
        before, written = written, _written_bytes(pid)
        if written - before < REST_BYTES_MAX:
            return


def _written_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])
