"""Transactions over partitions and group offsets (Kafka's), for consume-transform-produce."""

from __future__ import annotations

from typing import NamedTuple

import construct as c

from trivium.frames.declare import FLAG, TEXT, Declared, Kind, list_of
from trivium.frames.offsets import OFFSET, CommitReply, OffsetEntry


class OpenTransactions(NamedTuple):
    """Takes over a transactional id: who had it before is fenced, and its open transaction aborted."""

    transactional_id: str
    timeout_ms: int


class TransactionalProducer(NamedTuple):
    """The producer that the next transaction is to be sent with."""

    producer_id: int
    producer_epoch: int


class SendOffsets(NamedTuple):
    """Offsets of a group that become its own when the transaction commits."""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    group: str
    entries: list[OffsetEntry]


class EndTransaction(NamedTuple):
    """`commit` 0: abort. Asked twice it is done once, and answered the same."""

    transactional_id: str
    producer_id: int
    producer_epoch: int
    commit: int


_PRODUCER = Declared(TransactionalProducer, c.Struct("producer_id" / c.Int64sb, "producer_epoch" / c.Int16sb))
_WHO = ("transactional_id" / TEXT, "producer_id" / c.Int64sb, "producer_epoch" / c.Int16sb)

KINDS = {
    41: Kind(
        Declared(OpenTransactions, c.Struct("transactional_id" / TEXT, "timeout_ms" / c.Int32ub)),
        _PRODUCER,
    ),
    42: Kind(
        Declared(
            SendOffsets,
            c.Struct(*_WHO, "group" / TEXT, "entries" / list_of(OFFSET.fields)),
            {"entries": OFFSET},
        ),
        Declared(CommitReply, c.Struct("statuses" / list_of(c.Int8ub))),
    ),
    43: Kind(Declared(EndTransaction, c.Struct(*_WHO, "commit" / FLAG)), _PRODUCER),
}
