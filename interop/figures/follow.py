"""A librdkafka group that keeps up with a topic, as its own process: how late it gets what `load.py` has stamped.

Request (JSON, as argument): bootstrap, topic, group, records. A line `ready` on standard output when it stands at the
end of each partition, then one JSON answer: records_s from the first to the last record; p50_us and p99_us from the
call of produce() to the hands of the application.
"""

from __future__ import annotations

import gc
import json
import struct
import sys
import time
from array import array

from confluent_kafka import Consumer, KafkaException, TopicPartition

IDLE_S = 60.0


def _at_the_end(client: Consumer, partitions: list[TopicPartition]) -> None:
    """Asked for at once: "latest" would be looked up later, when records have come."""
    for one in partitions:
        one.offset = client.get_watermark_offsets(one)[1]
    client.assign(partitions)
    print("ready", flush=True)


def main() -> None:
    request = json.loads(sys.argv[1])
    client = Consumer(
        {
            "bootstrap.servers": request["bootstrap"],
            "group.id": request["group"],
            "broker.address.family": "v4",
        }
    )
    client.subscribe([request["topic"]], on_assign=_at_the_end)
    late_us = array("Q")
    began = ended = 0.0
    gc.disable()
    while len(late_us) < request["records"]:
        message = client.poll(1.0)
        now_s = time.perf_counter()
        if message is None:
            if ended and now_s - ended > IDLE_S:
                raise KafkaException(f"{len(late_us)} of {request['records']} records came")
            continue
        if message.error() is not None:
            raise KafkaException(message.error())
        late_us.append((time.time_ns() - struct.unpack_from(">Q", message.value())[0]) // 1000)
        began, ended = began or now_s, now_s
    client.close()
    ordered = sorted(late_us)
    count = len(ordered)
    answer = {"records_s": count / (ended - began), "p50_us": ordered[count // 2], "p99_us": ordered[count * 99 // 100]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
