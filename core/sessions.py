"""Durable sessions in the log: what is known of a client between its connections, as rows of one compacted table.

| key                          | value                                                                     |
|------------------------------|---------------------------------------------------------------------------|
| `s` client id                | expiry, 0.0, subscriptions, number in the subscription index (JSON)         |
| `p` client id                | position in the log, partitions that stand elsewhere, unacknowledged QoS 1;   |
|                              | shared subscriptions and the packet ids that are in flight for them          |
| `i` packet id, client id     | (empty) an inbound QoS 2 packet id that was not released                    |
| `o` packet id, client id     | state, partition, offset of an outbound QoS 2 message                       |
| `g` shared subscription      | position in the log, partitions that stand elsewhere                        |
| `w` client id                | the will (opaque)                                                         |
| `f` part                     | bits of the session numbers in it: something may have come for these        |
| `c`                          | as `p`, without QoS 1: the place in the log up to which the bits say all      |
| `m` position                | see core.mapping_history                                                  |
| `t` topic                    | (empty) the topic was made by a device                                    |
| as core.queue_codec has them | what members of shared subscriptions have of a partition, or had            |

Changes of a turn are collected and appended in one batch; what waits for them is called when they are durable, or
refused. What was to be deleted is deleted with a later one then, for who has ended does not ask again. Each key is a
row of its own, so compaction keeps the table as large as what it says. At start sessions are folded into a table on
disk (session_fold.py), the few other rows into memory.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from core.mapping_history import MAPPING
from core.queue_codec import KIND_DONE, KIND_FAILED, KIND_FLOOR
from core.queue_replay import QueueRows
from core.session_fold import Row, SessionFold
from core.state import Change, StateLog
from core.store.engine import Appended, Engine, Outcome

SESSION: Final = b"s"
POSITION: Final = b"p"
INBOUND: Final = b"i"
OUTBOUND: Final = b"o"
GROUP: Final = b"g"
WILL: Final = b"w"
TOPIC: Final = b"t"
BITS: Final = b"f"
CHECKPOINT: Final = b"c"
_POSITION = struct.Struct(">QII")
_OFFSET = struct.Struct(">IQ")
_QOS1 = struct.Struct(">HIQ?")
_OUT = struct.Struct(">BIQ?")
_NAME = struct.Struct(">II")  # bytes of a shared subscription's name, packet ids behind it


@dataclass(slots=True)
class GroupRow:
    """One shared subscription as stored."""

    position: int
    offsets: dict[int, int]


@dataclass(slots=True)
class SessionRow:
    """One session as stored. `qos1` and `outbound`: packet id -> (state, partition, offset, retain); `shared`: packet
    id -> shared subscription; `number` 0: none was stored.
    """

    expiry_s: int = 0
    number: int = 0
    subscriptions: list[list[Any]] = field(default_factory=list)
    position: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    qos1: dict[int, tuple[int, int, bool]] = field(default_factory=dict)
    shared: dict[int, str] = field(default_factory=dict)
    inbound: set[int] = field(default_factory=set)
    outbound: dict[int, tuple[int, int, int, bool]] = field(default_factory=dict)


def session_change(client_id: str, expiry_s: int, number: int, subscriptions: list[list[Any]]) -> Change:
    value = json.dumps([expiry_s, 0.0, subscriptions, number], separators=(",", ":"), ensure_ascii=False)
    return SESSION + client_id.encode(), value.encode()


def position_change(
    client_id: str,
    position: int,
    offsets: dict[int, int],
    qos1: dict[int, tuple[int, int, bool]],
    shared: dict[str, list[int]],
) -> Change:
    """`shared`: shared subscription -> packet ids in flight for it."""
    pieces = [_POSITION.pack(position, len(offsets), len(qos1))]
    pieces += [_OFFSET.pack(partition, offset) for partition, offset in offsets.items()]
    pieces += [_QOS1.pack(packet_id, *place) for packet_id, place in qos1.items()]
    for name, packet_ids in shared.items():
        encoded = name.encode()
        pieces += [_NAME.pack(len(encoded), len(packet_ids)), encoded, struct.pack(f">{len(packet_ids)}H", *packet_ids)]
    return POSITION + client_id.encode(), b"".join(pieces)


def _shared(value: bytes, at: int) -> dict[int, str]:
    """What stands behind the rest of a position."""
    found: dict[int, str] = {}
    while at < len(value):
        size, count = _NAME.unpack_from(value, at)
        at += _NAME.size
        name = value[at : at + size].decode()
        at += size
        found |= dict.fromkeys(struct.unpack_from(f">{count}H", value, at), name)
        at += 2 * count
    return found


def group_change(name: str, place: GroupRow | None) -> Change:
    """A shared subscription's place in the log; None: the group is gone."""
    key = GROUP + name.encode()
    if place is None:
        return key, None
    pieces = [_POSITION.pack(place.position, len(place.offsets), 0)]
    pieces += [_OFFSET.pack(partition, offset) for partition, offset in place.offsets.items()]
    return key, b"".join(pieces)


