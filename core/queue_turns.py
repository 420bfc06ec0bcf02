"""Turns of keys: of each key one message is out, those that are read meanwhile wait, by offset.

A key is known by its hash: two keys of one hash share their turn. The next message becomes ready not when the one
before is done but when that is durable (`written`), or a crash could hand them out in another order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Turns:
    """The turns of one partition. `held` counts what waits or is ready; `waiting` is empty while no turn counts."""

    def __init__(self) -> None:
        self.waiting: dict[int, deque[int]] = {}  # key -> offsets that wait; there: a message of it is out
        self._key_of: dict[int, int] = {}  # offset that is out -> key
        self._turning: list[int] = []  # keys whose message is done
        self._writing: list[int] = []  # keys whose message is done in the append that is on its way
        self.ready: deque[int] = deque()  # offsets whose turn has come
        self.held = 0

    def __bool__(self) -> bool:
        """Whether some key has a message out."""
        return bool(self.waiting)

    @property
    def is_dirty(self) -> bool:
        return bool(self._turning)

    def key_of(self, offset: int) -> int | None:
        return self._key_of.get(offset)

    def take(self, offset: int, key: int) -> bool:
        """Whether a message of this key may go out now: then it is the one that is out. Else it waits."""
        waiting = self.waiting.get(key)
        if waiting is None:
            self.out(offset, key)
            return True
        waiting.append(offset)
        self.held += 1
        return False

    def out(self, offset: int, key: int) -> None:
        """This message is the one that is out."""
        self.waiting[key] = deque()
        self._key_of[offset] = key

    def pass_ready(self) -> int:
        """The first that is ready goes out, or is gone."""
        self.held -= 1
        return self.ready.popleft()

    def done(self, offsets: Iterable[int]) -> None:
        """These are done, but that is not durable yet."""
        if self._key_of:
            keys = [self._key_of.pop(offset, None) for offset in offsets]
            self._turning += [key for key in keys if key is not None]

    def gone(self, offset: int) -> None:
        """This one is done, durably."""
        key = self._key_of.pop(offset, None)
        if key is not None:
            self._turn([key])

    def write(self) -> None:
        """What is done up to now goes into an append."""
        self._writing, self._turning = self._turning, []

    def written(self) -> bool:
        """It is durable. True: some turns may have come."""
        keys, self._writing = self._writing, []
        self._turn(keys)
        return bool(keys)

    def not_written(self) -> None:
        self._turning += self._writing
        self._writing = []

    def _turn(self, keys: list[int]) -> None:
        for key in keys:
            waiting = self.waiting[key]
            if waiting:
                following = waiting.popleft()
                self._key_of[following] = key
                self.ready.append(following)
            else:
                del self.waiting[key]
