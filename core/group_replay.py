"""What the log says of groups, record by record, becomes the table that they were in."""

from __future__ import annotations

from core.consumer_group import ConsumerGroup, decode_consumer_group, decode_member
from core.group_classic import ClassicGroup, decode_group
from core.group_codec import Reader

Group = ClassicGroup | ConsumerGroup


class GroupReplay:
    """Applies records in the order of the log. A reader stands behind the key's kind; a value of None deletes."""

    def __init__(self, groups: dict[str, Group]) -> None:
        self._groups = groups

    def classic(self, reader: Reader, value: bytes | None) -> None:
        """Replays a record of kind classic."""
        group_id = reader.text()
        if value is not None:
            self._groups[group_id] = decode_group(group_id, value)
        elif isinstance(self._groups.get(group_id), ClassicGroup):
            del self._groups[group_id]

    def consumer(self, reader: Reader, value: bytes | None) -> None:
        """Replays a record of kind consumer."""
        group_id = reader.text()
        if value is not None:
            decode_consumer_group(self._replayed(group_id), value)
        elif isinstance(self._groups.get(group_id), ConsumerGroup):
            del self._groups[group_id]

    def member(self, reader: Reader, value: bytes | None) -> None:
        """Replays a record of kind member."""
        group_id, member_id = reader.text(), reader.text()
        if value is not None:
            found, target = decode_member(member_id, value)
            group = self._replayed(group_id)
            group.remove(member_id)
            group.put(found)
            group.targets[member_id] = target
        else:
            known = self._groups.get(group_id)
            if isinstance(known, ConsumerGroup):
                known.remove(member_id)

    def _replayed(self, group_id: str) -> ConsumerGroup:
        group = self._groups.get(group_id)
        if not isinstance(group, ConsumerGroup):
            group = self._groups[group_id] = ConsumerGroup(group_id)
        return group
