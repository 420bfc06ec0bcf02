"""What the consumer of a queue group has here, and the credit that it takes up. No I/O.

A handout (`trivium.handouts`) waits, is opened when its first message is asked for, and is held until each of its
messages is settled. What is settled comes back as credit, which the broker is told of together with more (`granting`).

A loop that stood still (a handler that blocks it, a process that is stopped) renews nothing meanwhile, and others may
have got what is here. So a message is given only as long as it is certain that it is ours: for the time that messages
are invisible, from the renewal on, or from when the loop was last seen to run before the message came. After that it
waits for a renewal (`renewing`), which says what is still ours.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

import anyio

from trivium.expiry import can_expire
from trivium.frames.queues import NO_LEASE, REJECT, Delivery, SettleEntry
from trivium.handouts import Handout, Message
from trivium.record_batch import BatchError
from trivium.settling import REASON_CHARS_MAX, Settling


class HeldMessages:
    """What cannot be given to the application, because it is too old or cannot be read, is settled by `settling`."""

    def __init__(self, settling: Settling, credit_messages: int, credit_bytes: int) -> None:
        self._settling = settling
        self._credit_messages = credit_messages
        self._credit_bytes = credit_bytes
        self._handouts: dict[Handout, None] = {}  # with messages that are not settled
        self._waiting: deque[Handout] = deque()  # of them those that nobody has opened
        self.opened: deque[Message] = deque()  # messages that nobody has been given
        self._can_expire = False  # some of them
        self._messages = self._bytes = 0  # of `_handouts`
        self._returned_messages = self._returned_bytes = 0  # not yet granted again
        self.granting = anyio.Event()
        self.renewing = anyio.Event()
        self._invisible_s = math.inf
        self._ran_s = (-math.inf, -math.inf)  # when the loop was seen to run, the last two times

    # -- coming and going

    def deliver(self, entries: Sequence[Delivery], payload: memoryview) -> None:
        """The broker hands out; the payload holds the entries' batches."""
        at = 0
        for entry in entries:
            handout = Handout(entry, payload[at : at + entry.size])
            if handout.lease != NO_LEASE:
                # Timers and what was received are seen in any order after a pause: only the time before is certain.
                handout.until_s = self._ran_s[0] + self._invisible_s
            at += entry.size
            self._handouts[handout] = None
            self._messages += handout.count
            self._bytes += handout.size
            self._waiting.append(handout)

    def open(self) -> bool:
        """Whether there is a message to give. Those whose time is over are not: they are done."""
        while self.opened or self._waiting:
            if not self.opened:
                self._can_expire = False
                self._open_next()
            elif self._can_expire and (message := self.opened[0]).is_expired:
                self.opened.popleft()
                if message.handout.lease != NO_LEASE:
                    self._settling.ack(message.handout, message.offset)
                self.settle(message)
            elif self.opened[0].handout.may_be_over:
                self.renewing.set()
                return False
            else:
                return True
        return False

    def _open_next(self) -> None:
        handout = self._waiting.popleft()
        try:
            messages = handout.open()
        except BatchError as error:
            for first, last in handout.ranges(handout.pending):
                entry = (handout.topic, handout.partition, handout.lease, first, last)
                self._settling.ask(SettleEntry(*entry, REJECT, -1, f"cannot be read: {error}"[:REASON_CHARS_MAX]))
            self._messages -= handout.count
            self._returned_messages += handout.count
            handout.pending = 0
            self._close(handout)
            return
        self.opened += messages
        self._can_expire |= any(message.headers and can_expire(message.headers) for message in messages)

    # -- time

    def joined(self, invisible_ms: int) -> None:
        """What comes from now on is no older than this."""
        self.follow(invisible_ms)
        self._ran_s = (time.monotonic(),) * 2

    def follow(self, invisible_ms: int) -> None:
        self._invisible_s = invisible_ms / 1000

    def runs(self) -> None:
        """The loop runs: called several times in the time that messages are invisible."""
        self._ran_s = (self._ran_s[1], time.monotonic())

    # -- giving

    def give(self) -> Message:
        """The first of `opened`, to the application."""
        message = self.opened.popleft()
        message.handout.next_offset = message.offset + 1
        if message.handout.lease == NO_LEASE:
            self.settle(message)
        return message

    def give_ahead(self, messages_max: int) -> list[Message]:
        """As many as there are; they count as started on when somebody says so (`Subscriber.begin`)."""
        while len(self.opened) < messages_max and self._waiting:
            self._open_next()
        taken = [self.opened.popleft() for _ in range(min(messages_max, len(self.opened)))]
        for message in taken:
            if message.handout.lease == NO_LEASE:
                self.settle(message)
        return taken

    def settle(self, message: Message) -> None:
        """It is no longer here."""
        handout = message.handout
        handout.settle(message.offset)
        self._returned_messages += 1
        if not handout.pending:
            self._close(handout)
        self._messages -= 1
        self.look_at_credit()

    def drop(self, handout: Handout) -> None:
        """The broker has given it to others: what nobody here has started on is dropped."""
        dropped = handout.not_started
        handout.pending &= ~dropped
        self._returned_messages += dropped.bit_count()
        self._messages -= dropped.bit_count()
        if handout in self._waiting:
            self._waiting.remove(handout)
        self.opened = deque(message for message in self.opened if message.handout is not handout)
        if not handout.pending:
            self._close(handout)

    def _close(self, handout: Handout) -> None:
        if handout in self._handouts:
            del self._handouts[handout]
            self._returned_bytes += handout.size
            self._bytes -= handout.size

    @property
    def leased(self) -> list[Handout]:
        """What must be renewed, and settled in the end."""
        return [handout for handout in self._handouts if handout.lease != NO_LEASE]

    @property
    def waiting_count(self) -> int:
        """Messages that nobody has been given."""
        return len(self.opened) + sum(handout.count for handout in self._waiting)

    @property
    def unsettled_count(self) -> int:
        return sum(handout.count for handout in self._handouts)

    # -- credit

    def look_at_credit(self) -> None:
        """Grants again when half has come back: of all, or, when nothing waits here, of what slow handlers leave."""
        if not self._credit_messages or not self._returned_messages:
            return  # messages are asked for, or nothing came back
        messages, size = self._credit_messages, self._credit_bytes
        if not self.opened and not self._waiting:
            messages -= self._messages
            size -= self._bytes
        if self._returned_messages * 2 >= messages or self._returned_bytes * 2 >= size:
            self.granting.set()

    def take_credit(self) -> tuple[int, int]:
        """Messages and bytes that came back and are granted again now."""
        returned = (self._returned_messages, self._returned_bytes)
        self._returned_messages = self._returned_bytes = 0
        return returned

    def take_all_credit(self) -> tuple[int, int] | None:
        """Messages and bytes to grant over a new connection; None when nothing is pushed."""
        self._returned_messages = self._returned_bytes = 0
        if not self._credit_messages:
            return None
        return max(self._credit_messages - self._messages, 0), max(self._credit_bytes - self._bytes, 1)
