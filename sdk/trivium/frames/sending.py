"""Sends, and the producer ids that make them idempotent."""

from __future__ import annotations

from typing import Final, NamedTuple

import construct as c

from trivium.frames.declare import TEXT, Declared, Kind, list_of

ATOMIC: Final = 1  # all batches or none, in one append; else each for itself
LOOK: Final = 2  # some record has a header that asks for something: look into the batches, whatever the topic says
NO_REPLY: Final = 4  # nobody waits: no answer, not for a refusal either

SCHEDULED: Final = 1
STORED_BEFORE: Final = 2


class NewProducer(NamedTuple):
    """Asks for a producer id."""


class NewProducerReply(NamedTuple):
    producer_id: int
    producer_epoch: int


class SendEntry(NamedTuple):
    """One batch of `size` payload bytes for one partition."""

    topic: str
    partition: int
    size: int


class Send(NamedTuple):
    """`flags`: ATOMIC, LOOK, NO_REPLY. `transactional_id`: of the transaction that the batches belong to, or empty."""

    flags: int
    transactional_id: str
    entries: list[SendEntry]


class Note(NamedTuple):
    """What became of a record other than being stored at its offset: `what` is SCHEDULED, or STORED_BEFORE (then
    `message_id` is the first one's).
    """

    at: int
    message_id: str
    what: int


class SendResult(NamedTuple):
    """`duplicate` 1: the batch was stored before, at `base_offset` (-1: no longer known). `reason`: of a `status`."""

    status: int
    reason: str
    duplicate: int
    notes: list[Note]
    base_offset: int


class SendReply(NamedTuple):
    entries: list[SendResult]


class SendIf(NamedTuple):
    """One batch, all of one key, to be stored if the last record of that key stands at `last_offset` (-1: there is
    none). The payload is the batch.
    """

    topic: str
    partition: int
    last_offset: int


class SendIfReply(NamedTuple):
    """`stored` 0: the key's last offset is another, namely `last_offset`; -1: there is none."""

    stored: int
    last_offset: int
    base_offset: int


_SEND = Declared(SendEntry, c.Struct("topic" / TEXT, "partition" / c.Int32ub, "size" / c.Int32ub))
_NOTE = Declared(Note, c.Struct("at" / c.Int32ub, "message_id" / TEXT, "what" / c.Int8ub))
_SENT = Declared(
    SendResult,
    c.Struct(
        "status" / c.Int8ub,
        "reason" / TEXT,
        "duplicate" / c.Int8ub,
        "notes" / list_of(_NOTE.fields),
        "base_offset" / c.Int64sb,
    ),
    {"notes": _NOTE},
)

KINDS = {
    5: Kind(
        Declared(NewProducer, c.Struct()),
        Declared(NewProducerReply, c.Struct("producer_id" / c.Int64sb, "producer_epoch" / c.Int16sb)),
    ),
    6: Kind(
        Declared(
            Send,
            c.Struct("flags" / c.Int8ub, "transactional_id" / TEXT, "entries" / list_of(_SEND.fields)),
            {"entries": _SEND},
        ),
        Declared(SendReply, c.Struct("entries" / list_of(_SENT.fields)), {"entries": _SENT}),
    ),
    40: Kind(
        Declared(SendIf, c.Struct("topic" / TEXT, "partition" / c.Int32ub, "last_offset" / c.Int64sb)),
        Declared(SendIfReply, c.Struct("stored" / c.Int8ub, "last_offset" / c.Int64sb, "base_offset" / c.Int64sb)),
    ),
}
