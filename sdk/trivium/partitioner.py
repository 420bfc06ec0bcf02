"""A key's partition: murmur2, as Kafka's Java client has it, so that keys keep their order on all roads."""

from __future__ import annotations

from functools import lru_cache

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
KEYS_CACHED_MAX = 16_384


@lru_cache(KEYS_CACHED_MAX)
def murmur2(data: bytes) -> int:
    """MurmurHash2 in 32 bits with the seed of Kafka's Java client, as an unsigned number."""
    length = len(data)
    value = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        part = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        part = (part ^ part >> 24) * _M & _MASK
        value = (value * _M & _MASK) ^ part
    if whole < length:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ value >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key, 0 <= p < `partitions`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
