"""One partition as one group has it: what is done, what members have, what has failed and waits.

Below the floor everything is done, from the end on nothing was ever handed out; between them every offset is done
(`queue_done`), leased (`queue_leases`), or held for its key's turn.

Rules:
- A message that has failed gets a row of its own (`queue_failed`: attempts, when to try again) and counts as done here,
  so one that fails for hours holds back neither the floor nor others. It ends when the row does: acknowledged, or a
  dead letter.
- A *lease* is messages that one member has, until a time. Its number is the receipt and stays the same when the time is
  extended. Numbers rise and carry the store's epoch; those up to `void_before` were cut off by a reset.
- Settling twice is harmless: to acknowledge what is done is done. A lease whose time is over may still be settled for
  as long as nobody else got the message; then it is late. Leases of earlier runs of the broker are not kept, but an
  acknowledgement under one counts likewise, until the message is handed out again.
- A lease without a time (FOREVER_MS) ends only when it is settled or given back. Where that would hold back the floor
  for too long, what it holds is `set_aside`: it gets a row of its own, as what has failed has.
- With order, a key's messages wait for their turn (`queue_turns`); a reset forgets turns.
- Memory runs ahead of the log. What has changed since the last write is in `changes`; whoever writes it answers when it
  is durable. After a crash what was leased is handed out again.

No I/O and no clock here: times are passed in.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator

from core.bitmaps import bits, full
from core.queue_codec import NEVER_MS, FailedRow, FloorRow
from core.queue_done import DoneOffsets
from core.queue_failed import TIMES_SPARE, Failed, FailedMessages
from core.queue_leases import Expired, Lease
from core.queue_turns import Turns
from core.queue_types import FOREVER_MS
from core.state import Change

NO_MORE = 1 << 62
_EARLIER = -1  # stands for the lease of a message that failed in an earlier run


class QueuePartition:
    """See the module. `partition` is the engine's number, `index` the topic's."""

    def __init__(self, group: str, topic: str, index: int, partition: int, floor: int = 0) -> None:
        self.group = group
        self.topic = topic
        self.index = index
        self.partition = partition
        self._done = DoneOffsets(floor)
        self.void_before = -1
        self._earlier_leases = -1  # leases up to this number are of earlier runs ...
        self._earlier_end = 0  # ... in which nothing from this offset on was handed out
        self.leases: dict[int, Lease] = {}
        self.leased_bytes = 0
        self._failed = FailedMessages()
        self.failed = self._failed.rows
        self._until: list[tuple[int, int]] = []  # heap of (time, lease)
        self._until_max = TIMES_SPARE  # then it is made anew
        self.turns = Turns()
        self._ending: deque[tuple[list[int], list[int]]] = deque()  # rows whose end is being written, per append

    # -- what is done

    @property
    def floor(self) -> int:
        return self._done.floor

    @property
    def end(self) -> int:
        return self._done.end

    @end.setter
    def end(self, end: int) -> None:
        self._done.end = end

    def undone(self, first: int, count: int) -> int:
        """Those of `count` offsets from `first` on, which is not below the floor, that are not done."""
        return self._done.undone(first, count)

    def is_done(self, offset: int) -> bool:
        """Acknowledged, passed over or a dead letter."""
        return offset not in self.failed and offset in self._done

    def complete(self, first: int, mask: int) -> None:
        """These offsets are done: acknowledged or passed over."""
        self._done.mark(first, mask)
        if self.failed:
            for bit in bits(mask):
                self._failed.end(first + bit)
        if self.turns.waiting:
            self.turns.done(first + bit for bit in bits(mask))

    def left(self, log_end: int) -> int:
        """Messages that are not done: never handed out, with members, waiting for their turn, or failed."""
        return (0 if self.is_retry_only else self._done.undone_count(log_end)) + len(self.failed)

    def skip(self, first: int, end: int) -> None:
        """There is nothing to hand out from `first` up to, not with, `end`."""
        self._done.mark_range(first, end)

    def log_start_moved(self, log_start: int) -> None:
        """What the log no longer has is done. Leases on it may still be settled."""
        for offset in [offset for offset in self.failed if offset < log_start]:
            self.complete(offset, 1)
        self._done.jump(log_start)

    # -- leases

    def lease(
        self,
        number: int,
        member: str,
        first: int,
        mask: int,
        until_ms: int,
        *,
        attempt: int = 1,
        size_bytes: int = 0,
        again: bool = False,
    ) -> Lease:
        """Gives offsets to a member; `again`: what was taken with `take_due`."""
        made = self.leases[number] = Lease(number, member, first, mask, until_ms, attempt, size_bytes)
        if again:
            for bit in bits(mask):
                failed = self.failed.get(first + bit)
                if failed is not None:
                    failed.lease = number
        self.leased_bytes += size_bytes
        self._ends_at(until_ms, number)
        return made

    def _ends_at(self, until_ms: int, number: int) -> None:
        if until_ms >= FOREVER_MS:
            return
        heapq.heappush(self._until, (until_ms, number))
        if (
            len(self._until) > self._until_max
        ):  # times that were moved, and leases that are settled, leave theirs behind
            times = {(part[1], lease.id) for lease in self.leases.values() for part in lease.parts}
            self._until = sorted(one for one in times if one[0] < FOREVER_MS)
            self._until_max = 2 * len(self._until) + TIMES_SPARE

    def hand_out(self, number: int, member: str, offset: int, until_ms: int) -> None:
        """Gives the next message to a member: those between the end and this one are passed over."""
        if offset > self.end:
            self.skip(self.end, offset)
        self.end = offset + 1
        self.lease(number, member, offset, 1, until_ms)

    def hand_again(self, number: int, member: str, offset: int, until_ms: int) -> None:
        """Gives what `due` has said to a member."""
        attempt = self.take_due(offset)
        self.lease(number, member, offset, 1, until_ms, attempt=attempt, again=True)

    def set_aside(self, now_ms: int) -> None:
        """Everything that members have gets a row of its own, and holds back the floor no longer."""
        for lease in self.leases.values():
            for bit in bits(lease.pending):
                offset = lease.first + bit
                if offset not in self.failed:
                    self.fail(offset, lease.attempt - 1, now_ms, "", lease.id).leased = True

    def claim(self, number: int, member: str, offset: int, until_ms: int) -> bool:
        """A member had this message before a restart and still has it. False: it is done."""
        failed = self.failed.get(offset)
        if failed is None:
            if self.is_done(offset):
                return False
            failed = self.fail(offset, 0, 0, "", number)
        failed.leased = True
        self.lease(number, member, offset, 1, until_ms, attempt=failed.attempts + 1, again=True)
        return True

    def settle(self, number: int, first: int, last: int, reach: int = 0) -> tuple[Lease | None, int, int]:
        """Takes these offsets out of a lease. Returns the lease, if there still is one, and two masks from `first` on:
        those that the caller now decides about, and those that are done already. Under a lease of an earlier run these
        are at most those below `reach`.
        """
        wanted = full(last - first + 1)
        lease = self.leases.get(number)
        taken = 0
        if lease is not None and lease.overlaps(first, last):
            shift = first - lease.first
            taken = lease.take(wanted << shift if shift >= 0 else wanted >> -shift)
            taken = taken >> shift if shift >= 0 else taken << -shift
            if not lease.parts:
                self._end_lease(lease)
        if taken == wanted:
            return lease, taken, 0
        settled = 0
        for bit in bits(wanted & ~taken):
            failed = self.failed.get(first + bit)
            if failed is not None:
                if failed.lease in (number, _EARLIER) and not failed.leased and not failed.dying:
                    known = failed.lease == number or (number <= self._earlier_leases and first + bit < reach)
                    taken |= known << bit  # its time was over, but nobody else got it
            elif self.is_done(first + bit):
                settled |= 1 << bit
            elif number <= self._earlier_leases and self.end <= first + bit < min(reach, self._earlier_end):
                taken |= 1 << bit  # it was not handed out again since the start
        return lease, taken, settled

    def acknowledge(self, number: int, first: int, last: int, reach: int = 0) -> bool:
        """These offsets are done, if they are under the lease (`reach` as of `settle`). False: some were neither that
        nor done before; nothing was changed for those.
        """
        lease = self.leases.get(number)
        if lease is not None and lease.first == first == last == lease.last:  # the hot case
            del self.leases[number]
            self.leased_bytes -= lease.size_bytes
            self.complete(first, 1)
            return True
        _, taken, done_before = self.settle(number, first, last, reach)
        if taken:
            self.complete(first, taken)
        return taken | done_before == full(last - first + 1)

    def extend(self, number: int, first: int, last: int, until_ms: int) -> bool:
        """Gives a lease on these offsets more (or less) time. False: some are no longer under it; nothing was done."""
        lease = self.leases.get(number)
        if lease is None or not lease.first <= first <= last <= lease.last:
            return False
        wanted = full(last - first + 1) << (first - lease.first)
        if wanted & ~lease.pending:
            return False
        lease.take(wanted)
        lease.parts.append([wanted, until_ms])
        self._ends_at(until_ms, number)
        return True

    def cut(self, member: str, until_ms: int) -> None:
        """What a member has is its own no longer than this."""
        for lease in self.leases.values():
            if lease.member == member:
                for part in lease.parts:
                    part[1] = min(part[1], until_ms)
                self._ends_at(until_ms, lease.id)

    def prolong(self, member: str, until_ms: int) -> None:
        """What a member has is its own until then."""
        for lease in self.leases.values():
            if lease.member == member:
                lease.parts = [[lease.pending, until_ms]]
                self._ends_at(until_ms, lease.id)

    def release(self, member: str, kept: Collection[int]) -> Iterator[Expired]:
        """Takes from a member the leases that are not kept; the caller says what becomes of them."""
        for lease in [lease for lease in self.leases.values() if lease.member == member and lease.id not in kept]:
            mask = lease.pending
            self._end_lease(lease)
            yield Expired(lease, mask)

    def expire(self, now_ms: int) -> Iterator[Expired]:
        """Takes out of their leases what has run out of time; the caller says that it failed."""
        while self._until and self._until[0][0] <= now_ms:
            _, number = heapq.heappop(self._until)
            lease = self.leases.get(number)
            if lease is None:
                continue
            over = 0
            for part in lease.parts:
                if part[1] <= now_ms:
                    over |= part[0]
            if over:
                lease.take(over)
                if not lease.parts:
                    self._end_lease(lease)
                yield Expired(lease, over)

    def _end_lease(self, lease: Lease) -> None:
        del self.leases[lease.id]
        self.leased_bytes -= lease.size_bytes

    # -- what has failed

    def fail(self, offset: int, attempts: int, not_before_ms: int, reason: str, lease: int) -> Failed:
        """This message is to be tried again."""
        failed = Failed(attempts, not_before_ms, self.turns.key_of(offset), reason, lease)
        self._failed.put(offset, failed)
        self._done.mark(offset, 1)
        return failed

    def due(self, now_ms: int) -> int | None:
        """The next message that can be handed out again or whose turn has come. It stays until it is leased."""
        ready = self.turns.ready
        while ready:
            if ready[0] >= self.floor:
                return ready[0]
            self.turns.done([self.turns.pass_ready()])
        return self._failed.due(now_ms)

    def take_due(self, offset: int) -> int:
        """What `due` has said is handed out now, or is gone. Returns which attempt that is."""
        ready = self.turns.ready
        if ready and ready[0] == offset:
            self.turns.pass_ready()
        failed = self.failed.get(offset)
        if failed is None:
            return 1
        failed.leased = True
        return failed.attempts + 1

    def bury(self, offset: int) -> bool:
        """The message becomes a dead letter with the next append; see `FailedMessages.bury`."""
        return self._failed.bury(offset)

    def not_dead(self, offset: int) -> None:
        """That append was refused."""
        self._failed.not_dead(offset)

    def dead(self, offset: int) -> None:
        """The message is a dead letter, durably: its row went with the same append."""
        if self._failed.dead(offset):
            self.turns.gone(offset)

    # -- time, resets, durable state

    def next_expiry_ms(self) -> int | None:
        """When some lease may be over."""
        while self._until and self._until[0][1] not in self.leases:
            heapq.heappop(self._until)
        return self._until[0][0] if self._until else None

    def next_due_ms(self) -> int | None:
        """When some message may be handed out again."""
        return self._failed.next_due_ms()

    def reset(self, offset: int, void_before: int) -> None:
        """Everything below `offset` is done and nothing from it on; leases up to a number are void."""
        self._done.reset(offset)
        self._failed.clear()
        self.leases.clear()
        self._until.clear()
        self.leased_bytes = 0
        self.turns = Turns()
        self.void_before = void_before

    def changes(self, wall_ms_of: Callable[[int], int]) -> list[Change]:
        """The rows to write; then call `written` or `not_written`, in the same order. `wall_ms_of` turns a monotonic
        time into wall clock.
        """
        found, ended_chunks = self._done.changes(self.group, self.partition, self.void_before)
        rows, ended_failed = self._failed.changes(self.group, self.partition, wall_ms_of)
        self._ending.append((ended_chunks, ended_failed))
        self.turns.write()
        return found + rows

    def all_gone(self) -> list[Change]:
        """What takes away every row of it."""
        keys = self._done.keys(self.group, self.partition)
        keys += self._failed.keys(self.group, self.partition)
        return [(key, None) for key in keys]

    def written(self) -> bool:
        """The rows are durable. True: some keys' turns have come."""
        self._ending.popleft()
        return self.turns.written()

    def not_written(self) -> None:
        """The rows were refused: everything is written again with the next append."""
        chunks, offsets = self._ending.popleft()
        self._done.still_stored(chunks)
        self._failed.still_stored(offsets)
        self.turns.not_written()
        self.write_all()

    def write_all(self) -> None:
        """Everything is to be written, as if nothing had been."""
        self._done.write_all()
        self._failed.write_all()

    @property
    def is_idle(self) -> bool:
        """Whether everything before the end is done, and nothing else is known."""
        return self.floor == self.end and not (self.leases or self.failed or self._done)

    @property
    def is_busy(self) -> bool:
        """Whether there is something that time, or the log, can bring to an end."""
        return bool(self.leases or self.failed or self.is_dirty)

    @property
    def is_dirty(self) -> bool:
        return self._done.is_dirty or self._failed.is_dirty or self.turns.is_dirty

    # -- replay

    def load_floor(self, row: FloorRow) -> None:
        self._done.load_floor(row.floor)
        self.void_before = row.void_before

    def load_done(self, chunk: int, mask: int) -> None:
        self._done.load_chunk(chunk, mask)

    def load_failed(self, offset: int, row: FailedRow, not_before_ms: int) -> None:
        key = None if row.key_hash == -1 else row.key_hash
        failed = Failed(row.attempts, not_before_ms, key, row.reason, _EARLIER)
        failed.dying = row.not_before_wall_ms == NEVER_MS
        self._failed.load(offset, failed)
        if key is not None:
            self.turns.out(offset, key)

    def loaded(self) -> None:
        """After the last row: what an interrupted write left below the floor goes."""
        self._done.loaded()

    def recall(self, last_lease: int, end: int) -> None:
        """After a start: leases up to this number are of earlier runs, which handed out nothing from `end` on."""
        self._earlier_leases, self._earlier_end = last_lease, end

    @property
    def is_retry_only(self) -> bool:
        return self.floor == NO_MORE

    def retry_only(self) -> QueuePartition:
        """Makes it hand out nothing but what has a row of its own: a group's dead letters, sent again."""
        self._done.jump(NO_MORE)
        return self
