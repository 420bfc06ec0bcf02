"""Makes groups durable. When the disk is full they go on in memory, so that reading goes on, and are saved when there
is room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from core.consumer_group import ConsumerGroup
from core.errors import CoreError
from core.group_classic import NEVER, ClassicGroup, State
from core.group_codec import classic_key
from core.group_log import GroupLog
from core.group_replay import Group
from core.group_types import Done
from core.state import Change

_SAVE_AGAIN_MS: Final = 5_000


class GroupSaver:
    """`table` is the groups by id; `on_due` is called when `due_ms` has become earlier. A full disk is no error to who
    saves; any other failure is COORDINATOR_NOT_AVAILABLE.
    """

    def __init__(
        self, log: GroupLog, table: dict[str, Group], now_ms: Callable[[], int], on_due: Callable[[], None]
    ) -> None:
        self._log = log
        self._table = table
        self._now_ms = now_ms
        self._on_due = on_due
        self._unsaved: dict[str, list[Change]] = {}  # group id -> what is to be deleted of the group before it
        self.due_ms = NEVER  # when `save_unsaved` is to be called

    def save(self, group: ClassicGroup, assignments: dict[str, bytes], done: Done) -> None:
        """A classic group, with these assignments."""
        group.stored = True
        self._log.write(
            [(classic_key(group.id), group.encode(assignments))], lambda error: done(self._written(group, error))
        )

    def write(self, group: ConsumerGroup, done: Done) -> None:
        """The changes of a KIP-848 group; `done` at once when there are none."""
        dirty = set(group.dirty)
        changes = group.take_changes()

        def written(error: CoreError | None) -> None:
            if error is not None:
                group.dirty |= dirty
                group.dirty_group = True
            done(self._written(group, error))

        self._log.write(changes, written)

    def exchange(self, group: Group, changes: list[Change]) -> None:
        """Puts the group in the place of the one of the same id."""
        self._table[group.id] = group

        def written(error: CoreError | None) -> None:
            if error is not None and isinstance(group, ConsumerGroup):
                group.dirty |= group.members.keys()
                group.dirty_group = True
            self._written(group, error, [change for change in changes if change[1] is None])

        self._log.write(changes, written)

    def _written(self, group: Group, error: CoreError | None, deletions: Sequence[Change] = ()) -> CoreError | None:
        if error is CoreError.STORE_FULL:
            if not self._unsaved:
                self.due_ms = self._now_ms() + _SAVE_AGAIN_MS
                self._on_due()
            self._unsaved.setdefault(group.id, []).extend(deletions)
            return None
        return None if error is None else CoreError.COORDINATOR_NOT_AVAILABLE

    def deletions(self, group_id: str) -> list[Change]:
        """What is still to be deleted of the group that had this id before."""
        return self._unsaved.get(group_id, [])

    def forget(self, group_id: str) -> None:
        """The group is deleted."""
        self._unsaved.pop(group_id, None)

    def save_unsaved(self) -> None:
        self.due_ms = NEVER
        unsaved, self._unsaved = self._unsaved, {}
        for group_id, deletions in unsaved.items():
            group = self._table.get(group_id)
            if group is not None:
                self._delete(group, deletions)
            if isinstance(group, ConsumerGroup):
                self.write(group, lambda error: None)
            elif group is not None and group.state in (State.STABLE, State.EMPTY):
                self.save(group, {m.id: m.assignment for m in group.members.values()}, lambda error: None)

    def _delete(self, group: Group, deletions: list[Change]) -> None:
        def written(error: CoreError | None) -> None:
            self._written(group, error, deletions)

        self._log.write(deletions, written)
