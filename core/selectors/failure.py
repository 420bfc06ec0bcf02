"""The one error of a filter that cannot be compiled."""

from __future__ import annotations

from core.errors import CoreError, CoreFailure


class InvalidFilter(CoreFailure):
    """`position` counts characters from 0; the message, for people, from 1."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(CoreError.INVALID_FILTER, f"filter, at character {position + 1}: {message}")
        self.position = position
