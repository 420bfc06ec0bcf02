"""For which sessions something may have come that they have not got: a bit for each session's number.

A bit too many costs its session a look at the log; one too few would lose messages. The bits are stored in parts, see
checkpoints.py.
"""

from __future__ import annotations

from typing import Final

from core.sessions import bits_change
from core.state import Change

PART_BYTES: Final = 1024


class Pending:
    """A set of numbers. `changed` are the parts that are not stored as they are."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.changed: set[int] = set()

    def __len__(self) -> int:
        return int.from_bytes(self._bits).bit_count()

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._bits) and bool(self._bits[at] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(self._bits):
            self._bits.extend(bytes(at - len(self._bits) + PART_BYTES - at % PART_BYTES))
        if not self._bits[at] & bit:
            self._bits[at] |= bit
            self.changed.add(at // PART_BYTES)

    def discard(self, number: int) -> None:
        if number in self:
            at = number >> 3
            self._bits[at] &= ~(1 << (number & 7))
            self.changed.add(at // PART_BYTES)

    def restore(self, parts: dict[int, bytes]) -> None:
        """As stored."""
        self._bits = bytearray((max(parts, default=-1) + 1) * PART_BYTES)
        for part, bits in parts.items():
            self._bits[part * PART_BYTES : part * PART_BYTES + len(bits)] = bits

    def add_all(self, number_max: int) -> None:
        """All numbers up to this one, from 1 on."""
        for number in range(1, number_max + 1):
            self.add(number)

    def take_changes(self) -> list[Change]:
        """The changed parts, to be stored."""
        changed, self.changed = self.changed, set()
        parts = [(part, bytes(self._bits[part * PART_BYTES : (part + 1) * PART_BYTES])) for part in sorted(changed)]
        return [bits_change(part, bits if any(bits) else b"") for part, bits in parts]
