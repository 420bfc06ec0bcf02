"""Sends, and the producer ids that make them idempotent."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of


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
    """`atomic` 1: all batches or none, in one append; 0: each for itself."""

    atomic: int
    entries: list[SendEntry]


class SendResult(NamedTuple):
    """`duplicate` 1: stored before, at `base_offset` (-1: no longer known)."""

    status: int
    duplicate: int
    base_offset: int


class SendReply(NamedTuple):
    entries: list[SendResult]


_SEND = Declared(SendEntry, c.Struct("topic" / TEXT, "partition" / c.Int32ub, "size" / c.Int32ub))
_SENT = Declared(SendResult, c.Struct("status" / c.Int8ub, "duplicate" / FLAG, "base_offset" / c.Int64sb))

KINDS = {
    5: Kind(
        Declared(NewProducer, c.Struct()),
        Declared(NewProducerReply, c.Struct("producer_id" / c.Int64sb, "producer_epoch" / c.Int16sb)),
    ),
    6: Kind(
        Declared(Send, c.Struct("atomic" / FLAG, "entries" / list_of(_SEND.fields)).compile(), {"entries": _SEND}),
        Declared(SendReply, c.Struct("entries" / list_of(_SENT.fields)).compile(), {"entries": _SENT}),
    ),
}