def inbound_change(client_id: str, packet_id: int, stored: bool) -> Change:
    return INBOUND + packet_id.to_bytes(2, "big") + client_id.encode(), b"" if stored else None


def outbound_change(client_id: str, packet_id: int, place: tuple[int, int, int, bool] | None) -> Change:
    """`place` is (state, partition, offset, retain); None: the exchange is over."""
    return OUTBOUND + packet_id.to_bytes(2, "big") + client_id.encode(), None if place is None else _OUT.pack(*place)


def bits_change(part: int, bits: bytes) -> Change:
    """Those of one part; empty for none."""
    return BITS + part.to_bytes(4, "big"), bits or None


def checkpoint_change(position: int, offsets: dict[int, int]) -> Change:
    """The place in the log up to which the bits say all, partitions that stand elsewhere."""
    pieces = [_POSITION.pack(position, len(offsets), 0)]
    return CHECKPOINT, b"".join(pieces + [_OFFSET.pack(*one) for one in offsets.items()])


def will_change(client_id: str, will: bytes | None) -> Change:
    return WILL + client_id.encode(), will


def forget_changes(client_id: str, inbound: set[int], outbound: set[int]) -> list[Change]:
    """A session is over."""
    name = client_id.encode()
    changes: list[Change] = [(SESSION + name, None), (POSITION + name, None)]
    changes += [inbound_change(client_id, packet_id, False) for packet_id in inbound]
    changes += [outbound_change(client_id, packet_id, None) for packet_id in outbound]
    return changes


class _Batch(NamedTuple):
    """What is in one append, and what is called with whether it is durable."""

    changes: dict[bytes, bytes | None]
    waiting: list[Callable[[bool], None]]


