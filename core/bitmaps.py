"""Sets of offsets as whole numbers: bit i stands for offset `first + i`. Python's integers make this cheap: 1,024
offsets are 136 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator


def full(count: int) -> int:
    """The first `count` bits."""
    return (1 << count) - 1


def leading_run(mask: int) -> int:
    """How many bits are set from bit 0 on without a gap."""
    return ((~mask) & (mask + 1)).bit_length() - 1


def lowest(mask: int, count: int) -> int:
    """The lowest `count` bits of those that are set."""
    if mask.bit_count() <= count:
        return mask
    if not mask & (mask + 1):
        return full(count)
    low, high = 0, mask.bit_length()
    while low < high:
        middle = (low + high) // 2
        if (mask & full(middle)).bit_count() < count:
            low = middle + 1
        else:
            high = middle
    return mask & full(low)


def runs(mask: int) -> Iterator[tuple[int, int]]:
    """(first bit, how many) of each stretch of bits without a gap."""
    at = 0
    while mask:
        gap = (mask & -mask).bit_length() - 1
        mask >>= gap
        count = leading_run(mask)
        yield at + gap, count
        at += gap + count
        mask >>= count


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    for first, count in runs(mask):
        yield from range(first, first + count)
