"""Throws damaged batches at the readers, in a process of its own: `python -m tests.records.hostile SEED ROUNDS`.

The readers are C, Cython and Rust underneath: what they could do wrong is abort, read wild memory or allocate without
limit, and only a parent process sees that. Any error but the typed ones ends the run.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Callable

from gateway.protocols.kafka.legacy import down_convert, up_convert
from trivium.compression import compress, decompress
from trivium.record_batch import HEADER_BYTES, BatchError, Codec, parse_header
from trivium.records import Record, build, decode, iter_records, preload, salvage, walk, with_records
from trivium.varint import write_varint

LIMIT_BYTES = 1 << 20
LYING = [
    write_varint(n) for n in (-(1 << 63), -2, -1, 0, 1 << 31, 1 << 40, (1 << 62) - 1, (1 << 63) - 9, (1 << 63) - 1)
]


def seeds() -> list[bytes]:
    records = [
        Record(i, 1000 + i, b"key" if i % 2 else None, b"v" * (i * 7), [("h", b"x"), ("n", None)][: i % 3])
        for i in range(8)
    ]
    return [build(records, codec=codec) for codec in Codec]


def damaged(batch: bytes, rng: random.Random) -> bytes:
    """The batch with some bytes changed, inserted or cut behind its header, and a length that agrees again."""
    body = bytearray(batch[HEADER_BYTES:])
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(body) + 1)
        match rng.randrange(4):
            case 0:
                body[place : place + 1] = bytes((rng.randrange(256),))
            case 1:
                body[place : place + rng.randrange(3)] = rng.choice(LYING)
            case 2:
                del body[place:]
            case _:
                body[place:place] = rng.randbytes(rng.randrange(12))
    header = parse_header(batch)
    count = rng.choice([header.count, header.count, rng.randint(-2, 20), 1 << 30])
    codec = rng.choice([header.codec, header.codec, header.codec, rng.randrange(8)])
    return with_records(header._replace(count=count, last_offset_delta=rng.randint(-1, 20)), body, codec)


def readers(data: bytes) -> list[Callable[[], object]]:
    return [
        lambda: decode(data, LIMIT_BYTES),
        lambda: list(iter_records(data, LIMIT_BYTES)),
        lambda: salvage(data, LIMIT_BYTES),
        lambda: walk(data, LIMIT_BYTES, require_keys=True),
        lambda: down(data, 0),
        lambda: down(data, 1),
        lambda: up_convert(data, LIMIT_BYTES),
    ]


def down(data: bytes, magic: int) -> object:
    return down_convert(data, magic, 0, LIMIT_BYTES, first_record_guarantee=True, decompressed_bytes_max=LIMIT_BYTES)


def bombs() -> list[tuple[int, bytes]]:
    """Half a gigabyte of zeros in little for each codec, made of small frames so that making them takes no memory."""
    piece = b"\0" * (512 << 10)
    made = [(codec, compress(codec, piece) * 1024) for codec in (Codec.GZIP, Codec.LZ4, Codec.ZSTD, Codec.SNAPPY)]
    run_length_block = bytes.fromhex("020010 00")  # a zero, 128 Ki times
    # one frame with a window of 2 MiB, another that asks for 128 MiB
    one_frame = bytes.fromhex("28b52ffd 00 58") + run_length_block * 4096 + bytes.fromhex("010000")
    window_of_128_mib = bytes.fromhex("28b52ffd 00 88") + run_length_block * 4096 + bytes.fromhex("010000")
    claims_4_gib = b"\xff\xff\xff\xff\x0f" + b"\0" * 100
    return [*made, (Codec.ZSTD, one_frame), (Codec.ZSTD, window_of_128_mib), (Codec.SNAPPY, claims_4_gib)]


def main(seed: int, rounds: int) -> None:
    preload()
    rng = random.Random(seed)
    originals = seeds()
    refused = accepted = 0
    for _ in range(rounds):
        data = damaged(rng.choice(originals), rng)
        for read in readers(data):
            try:
                read()
                accepted += 1
            except BatchError:
                refused += 1
    made = bombs()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    for codec, bomb in made:
        try:
            decompress(codec, bomb, LIMIT_BYTES)
        except BatchError as error:
            print(Codec(codec).name, error)
        else:
            raise AssertionError(f"codec {codec}: the limit did not hold")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(accepted, refused, grown_kib, round(time.process_time() - started, 3))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
