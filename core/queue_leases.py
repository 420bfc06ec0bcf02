"""What members of a group have of a partition."""

from __future__ import annotations

from typing import NamedTuple


class Lease:
    """Offsets that a member has: `parts` are [mask from `first` on, until when]."""

    __slots__ = ("attempt", "first", "id", "last", "member", "parts", "size_bytes")

    def __init__(self, number: int, member: str, first: int, mask: int, until_ms: int, attempt: int, size: int) -> None:
        self.id = number
        self.member = member
        self.first = first
        self.last = first + mask.bit_length() - 1
        self.parts = [[mask, until_ms]]
        self.attempt = attempt
        self.size_bytes = size

    def overlaps(self, first: int, last: int) -> bool:
        """Before anything is shifted: offsets come from clients."""
        return first <= self.last and last >= self.first

    def take(self, mask: int) -> int:
        """Removes those of the mask's offsets that it has, and returns them."""
        taken = 0
        for part in self.parts:
            taken |= part[0] & mask
            part[0] &= ~mask
        if taken:
            self.parts = [part for part in self.parts if part[0]]
        return taken

    @property
    def pending(self) -> int:
        mask = 0
        for part in self.parts:
            mask |= part[0]
        return mask


class Expired(NamedTuple):
    lease: Lease
    mask: int
