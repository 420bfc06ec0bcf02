"""Attacks on a Kafka listener, over real sockets: each sends what no client should and says what became of it.

That the broker's memory stays bounded and that others are served meanwhile is the business of who calls
(`interop.fuzz`, tests/kafka/test_bad_input.py).
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress

import cramjam

from gateway.protocols.kafka.api_versions import ADVERTISED, ApiKey
from gateway.protocols.kafka.codec import (
    decode_response,
    decode_response_header,
    encode_request,
    message_name,
)
from gateway.protocols.kafka.errors import ErrorCode
from gateway.protocols.kafka.messages import FetchRequest
from interop.fuzz_kafka_client import Client, create_topic, fetch_request, produce, produce_request
from interop.fuzz_outcomes import HOSTILE, MIB, Address, Attack, watch
from tests.fuzz.seeds import message, record_batch
from tests.kafka.codec.random_messages import RandomMessages
from trivium.record_batch import Codec, parse_header, seal
from trivium.records import Record, build, with_records

ZEROS_MIB = 900  # that a bomb becomes


def outcomes(address: Address, frames: Iterable[bytes], wait_s: float = 0.5) -> Counter[str]:
    """Sends each on a connection of its own, all at once; how many were answered, closed, or let wait."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in frames]
        for client, frame in zip(clients, frames, strict=True):
            with suppress(ConnectionError):
                client.socket.sendall(frame)
        return watch([client.socket for client in clients], wait_s)


def frame_lengths(address: Address, scale: float) -> str:
    """Lengths that no frame has close the connection; a frame that ends early waits and disturbs nobody."""
    for length in (-1, 0, -(2**31), 2**31 - 1, 100 * MIB + 1):
        with Client(address) as client:
            client.socket.sendall(struct.pack(">i", length))
            assert client.closed_by_peer(), length
    for cut in (b"\0", b"\0\0\0", struct.pack(">i", 100) + b"\0\3"):
        with Client(address) as client:
            client.socket.sendall(cut)
            client.socket.shutdown(socket.SHUT_WR)
            assert client.closed_by_peer(), cut
    return "8 closed"


def random_bytes(address: Address, scale: float) -> str:
    """Bytes by chance, bare and framed."""
    rng = random.Random(1)
    total: Counter[str] = Counter()
    for _ in range(max(1, int(20 * scale))):
        bare = [rng.randbytes(rng.randint(1, 2000)) for _ in range(50)]
        framed = [struct.pack(">i", len(data)) + data for data in bare]
        total += outcomes(address, bare + framed, 0.3)
    assert total["answered"] <= total["closed"], total
    return str(dict(total))


def api_versions(address: Address, scale: float) -> str:
    """Unknown versions get error 35 in v0; a broken body of a known one ends the connection; none does harm."""
    for version in (5, 99, 32767, -1, -32768):
        with Client(address) as client:
            body = struct.pack(">hhih", ApiKey.API_VERSIONS, version, 7, -1) + b"\0\1\1\0"
            client.socket.sendall(struct.pack(">i", len(body)) + body)
            head = client.socket.recv(10)
            if head:
                assert struct.unpack(">iih", head)[1:] == (7, ErrorCode.UNSUPPORTED_VERSION), head
            else:
                assert version < 0
    broken = (b"", b"\xff" * 20, b"\0\xff\xff\xff\xff\x0f", b"\0\5ab")
    bodies = [struct.pack(">hhih", ApiKey.API_VERSIONS, 3, 7, -1) + tail for tail in broken]
    seen = outcomes(address, [struct.pack(">i", len(body)) + body for body in bodies])
    assert seen["closed"] == len(bodies), seen
    return f"35 or closed; broken bodies {dict(seen)}"


def lying_counts(address: Address, scale: float) -> str:
    """Every API and version with a length or count replaced, at many places."""
    rng = random.Random(2)
    places = max(1, int(12 * scale))
    frames: list[bytes] = []
    for api, versions in ADVERTISED.items():
        low, high = versions[0], versions[1]
        for version in range(low, high + 1) if scale >= 1 else {low, high}:
            name = message_name(api, "request")
            valid = encode_request(api, version, 1, "f", RandomMessages(f"{name} {version}").message(name, version))
            for _ in range(places):
                at = rng.randint(4, len(valid) - 1)
                piece = rng.choice(HOSTILE)
                body = valid[4:at] + piece + valid[at + rng.choice((0, len(piece))) :]
                frames.append(struct.pack(">i", len(body)) + body)
    total: Counter[str] = Counter()
    for at in range(0, len(frames), 200):
        total += outcomes(address, frames[at : at + 200], 1.0)
    assert total["closed"], total
    return f"{len(frames)} requests: {dict(total)}"


