"""A librdkafka load with latencies in microseconds, as its own process: one JSON request as argument, one JSON answer.

Request: bootstrap, topics (names), partitions, size (bytes), records; optional rate (records/s, 0 for none), stamped
(each value begins with the time of its produce(), ns since 1970, big endian) and settings (librdkafka's). Answer:
records_s; latencies in us as measured inside librdkafka from produce() to the acknowledgement (p50_us, p99_us, p999_us,
max_us); and for a rate `samples`, at most SAMPLES_MAX: [second since start, latency in us] for the heat map.
"""

from __future__ import annotations

import gc
import json
import struct
import sys
import time
from array import array
from typing import Any

from confluent_kafka import KafkaException, Producer

SAMPLES_MAX = 200_000
QUEUE_MAX = 50_000
TICK_S = 0.001


class Load:
    """Sends all records, keeping at most QUEUE_MAX under way, and notes each latency."""

    def __init__(self, request: dict[str, Any]) -> None:
        settings = {
            "bootstrap.servers": request["bootstrap"],
            "acks": "all",
            "linger.ms": 5,
            "broker.address.family": "v4",
            "queue.buffering.max.messages": QUEUE_MAX * 2,
        }
        self.client = Producer({**settings, **request.get("settings", {})})
        self.latencies_us = array("I")
        self.moments_s = array("f")
        self.failed = 0
        self.began = 0.0

    def delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self.failed += 1
            return
        self.latencies_us.append(int(message.latency() * 1e6))
        self.moments_s.append(time.perf_counter() - self.began)

    def run(self, topics: list[str], partitions: int, value: bytes, records: int, rate: int, stamped: bool) -> float:
        """Returns the seconds from the first record to the last acknowledgement."""
        client, delivered = self.client, self.delivered
        places = [(topic, partition) for partition in range(partitions) for topic in topics]
        count = len(places)
        self.began = time.perf_counter()
        for number in range(records):
            if rate:
                due = self.began + number / rate
                while (left := due - time.perf_counter()) > 0:
                    client.poll(min(left, TICK_S))
            elif number % 64 == 0:
                client.poll(0)
                while len(client) > QUEUE_MAX:
                    client.poll(0.01)
            topic, partition = places[number % count]
            if stamped:
                value = struct.pack(">Q", time.time_ns()) + value[8:]
            client.produce(topic, value, partition=partition, on_delivery=delivered)
        client.flush(300)
        return time.perf_counter() - self.began


def main() -> None:
    request = json.loads(sys.argv[1])
    load = Load(request)
    # Metadata of all topics and the connection are not what is measured.
    load.client.list_topics(timeout=60)
    gc.disable()
    value = bytes(range(256)) * (request["size"] // 256 + 1)
    rate = int(request.get("rate", 0))
    value = value[: request["size"]]
    records, stamped = int(request["records"]), bool(request.get("stamped"))
    seconds = load.run(request["topics"], request["partitions"], value, records, rate, stamped)
    if load.failed or len(load.latencies_us) != request["records"]:
        raise KafkaException(f"{load.failed} of {request['records']} records failed")
    ordered = sorted(load.latencies_us)
    answer: dict[str, Any] = {"records_s": len(ordered) / seconds}
    for name, share in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999), ("max_us", 1.0)):
        answer[name] = ordered[min(len(ordered) - 1, int(len(ordered) * share))]
    if rate:
        step = max(1, len(ordered) // SAMPLES_MAX)
        answer["samples"] = [[round(load.moments_s[i], 3), load.latencies_us[i]] for i in range(0, len(ordered), step)]
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