class SessionLog:
    """The table's log. `load` first; then `put` collects, `append` sends what was collected."""

    def __init__(self, engine: Engine, partition: int) -> None:
        self.state = StateLog(engine, partition)
        self._engine = engine
        self._fold = SessionFold()
        self.groups: dict[str, GroupRow] = {}
        self.queue_rows = QueueRows(0)  # of those groups; times in them say nothing
        self.wills: dict[str, bytes] = {}
        self.topics: set[str] = set()
        self.mappings: dict[int, bytes] = {}  # position -> mapping of names
        self.bits: dict[int, bytes] = {}  # part -> bits
        self.checkpoint: tuple[int, dict[int, int]] | None = None  # None: there is none
        self.failed = False  # something that was put could not be stored
        self._changes: dict[bytes, bytes | None] = {}
        self._under_way: deque[_Batch] = deque()
        self._waiting: list[Callable[[bool], None]] = []

    async def load(self) -> None:
        await self.state.load(self._apply)

    def sessions(self) -> Iterator[tuple[str, SessionRow]]:
        """The stored sessions, as loaded, in order of their clients. `forget_loaded` frees what this reads."""
        for client, rows in self._fold.sessions():
            row = _session_of(rows)
            if row is not None:
                yield client.decode(), row

    def forget_loaded(self) -> None:
        self._fold.close()

    def put(self, changes: list[Change], done: Callable[[bool], None] | None = None) -> None:
        """Later changes of a key replace earlier ones; `done(durable)` is called when they are, or cannot be, and after
        all that were put before.
        """
        self._changes.update(changes)
        if done is not None:
            self._waiting.append(done)

    def append(self) -> None:
        """One batch for all that was put since the last time."""
        if not self._changes and not self._waiting:
            return  # most turns
        batch = _Batch(self._changes, self._waiting)
        self._changes, self._waiting = {}, []
        if batch.changes:
            self._under_way.append(batch)
            self._engine.append([self.state.entry(list(batch.changes.items()))], self._appended)
        elif self._under_way:
            self._under_way[-1].waiting.extend(batch.waiting)
        else:
            for one in batch.waiting:
                one(True)

    def _appended(self, answers: list[Appended]) -> None:
        batch = self._under_way.popleft()
        durable = answers[0].outcome is Outcome.APPENDED
        if not durable:
            self.failed = True
            self._delete_again(batch)
        for one in batch.waiting:
            one(durable)

    def _delete_again(self, batch: _Batch) -> None:
        for key, value in batch.changes.items():
            later = key in self._changes or any(key in one.changes for one in self._under_way)
            if value is None and not later:
                self._changes[key] = None

    def _apply(self, key: bytes, value: bytes | None) -> None:
        kind, name = key[:1], key[1:]
        if kind in (INBOUND, OUTBOUND):
            self._fold.put(name[2:], kind + name[:2], value)
        elif kind in (SESSION, POSITION):
            self._fold.put(name, kind, value)
        elif kind == GROUP:
            self.groups.pop(name.decode(), None)
            if value is not None:
                position, _, _ = _POSITION.unpack_from(value)
                self.groups[name.decode()] = GroupRow(position, dict(_OFFSET.iter_unpack(value[_POSITION.size :])))
        elif kind == WILL:
            if value is None:
                self.wills.pop(name.decode(), None)
            else:
                self.wills[name.decode()] = value
        elif kind == MAPPING:
            self.mappings.pop(int.from_bytes(name, "big"), None)
            if value is not None:
                self.mappings[int.from_bytes(name, "big")] = value
        elif key[0] in (KIND_FLOOR, KIND_DONE, KIND_FAILED):
            self.queue_rows.apply(key, value)
        elif kind == TOPIC:
            self.topics.add(name.decode())
        elif kind == BITS:
            self.bits[int.from_bytes(name, "big")] = value or b""
        elif kind == CHECKPOINT:
            self.checkpoint = None
            if value is not None:
                self.checkpoint = _POSITION.unpack_from(value)[0], dict(_OFFSET.iter_unpack(value[_POSITION.size :]))


def _session_of(rows: list[Row]) -> SessionRow | None:
    """One session out of its rows; None when there is none, as what is left of it is of no use."""
    session: SessionRow | None = None
    for kind, value in reversed(rows):  # `s` is the last of the kinds
        if kind == SESSION:
            expiry_s, _, subscriptions, *number = json.loads(value)
            session = SessionRow(expiry_s, number[0] if number else 0, subscriptions)
        elif session is None:
            return None
        elif kind == POSITION:
            session.position, offsets, qos1 = _POSITION.unpack_from(value)
            if len(value) > _POSITION.size:
                at = _POSITION.size
                split = at + offsets * _OFFSET.size
                end = split + qos1 * _QOS1.size
                session.offsets = dict(_OFFSET.iter_unpack(value[at:split]))
                sent = _QOS1.iter_unpack(value[split:end])
                session.shared = _shared(value, end)
                session.qos1 = {packet_id: (partition, offset, retain) for packet_id, partition, offset, retain in sent}
        else:
            packet_id = int.from_bytes(kind[1:], "big")
            if kind[:1] == INBOUND:
                session.inbound.add(packet_id)
            else:
                session.outbound[packet_id] = _OUT.unpack(value)
    return session
