"""Sessions whose clients are away: rows of a table on disk, not objects.

A session at rest costs memory for its subscriptions in the index, and nothing else: neither a message that it does not
want nor one that it wants makes an object. The latter sets the bit of its number in `pending`, so that a client for
which nothing came is served without a look at the log. The table is SQLite in a temporary file, made anew from the
session log at start, row by row (restoring.py); the log alone is durable.

A row of a session whose client has returned stays until the session rests again or ends: to look at it costs a sixth of
what it would to delete it, of which 20,000 clients that return at once would feel a second.

Members of shared subscriptions do not rest: their group asks for them.
"""

from __future__ import annotations

import marshal
import sqlite3
from collections.abc import Iterable
from typing import Final

from core.sessions import SessionRow
from gateway.protocols.mqtt.devices import Device
from gateway.protocols.mqtt.pending import Pending
from gateway.protocols.mqtt.session import STORED, Delivery, Session, Subscription
from gateway.protocols.mqtt.session_rows import inflight_of

NEVER_S: Final = float("inf")
CACHE_KIB: Final = 16 * 1024
_SCHEMA: Final = """
CREATE TABLE resting (client_id TEXT PRIMARY KEY, number INTEGER, expires_s REAL, packed BLOB) WITHOUT ROWID;
CREATE INDEX resting_expiry ON resting (expires_s) WHERE expires_s IS NOT NULL;
"""

RestingRow = tuple[str, int, float | None, bytes]  # client id, number, when its session ends, the rest


def may_rest(device: Device) -> bool:
    """Whether nothing but its client's return can change a device."""
    return not (device.groups or device.queued or device.catching_up or device.live) and device.settled()


class Resting:
    """Client id -> device. `pending` holds the numbers of those for which something may have come."""

    def __init__(self, pending: Pending) -> None:
        self.pending = pending
        self._count = 0
        self._awake: set[str] = set()  # clients whose rows do not count
        self._table = sqlite3.connect("", isolation_level=None)  # a temporary file, gone with the process
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
            self._table.execute(f"PRAGMA {pragma}")
        self._table.executescript(_SCHEMA)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        self._table.close()

    def put(self, devices: Iterable[tuple[Device, float]]) -> None:
        """Lays devices to rest, each with the time at which its session ends."""
        rows: list[RestingRow] = []
        for device, expires_s in devices:
            number = device.session.number
            if device.pending:
                self.pending.add(number)
            else:
                self.pending.discard(number)
            rows.append((device.session.client_id, number, None if expires_s == NEVER_S else expires_s, _pack(device)))
        self.put_rows(rows)

    def put_rows(self, rows: list[RestingRow]) -> None:
        """Sessions as rows."""
        self._table.execute("BEGIN")
        self._table.executemany("INSERT OR REPLACE INTO resting VALUES (?, ?, ?, ?)", rows)
        self._table.execute("COMMIT")
        self._count += len(rows)
        self._awake.difference_update([row[0] for row in rows])

    def take(self, client_id: str) -> tuple[Device, float] | None:
        """The device of a client, which rests no longer, and the time at which its session ends."""
        if client_id in self._awake:
            return None
        found = self._table.execute(
            "SELECT number, expires_s, packed FROM resting WHERE client_id = ?", (client_id,)
        ).fetchone()
        if found is None:
            return None
        self._awake.add(client_id)
        self._count -= 1
        number, expires_s, packed = found
        device = unpack(client_id, number, packed)
        device.pending = number in self.pending
        self.pending.discard(number)
        return device, NEVER_S if expires_s is None else expires_s

    def forget(self, client_id: str) -> None:
        """The session of a client that was taken has ended."""
        if client_id in self._awake:
            self._awake.discard(client_id)
            self._table.execute("DELETE FROM resting WHERE client_id = ?", (client_id,))

    def due(self, now_s: float, count_max: int) -> list[str]:
        """Clients whose sessions end by now, at most so many."""
        rows = self._table.execute(
            "SELECT client_id FROM resting WHERE expires_s <= ? ORDER BY expires_s LIMIT ?", (now_s, count_max)
        ).fetchall()
        awake = [row for row in rows if row[0] in self._awake]
        self._table.executemany("UPDATE resting SET expires_s = NULL WHERE client_id = ?", awake)
        return [row[0] for row in rows if row[0] not in self._awake]


def _pack(device: Device) -> bytes:
    session = device.session
    subscriptions = {filter_: tuple(one) for filter_, one in (session.subscriptions or {}).items()}
    inflight = {packet_id: tuple(one) for packet_id, one in (session.inflight or {}).items()}
    return marshal.dumps(
        (
            session.expiry_s,
            subscriptions,
            session.inbound or {},
            inflight,
            session.next_packet_id,
            device.position,
            device.offsets,
            device.stored_out,
            device.has_will,
            device.stored,
            device.stored_expiry_s,
        )
    )


def pack_stored(row: SessionRow) -> bytes:
    """As `_pack` packs the device of a stored session."""
    return marshal.dumps(
        (
            row.expiry_s,
            {one[0]: tuple(one[1:]) for one in row.subscriptions},
            dict.fromkeys(row.inbound, STORED),
            {packet_id: tuple(one) for packet_id, one in inflight_of(row).items()} if row.qos1 or row.outbound else {},
            1,
            row.position,
            row.offsets,
            set(row.outbound),
            False,
            True,
            row.expiry_s,
        )
    )


def unpack(client_id: str, number: int, packed: bytes) -> Device:
    """The device of a row."""
    expiry_s, subscriptions, inbound, inflight, next_packet_id, position, offsets, stored_out, *stored = marshal.loads(
        packed
    )
    session = Session(client_id, number, expiry_s)
    session.inbound = inbound or None
    session.inflight = {packet_id: Delivery(*one) for packet_id, one in inflight.items()} or None
    session.next_packet_id = next_packet_id
    device = Device(session, position)
    for filter_, one in subscriptions.items():
        device.add(filter_, Subscription(*one))
    device.offsets = offsets
    device.stored_out = stored_out
    device.has_will, device.stored, device.stored_expiry_s = stored
    return device
