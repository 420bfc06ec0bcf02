"""The cells of the Kafka figures. Each adds rows to the results; brokers are started and removed within it."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

from interop.brokers import Broker
from interop.figures import tools
from interop.figures.accumulation import accumulation
from interop.figures.contenders import ALL, KAFKA
from interop.figures.results import Results
from interop.figures.scale import Scale, Traces

SIZES = (100, 1000)
PARTITIONS = (1, 12)
LINGERS_MS = (1, 5)  # librdkafka's own is 5
WARM = ", warm"
SYNCED_LATENCY_RATE = 5_000
MEMORY_SAMPLE_S = 0.5


def _case(size: int, partitions: int) -> str:
    return f"{size} B, {partitions} partition{'s' if partitions > 1 else ''}"


def produce(scale: Scale, results: Results, traces: Traces) -> None:
    """ProducerPerformance, acks=all, linger.ms=5: the first run on a broker that has just started, and a longer second.

    Kafka's virtual machine compiles its broker meanwhile, so the two differ; the price of the client's own start is in
    both rates.
    """
    for _ in range(scale.repeats):
        for size in SIZES:
            for partitions in PARTITIONS:
                for contender in scale.contenders:
                    with contender.running() as broker:
                        contender.create(broker, ["produce"], partitions)
                        for which, amount in (("", scale.first_bytes), (WARM, scale.produce_bytes)):
                            producer = tools.start_producer(broker.bootstrap, "produce", amount // size, size)
                            rate = tools.produced(producer)
                            results.add("produce", _case(size, partitions) + which, contender.name, rate, "records/s")


def latency(scale: Scale, results: Results, traces: Traces) -> None:
    """Produce latency at a third of Kafka's peak (1 KB), measured inside librdkafka, whose own wait is part of it."""
    for partitions, linger_ms in itertools.product(PARTITIONS, LINGERS_MS):
        peak = results.median("produce", _case(1000, partitions), KAFKA.name)
        rate = int((peak or {1: 71_000, 12: 108_000}[partitions]) / 3)
        for contender in scale.contenders:
            case_rate = min(rate, SYNCED_LATENCY_RATE) if contender.topic_config else rate
            with contender.running() as broker:
                topic = "latency"
                contender.create(broker, [topic], partitions)
                settings = {"linger.ms": linger_ms}
                load = {"topics": [topic], "partitions": partitions, "size": 1000, "settings": settings}
                load["rate"] = case_rate
                tools.librdkafka(broker.bootstrap, records=case_rate * 2, **load)
                for _ in range(scale.repeats):
                    answer = tools.librdkafka(broker.bootstrap, records=case_rate * scale.latency_s, **load)
                    name = f"{partitions} partition{'s' if partitions > 1 else ''}, linger {linger_ms} ms"
                    for what in ("p50", "p99", "max"):
                        value = answer[f"{what}_us"] / 1000
                        results.add("latency", f"{name}, {what}", contender.name, value, "ms")
                    results.add("latency", f"{name}, rate", contender.name, case_rate, "records/s")
                    traces.latency[name, contender.name] = answer["samples"]


