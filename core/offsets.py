"""Committed offsets: who may commit, what is durable, what waits for a transaction, what is forgotten when.

* A commit is answered when its record is durable, and only then seen by a fetch.
* An offset sent in a transaction is pending (`pending_offsets`). The end of the transaction writes, in the append that
  carries the markers, what becomes of it (`pending_changes`), and `complete_txn` then makes that so in memory. If a
  plain commit came after the pending one it stays: the last word counts, as in the log.
* Offsets of a group expire when nobody needs them (KIP-211): an empty group's `offsets_retention_ms` after it became
  empty, a live group's for topics nobody in it subscribes, a group's that never had members that long after their
  commit. Pending offsets hold them back.
* A reset sets offsets whatever anybody holds, and is counted. Members of the group are removed with it; who commits
  from outside the group may name the count it knows, and is refused when the group has been reset since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from core.errors import CoreError, CoreFailure
from core.group_classic import ClassicGroup, State
from core.group_codec import VERSION, Reader, Writer, offset_key, pending_key, resets_key
from core.group_log import GroupLog
from core.group_replay import Group
from core.groups import Groups
from core.offset_record import Key, Offset, decode_offset, encode_offset
from core.pending_offsets import PendingOffsets
from core.state import Change

NO_EPOCH = -1


class OffsetToCommit(NamedTuple):
    topic: str
    partition: int
    offset: int
    leader_epoch: int = NO_EPOCH
    metadata: str | None = None
    commit_ms: int = -1  # wall clock; -1: now


class CommitRequest(NamedTuple):
    """`generation` is the member epoch of a KIP-848 member; -1 with an empty member id commits from outside the
    group.
    """

    group_id: str
    member_id: str
    instance_id: str | None
    generation: int
    offsets: list[OffsetToCommit]
    retention_ms: int = -1  # -1: the broker's
    knows_epochs: bool = True  # the request can be told about member epochs and missing groups (OffsetCommit 9)
    resets: int = -1  # of the group, as the committer knows it; -1: it does not


CommitReply = Callable[[CoreError | None, list[CoreError | None]], None]  # of the whole request, or one for each offset


class Offsets:
    """The table of committed offsets."""

    def __init__(self, groups: Groups, log: GroupLog) -> None:
        self._groups = groups
        self._limits = groups.limits
        self._log = log
        self._table: dict[str, dict[tuple[str, int], Offset]] = {}
        self._accepted: dict[Key, int] = {}  # the last commit on its way to the log -> sequence
        self._pending = PendingOffsets()
        self._resets: dict[str, int] = {}
        self._resetting: Counter[str] = Counter()  # groups of which resets are on their way to the log
        self._reset_listeners: list[Callable[[str], None]] = []
        self._sequence = 0
        groups.holds_offsets = self._holds

    # -- commit

    def commit(self, request: CommitRequest, reply: CommitReply, now_ms: int) -> None:
        """Answers `reply(error, [])` or `reply(None, [error or None per offset])`."""
        try:
            self._check(request, now_ms, transactional=False)
        except CoreFailure as failure:
            reply(failure.error, [])
            return
        known = request.resets == self.resets(request.group_id) and not self._resetting[request.group_id]
        if request.resets != -1 and not known:
            reply(CoreError.GROUP_WAS_RESET, [])
            return
        accepted, errors = self._accept(request)
        changes = [(offset_key(*key), encode_offset(offset)) for key, offset in accepted]
        self._accepted.update((key, offset.sequence) for key, offset in accepted)

        def done(error: CoreError | None) -> None:
            self._settle(accepted, error)
            reply(None, _merge(errors, error))

        self._log.write(changes, done)

    def _settle(self, accepted: list[tuple[Key, Offset]], error: CoreError | None) -> None:
        """What was accepted is durable, or refused by the log."""
        for key, offset in accepted:
            if self._accepted.get(key) == offset.sequence:
                del self._accepted[key]
            if error is None:
                self._put(key, offset)

    def commit_pending(self, producer_id: int, request: CommitRequest, reply: CommitReply, now_ms: int) -> None:
        """TxnOffsetCommit: as `commit`, but the offsets wait for the end of the producer's transaction."""
        try:
            self._check(request, now_ms, transactional=True)
        except CoreFailure as failure:
            reply(failure.error, [])
            return
        accepted, errors = self._accept(request)
        for key, offset in accepted:
            self._pending.hold(producer_id, key, offset)

        def done(error: CoreError | None) -> None:
            if error is not None:
                for key, offset in accepted:
                    self._pending.release(producer_id, key, offset)
            reply(None, _merge(errors, error))

        self._log.write([(pending_key(producer_id, *key), encode_offset(offset)) for key, offset in accepted], done)

    def _check(self, request: CommitRequest, now_ms: int, *, transactional: bool) -> None:
        """Raises CoreFailure unless the member may commit."""
        self._groups.check_commit(
            request.group_id,
            request.member_id,
            request.instance_id,
            request.generation,
            transactional=transactional,
            knows_epochs=request.knows_epochs,
            now_ms=now_ms,
        )

    def _accept(self, request: CommitRequest) -> tuple[list[tuple[Key, Offset]], list[CoreError | None]]:
        wall_ms = self._groups.wall_ms()
        expire_ms = -1 if request.retention_ms < 0 else wall_ms + request.retention_ms
        accepted: list[tuple[Key, Offset]] = []
        errors: list[CoreError | None] = []
        for one in request.offsets:
            metadata = one.metadata or ""
            if len(metadata) > self._limits.offset_metadata_bytes_max:
                errors.append(CoreError.OFFSET_METADATA_TOO_LARGE)
                continue
            self._sequence += 1
            commit_ms = wall_ms if one.commit_ms < 0 else one.commit_ms
            offset = Offset(one.offset, one.leader_epoch, metadata, commit_ms, expire_ms, self._sequence)
            accepted.append(((request.group_id, one.topic, one.partition), offset))
            errors.append(None)
        return accepted, errors

    # -- reset

    def resets(self, group_id: str) -> int:
        """How often the group's offsets were reset: as they are told, so what is on its way does not count yet."""
        return self._resets.get(group_id, 0)

    def on_reset(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Calls `listener` with the id of every group whose reset has become durable; returns what ends that."""
        self._reset_listeners.append(listener)
        return lambda: self._reset_listeners.remove(listener)

    def topics_of(self, group_id: str) -> set[str]:
        """The topics that the group has offsets of."""
        return {topic for topic, _ in self._table.get(group_id, {})}

    def reset(
        self, group_id: str, places: dict[tuple[str, int], int], done: Callable[[CoreError | None], None]
    ) -> None:
        """Sets offsets, (topic, partition) -> next to read; `done` when they are durable. Commits that come after this
        call with an older count of resets are refused; they were made from what was read before.
        """
        wanted = [OffsetToCommit(topic, partition, offset) for (topic, partition), offset in places.items()]
        accepted, _ = self._accept(CommitRequest(group_id, "", None, -1, wanted))
        self._accepted.update((key, offset.sequence) for key, offset in accepted)
        self._resetting[group_id] += 1
        count = self.resets(group_id) + self._resetting[group_id]
        changes: list[Change] = [(resets_key(group_id), Writer(VERSION).i32(count).finish())]
        changes += [(offset_key(*key), encode_offset(offset)) for key, offset in accepted]

        def written(error: CoreError | None) -> None:
            self._settle(accepted, error)
            self._resetting[group_id] -= 1
            if not self._resetting[group_id]:
                del self._resetting[group_id]
            if error is None:
                self._resets[group_id] = count
                for listener in list(self._reset_listeners):
                    listener(group_id)
            done(error)

        self._log.write(changes, written)

    # -- transactions

    def pending_changes(self, producer_id: int, committed: bool) -> list[Change]:
        """The changes that belong into the append that ends the producer's transaction. Follow it with `complete_txn`
        when it is durable.
        """
        self._log.flush()  # what this covers must stand before it in the log
        covered = self._pending.of(producer_id)
        counts: set[Key] = set()
        changes: list[Change] = []
        for key, offset in covered.items():
            changes.append((pending_key(producer_id, *key), None))
            if committed and offset.sequence > self._last_sequence(key):
                counts.add(key)
                changes.append((offset_key(*key), encode_offset(offset)))
        self._pending.begin_end(producer_id, covered, counts)
        return changes

    def complete_txn(self, producer_id: int, committed: bool) -> None:
        """The end of the transaction is durable: the offsets that `pending_changes` covered count, or are gone."""
        counting = self._pending.end(producer_id)
        if committed:
            for key, offset in counting:
                self._put(key, offset)

    def pending_producers(self) -> list[int]:
        """Producers with pending offsets."""
        return self._pending.producers()

    def _last_sequence(self, key: Key) -> int:
        known = self._table.get(key[0], {}).get(key[1:])
        return max(self._accepted.get(key, -1), -1 if known is None else known.sequence)

    # -- fetch

    def fetch(self, group_id: str, member_id: str | None, member_epoch: int) -> dict[tuple[str, int], Offset]:
        """All committed offsets of the group, by topic and partition (none when there is no such group).

        Raises CoreFailure(UNKNOWN_MEMBER | STALE_MEMBER_EPOCH | ILLEGAL_GENERATION) for a member that is not what it
        says.
        """
        self._groups.check_fetch(group_id, member_id, member_epoch)
        return self._table.get(group_id, {})

    def committed(self, group_id: str, topic: str, partition: int) -> int | None:
        """One committed offset, None when there is none."""
        found = self._table.get(group_id, {}).get((topic, partition))
        return None if found is None else found.offset

    def is_unstable(self, group_id: str, topic: str, partition: int) -> bool:
        """Whether a transaction that is still open will change this offset (KIP-447)."""
        return (group_id, topic, partition) in self._pending

    # -- delete and expire

    def delete(self, group_id: str, wanted: list[tuple[str, int]], reply: CommitReply) -> None:
        """Deletes offsets of topics that the group does not subscribe. As Kafka, deleting what is not there is no
        error.
        """
        try:
            group = self._groups.check_offset_delete(group_id)
        except CoreFailure as failure:
            reply(failure.error, [])
            return
        errors: list[CoreError | None] = []
        keys: list[Key] = []
        for topic, partition in wanted:
            subscribed = group.is_subscribed(topic)
            errors.append(CoreError.GROUP_SUBSCRIBED if subscribed else None)
            if not subscribed and (topic, partition) in self._table.get(group_id, {}):
                keys.append((group_id, topic, partition))
        self._forget(keys, lambda error: reply(None, _merge(errors, error)))

    def _forget(self, keys: list[Key], then: Callable[[CoreError | None], None]) -> None:
        def done(error: CoreError | None) -> None:
            if error is None:
                for key in keys:
                    self._drop(key)
            then(error)

        self._log.write([(offset_key(*key), None) for key in keys], done)

    def drop_topic(self, topic: str, partition_count: int = 0) -> None:
        """Forgets the offsets of a topic's partitions from `partition_count` on (0: the topic is gone)."""
        keys = [
            (group_id, topic, partition)
            for group_id, offsets in self._table.items()
            for name, partition in offsets
            if name == topic and partition >= partition_count
        ]
        self._forget(keys, lambda error: None)

    def group_changes(self, group_id: str) -> list[Change]:
        """The changes that forget everything about a group that is being deleted; `group_deleted` when they are
        durable.
        """
        changes: list[Change] = [(offset_key(group_id, *key), None) for key in self._table.get(group_id, {})]
        if group_id in self._resets:
            changes.append((resets_key(group_id), None))
        changes += [(pending_key(producer_id, *key), None) for producer_id, key in self._pending.of_group(group_id)]
        return changes

    def group_deleted(self, group_id: str) -> None:
        self._table.pop(group_id, None)
        self._resets.pop(group_id, None)
        for producer_id, key in self._pending.of_group(group_id):
            self._pending.release(producer_id, key)

    def _holds(self, group_id: str) -> bool:
        return group_id in self._table or any(key[0] == group_id for key in (*self._pending, *self._accepted))

    def expire(self, wall_ms: int) -> None:
        """Forgets what has expired, and with their last offset groups that nobody uses."""
        idle: list[str] = []
        expired: list[Key] = []
        held_groups = {key[0] for key in self._pending}
        for group in self._groups.all():
            offsets = self._table.get(group.id, {})
            gone = [
                key
                for key in self._expired(group, offsets, wall_ms)
                if (group.id, *key) not in self._pending and (group.id, *key) not in self._accepted
            ]
            expired += [(group.id, *key) for key in gone]
            if group.is_empty and len(gone) == len(offsets) and group.id not in held_groups:
                idle.append(group.id)
        self._forget(expired, lambda error: None)
        self._groups.forget_idle(idle)
        counted = [group_id for group_id in idle if self._resets.pop(group_id, None) is not None]
        self._log.write([(resets_key(group_id), None) for group_id in counted], lambda error: None)

    def _expired(self, group: Group, offsets: dict[tuple[str, int], Offset], wall_ms: int) -> Iterable[tuple[str, int]]:
        empty_since_ms = -1
        if isinstance(group, ClassicGroup) and group.protocol_type is not None:
            if group.state is State.EMPTY:
                empty_since_ms = group.state_wall_ms
            elif not (group.uses_consumer_protocol and group.subscribed is not None and group.state is State.STABLE):
                return
        for key, offset in offsets.items():
            if not group.is_empty and group.is_subscribed(key[0]):
                continue
            since_ms = offset.commit_ms if empty_since_ms < 0 else empty_since_ms
            expire_ms = offset.expire_ms if offset.expire_ms >= 0 else since_ms + self._limits.offsets_retention_ms
            if wall_ms >= expire_ms:
                yield key

    # -- the table and its log

    def _put(self, key: Key, offset: Offset) -> None:
        self._groups.ensure_simple(key[0])
        self._table.setdefault(key[0], {})[key[1:]] = offset

    def _drop(self, key: Key) -> None:
        offsets = self._table.get(key[0])
        if offsets is not None:
            offsets.pop(key[1:], None)
            if not offsets:
                del self._table[key[0]]

    def start(self) -> None:
        """All records are replayed."""
        for group_id in self._table:
            self._groups.ensure_simple(group_id)

    def apply_offset(self, reader: Reader, value: bytes | None) -> None:
        """Replays a record of kind offset."""
        key = (reader.text(), reader.text(), reader.i32())
        if value is None:
            self._drop(key)
        else:
            self._sequence += 1
            self._table.setdefault(key[0], {})[key[1:]] = decode_offset(value, self._sequence)

    def apply_resets(self, reader: Reader, value: bytes | None) -> None:
        """Replays a record of kind resets."""
        group_id = reader.text()
        if value is None:
            self._resets.pop(group_id, None)
        else:
            count = Reader(value)
            count.version()
            self._resets[group_id] = count.i32()

    def apply_pending(self, reader: Reader, value: bytes | None) -> None:
        """Replays a record of kind pending."""
        producer_id = reader.i64()
        key = (reader.text(), reader.text(), reader.i32())
        if value is None:
            self._pending.release(producer_id, key)
        else:
            self._sequence += 1
            self._pending.hold(producer_id, key, decode_offset(value, self._sequence))


def _merge(errors: list[CoreError | None], error: CoreError | None) -> list[CoreError | None]:
    """`error`: why the store refused, which holds for all that was accepted."""
    return errors if error is None else [one or error for one in errors]
