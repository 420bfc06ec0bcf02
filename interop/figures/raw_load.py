"""Produce requests of one record over one connection, without a client library: what many topics cost the broker alone.

librdkafka walks over all its partitions for each request, which is what limits it at some thousands. Here each request
is encoded once; they go to the partitions in turn, IN_FLIGHT at a time. One JSON object as argument (bootstrap, topics,
partitions, size, records), one as output: records_s.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Sequence

from kafka.record.default_records import DefaultRecordBatchBuilder

from gateway.protocols.kafka.codec import encode_request
from gateway.protocols.kafka.messages import ProduceRequest

IN_FLIGHT = 20
VERSION = 7
_LENGTH = struct.Struct(">i")
_SHORT = struct.Struct(">h")
_NAME_AT = 12  # in a response: behind its length, the correlation id and the number of topics


def frames_of(topics: Sequence[str], partitions: int, size: int) -> list[bytes]:
    """One request for each partition."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 2 * size + 1024)
    builder.append(0, int(time.time() * 1000), None, bytes(size), [])
    batch = memoryview(bytes(builder.build()))
    found = []
    for index in range(partitions):
        for name in topics:
            part = ProduceRequest.PartitionProduceData(index=index, records=batch)
            data = [ProduceRequest.TopicProduceData(name=name, partition_data=[part])]
            request = ProduceRequest(acks=-1, timeout_ms=30_000, transactional_id=None, topic_data=data)
            found.append(encode_request(0, VERSION, 1, "raw", request))
    return found


def send(connection: socket.socket, frames: Sequence[bytes], records: int) -> float:
    """Seconds until all are answered."""
    began = time.perf_counter()
    sent = answered = 0
    received = b""
    while answered < records:
        count = min(records - sent, IN_FLIGHT - (sent - answered))
        connection.sendall(b"".join(frames[number % len(frames)] for number in range(sent, sent + count)))
        sent += count
        chunk = connection.recv(65_536)
        if not chunk:
            raise ConnectionError("the broker closed the connection")
        received += chunk
        while len(received) >= 4 and len(received) >= 4 + _LENGTH.unpack_from(received)[0]:
            # behind the name: the number of partitions, the index of the one, its error
            error = _SHORT.unpack_from(received, _NAME_AT + 2 + _SHORT.unpack_from(received, _NAME_AT)[0] + 8)[0]
            if error:
                raise ConnectionError(f"the broker answered error {error}")
            received = received[4 + _LENGTH.unpack_from(received)[0] :]
            answered += 1
    return time.perf_counter() - began


def main() -> None:
    request = json.loads(sys.argv[1])
    host, _, port = request["bootstrap"].rpartition(":")
    frames = frames_of(request["topics"], request["partitions"], request["size"])
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        records = int(request["records"])
        send(connection, frames, max(len(frames), records // 4))
        json.dump({"records_s": records / send(connection, frames, records)}, sys.stdout)


if __name__ == "__main__":
    main()