def bad_batches(address: Address, scale: float) -> str:
    """What a produce request may not hold, and the error that says so."""
    create_topic(address, "bad")
    good = record_batch(Codec.NONE)
    torn = bytearray(good)
    torn[-1] ^= 1
    unknown = bytearray(good)
    unknown[22] |= 7
    seal(unknown)
    lying = bytearray(good)
    struct.pack_into(">i", lying, 57, 1_000_000)
    seal(lying)
    longer = bytearray(good)
    struct.pack_into(">i", longer, 8, 2**31 - 1)
    codes = ErrorCode
    cases: list[tuple[str, bytes, int, set[ErrorCode]]] = [
        ("bad CRC", bytes(torn), 9, {codes.CORRUPT_MESSAGE}),
        ("unknown codec", bytes(unknown), 9, {codes.UNSUPPORTED_COMPRESSION_TYPE, codes.INVALID_RECORD}),
        ("lying count", bytes(lying), 9, {codes.INVALID_RECORD, codes.CORRUPT_MESSAGE}),
        ("lying length", bytes(longer), 9, {codes.INVALID_RECORD}),
        ("short", good[:60], 9, {codes.CORRUPT_MESSAGE, codes.INVALID_RECORD}),
        ("nothing", b"", 9, {codes.INVALID_RECORD}),
        ("two batches", good + good, 9, {codes.INVALID_RECORD}),
        ("v1 with a bad CRC", _torn(message(1, b"x")), 2, {codes.CORRUPT_MESSAGE}),
        ("v0 cut", message(0, b"x")[:-1], 1, {codes.CORRUPT_MESSAGE}),
        (
            "v1 lying size",
            message(1, b"x")[:8] + b"\x7f\xff\xff\xff" + message(1, b"x")[12:],
            2,
            {codes.CORRUPT_MESSAGE},
        ),
        ("wrapper of garbage", message(1, b"garbage", attributes=1), 2, {codes.CORRUPT_MESSAGE}),
        ("too large", build([Record(0, 1, None, bytes(2 * MIB), [])]), 9, {codes.MESSAGE_TOO_LARGE}),
    ]
    with Client(address) as client:
        for name, records, version, expected in cases:
            answer = produce(client, "bad", records, version)
            assert answer.error_code in expected, (name, answer)
            assert answer.base_offset == -1, (name, answer)
        assert produce(client, "bad", good).error_code == ErrorCode.NONE
    return f"{len(cases)} refused, the connection serves on"


def _torn(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def bombs(address: Address, scale: float) -> str:
    """Little that becomes much: in topics that look into records, in message sets, and for readers of old formats."""
    create_topic(address, "compacted", cleanup_policy="compact")
    create_topic(address, "recompressed", compression_type="lz4")
    create_topic(address, "plain")
    zeros = bytes(int(ZEROS_MIB * min(1.0, max(scale, 0.25))) * MIB)
    body = bytes(cramjam.zstd.compress(zeros, level=1))
    batch = with_records(parse_header(record_batch(Codec.NONE)), body, Codec.ZSTD)
    empty = bytes.fromhex("0c000000000000") * 1_000_000  # a million records, malformed only at their offsets
    many = parse_header(record_batch(Codec.NONE))._replace(count=1_000_000, last_offset_delta=999_999)
    records = with_records(many, bytes(cramjam.zstd.compress(empty, level=1)), Codec.ZSTD)
    del zeros, empty
    gzip = bytes(cramjam.gzip.compress(bytes(400 * MIB), level=6))[: 900 * 1024]
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(address)) for _ in range(max(4, int(24 * scale)))]
        for at, client in enumerate(clients):
            topic = ("compacted", "recompressed")[at % 2]
            client.send(ApiKey.PRODUCE, 9, produce_request(topic, batch if at % 4 < 2 else records))
            client.send(ApiKey.PRODUCE, 2, produce_request("plain", message(1, gzip, attributes=1)))
        for client in clients:
            for version in (9, 2):
                size = struct.unpack(">i", client._exactly(4))[0]
                frame = client._exactly(size)
                _, at = decode_response_header(ApiKey.PRODUCE, version, frame)
                answer = decode_response(ApiKey.PRODUCE, version, frame, at)
                code = answer.responses[0].partition_responses[0].error_code  # type: ignore[attr-defined]
                assert code != ErrorCode.NONE or version == 9
                seen[ErrorCode(code).name] += 1
    lz4 = with_records(
        parse_header(record_batch(Codec.NONE)), bytes(cramjam.lz4.compress(bytes(200 * MIB), level=1)), Codec.LZ4
    )
    with Client(address) as client:
        assert produce(client, "plain", lz4).error_code == ErrorCode.NONE  # opaque in a plain topic, as in Kafka
    with ExitStack() as stack:
        readers = [stack.enter_context(Client(address)) for _ in range(max(2, int(12 * scale)))]
        for client in readers:
            client.send(ApiKey.FETCH, 2, fetch_request("plain", 0, bytes_max=50 * MIB))
        for client in readers:
            client._exactly(struct.unpack(">i", client._exactly(4))[0])
    return str(dict(seen))