def consume(scale: Scale, results: Results, traces: Traces) -> None:
    """ConsumerPerformance over 100 B and 1 KB records mixed, hot and from disk."""
    for contender in scale.contenders:
        if contender.topic_config:
            continue
        with contender.running() as broker:
            contender.create(broker, ["consume"], 12)
            for size in SIZES:
                tools.produced(tools.start_producer(broker.bootstrap, "consume", scale.consume_records // 2, size))
            for _ in range(scale.repeats):
                rate, _ = tools.consume(broker.bootstrap, "consume", scale.consume_records)
                results.add("consume", "hot", contender.name, rate, "records/s")
                broker.stop()
                if tools.drop_page_cache():
                    broker.start()
                    rate, _ = tools.consume(broker.bootstrap, "consume", scale.consume_records)
                    results.add("consume", "from disk", contender.name, rate, "records/s")
                else:
                    broker.start()


def single(scale: Scale, results: Results, traces: Traces) -> None:
    """One record per request, 1 KB: librdkafka with one topic, many topics, idempotent, and with batching; requests
    made beforehand. Each case on a broker that has just started."""
    one: dict[str, object] = {"batch.num.messages": 1, "linger.ms": 0}
    idempotent = {**one, "enable.idempotence": True}
    names = [f"many-{number}" for number in range(scale.topics)]
    cases: list[tuple[str, list[str], dict[str, object]]] = [
        ("1 topic x 4 partitions", ["single"], one),
        ("1 topic x 4, idempotent", ["single"], idempotent),
        (f"{scale.topics} topics x 4", names, one),
        ("1 topic x 4, batching", ["single"], {}),
        (f"{scale.topics} topics x 4, batching", names, {}),
    ]
    for _, contender in itertools.product(range(scale.repeats), scale.contenders):
        if contender.topic_config:
            continue
        for case, topics, settings in cases:
            with contender.running() as broker:
                contender.create(broker, topics, 4)
                load = {"topics": topics, "partitions": 4, "size": 1000, "settings": settings}
                tools.librdkafka(broker.bootstrap, records=max(4000, len(topics) * 4), **load)
                answer = tools.librdkafka(broker.bootstrap, records=scale.single_records, **load)
                results.add("single", case, contender.name, answer["records_s"], "records/s")
        for topics in (["single"], names):
            with contender.running() as broker:
                contender.create(broker, topics, 4)
                case = f"{len(topics)} topic{'s' if len(topics) > 1 else ''} x 4, requests made beforehand"
                load = {"topics": topics, "partitions": 4, "size": 1000}
                answer = tools.raw(broker.bootstrap, records=scale.single_records, **load)
                results.add("single", case, contender.name, answer["records_s"], "records/s")


@contextlib.contextmanager
def _memory(broker: Broker, samples: list[tuple[float, int]]) -> Iterator[None]:
    """Notes the broker's RssAnon every half second while the body runs."""
    stopping = threading.Event()
    began = time.monotonic()

    def watch() -> None:
        while not stopping.wait(MEMORY_SAMPLE_S):
            with contextlib.suppress(OSError):
                samples.append((time.monotonic() - began, broker.rss_anon_bytes()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def idle(scale: Scale, results: Results, traces: Traces) -> None:
    """Start over an empty directory, and memory with no partition and with a thousand."""
    for contender in scale.contenders:
        if contender.topic_config:
            continue
        for _ in range(scale.repeats):
            with contender.running() as broker:
                results.add("idle", "ready, empty", contender.name, broker.ready_s, "s")
                time.sleep(1)
                results.add("idle", "memory", contender.name, broker.rss_anon_bytes() / 1e6, "MB")
                contender.create(broker, [f"idle-{number}" for number in range(100)], 10)
                time.sleep(1)
                value = broker.rss_anon_bytes() / 1e6
                results.add("idle", "memory, 1000 partitions", contender.name, value, "MB")


def large(scale: Scale, results: Results, traces: Traces) -> None:
    """A large log: rate and memory while it is written, starts over it, a backlog reader beside a producer."""
    records = scale.large_bytes // 1000
    for contender in scale.contenders:
        if contender.topic_config:
            continue
        name, size = contender.name, f"{scale.large_bytes / 1e9:.1f} GB"
        with contender.running() as broker:
            contender.create(broker, ["large", "beside"], 12)
            samples = traces.memory.setdefault(name, [])
            with _memory(broker, samples):
                rate = tools.produced(tools.start_producer(broker.bootstrap, "large", records, 1000))
            results.add("large", f"{size} written", name, rate, "records/s")
            half = samples[len(samples) // 2 :] or [(0.0, broker.rss_anon_bytes())]
            results.add("large", "memory, half way", name, half[0][1] / 1e6, "MB")
            results.add("large", "memory, at most afterwards", name, max(rss for _, rss in half) / 1e6, "MB")
            results.add("large", "clean stop", name, broker.stop(), "s")
            results.add("large", "ready after a clean stop", name, broker.start().ready_s, "s")
            broker.kill()
            results.add("large", "ready after kill -9", name, broker.start().ready_s, "s")
            beside = records // 10
            alone = tools.produced(tools.start_producer(broker.bootstrap, "beside", beside, 1000))
            results.add("large", "producer alone", name, alone, "records/s")
            _backlog(broker, name, records, beside, results)


def _backlog(broker: Broker, name: str, records: int, beside: int, results: Results) -> None:
    """A consumer reads the whole log, from disk where the cache can be dropped, while a producer goes on."""
    tools.drop_page_cache()
    outcome: list[float] = []

    def read() -> None:
        with contextlib.suppress(tools.ToolError):
            outcome.append(tools.consume(broker.bootstrap, "large", records)[0])

    reader = threading.Thread(target=read)
    reader.start()
    rate = tools.produced(tools.start_producer(broker.bootstrap, "beside", beside, 1000))
    results.add("large", "producer beside a backlog reader", name, rate, "records/s")
    reader.join()
    if outcome:
        results.add("large", "backlog reader beside a producer", name, outcome[0], "records/s")


CELLS: dict[str, Callable[[Scale, Results, Traces], None]] = {
    "produce": produce,
    "latency": latency,
    "consume": consume,
    "single": single,
    "idle": idle,
    "large": large,
    "accumulation": accumulation,
}
TITLES = {
    "produce": "Produce: ProducerPerformance, acks=all, linger.ms=5",
    "latency": "Produce latency at a third of Kafka's peak, 1 KB (librdkafka); synced Kafka at 5 k/s",
    "consume": "Consume: ConsumerPerformance, 12 partitions, half 100 B and half 1 KB records",
    "single": "One record per request, 1 KB, librdkafka with batch.num.messages=1; batching allowed where it says so",
    "idle": "Start over an empty directory, and anonymous memory (RssAnon)",
    "large": "A large log: 1 KB records over 12 partitions",
    "accumulation": "A backlog of four times the memory that the broker may use, 1 KB records; paced: 10 k/s",
}
BY_NAME = {each.name: each for each in ALL}