def half_open(address: Address, scale: float) -> str:
    """Peers that begin a request and reset, or fall silent."""
    start = struct.pack(">ihhi", 1000, ApiKey.PRODUCE, 9, 1)
    count = max(20, int(1000 * scale))
    with ExitStack() as stack:
        for at in range(count):
            client = Client(address)
            client.socket.sendall(start[: at % len(start) + 1])
            if at % 2:
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            else:
                stack.enter_context(client)
        with Client(address) as good:
            assert produce(good, "bad", record_batch(Codec.NONE)).error_code == ErrorCode.NONE
    return f"{count // 2} reset, {count // 2} silent"


def fill(address: Address, topic: str, size_mib: int) -> None:
    create_topic(address, topic)
    batch = build([Record(0, 1, None, random.Random(3).randbytes(1000 * 1024), [])])
    with Client(address) as client:
        for _ in range(size_mib):
            assert produce(client, topic, batch).error_code == ErrorCode.NONE


def never_reads(address: Address, scale: float) -> str:
    """Clients that pipeline fetches of 50 MB and read nothing."""
    fill(address, "large", 60)
    count = max(10, int(100 * scale))
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(Client(address))
            for _ in range(10):
                client.send(ApiKey.FETCH, 4, fetch_request("large", 0, bytes_max=50 * MIB))
        time.sleep(3)
    return f"{count} clients, 10 x 50 MB each"


def polls_that_hold(address: Address, scale: float) -> str:
    """Long polls that ask for more than there is, so that what there is waits with them."""
    fill(address, "large", 60)
    count = max(10, int(100 * scale))
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(Client(address))
            request = fetch_request("large", 0, bytes_max=50 * MIB, min_bytes=2**31 - 1, wait_ms=2**31 - 1)
            client.send(ApiKey.FETCH, 4, request)
        time.sleep(3)
    return f"{count} clients, 50 MB each"


def announce(address: Address, scale: float, sent_bytes: int = 0) -> str:
    """A thousand clients that each announce 100 MB."""
    count = max(50, int(1000 * scale))
    cut = 0
    payload = bytes(sent_bytes)
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(Client(address))
            client.socket.settimeout(2)
            try:
                client.socket.sendall(struct.pack(">ihh", 100 * MIB, ApiKey.PRODUCE, 9) + payload)
            except (ConnectionError, TimeoutError):
                cut += 1
    return f"{count} clients, {sent_bytes / MIB:.0f} MiB sent by each, {cut} cut while sending"


def announce_and_send(address: Address, scale: float) -> str:
    return announce(address, scale, 4 * MIB)


def many_elements(address: Address, scale: float) -> str:
    """Fetches of as many partitions as a message may have, that wait for ever."""
    parts = [FetchRequest.FetchPartition(partition=at, partition_max_bytes=1) for at in range(240_000)]
    topic = FetchRequest.FetchTopic(topic="large", partitions=parts)
    create_topic(address, "large")
    request = FetchRequest(max_wait_ms=2**31 - 1, min_bytes=2**31 - 1, max_bytes=1, session_epoch=0, topics=[topic])
    frame = encode_request(ApiKey.FETCH, 12, 1, "fuzz", request)
    with ExitStack() as stack:
        for _ in range(max(3, int(20 * scale))):
            client = stack.enter_context(Client(address))
            try:
                client.socket.sendall(frame)
            except ConnectionError:
                pass
        time.sleep(3)
    return f"{len(frame) / MIB:.0f} MiB each"


KAFKA_ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        frame_lengths,
        random_bytes,
        api_versions,
        bad_batches,
        lying_counts,
        bombs,
        half_open,
        never_reads,
        polls_that_hold,
        announce,
        announce_and_send,
        many_elements,
    )
}
