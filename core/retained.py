"""Retained messages: the last one of each name, as a compacted topic of the log and a sorted table beside it.

A record there has the name as its key and the message's value and headers; a null value deletes. The table is SQLite
in a temporary file (memory holds its cache only, whatever the number of names), made anew from the log at start; the
log alone is durable. Names are looked up by `seek`, which `core.filters.scan` leaps with.
"""

from __future__ import annotations

import sqlite3

from core.delivery import READ_BYTES, Stretch, next_offset, records_of
from core.filters import to_key
from core.store.engine import Append, Engine
from trivium.record_batch import parse_header
from trivium.records import Record, build, decode

RECORD_BYTES_MAX = 512 * 1024 * 1024


class RetainedTable:
    """Name -> last retained record. `partition` is the engine's number of the compacted topic's partition."""

    def __init__(self, engine: Engine, partition: int) -> None:
        self._engine = engine
        self.partition = partition
        self._table = sqlite3.connect("", isolation_level=None)  # a temporary file, gone with the process
        self._table.execute("PRAGMA journal_mode=OFF")
        self._table.execute("PRAGMA synchronous=OFF")
        self.count = 0
        self._table.execute("CREATE TABLE retained (name BLOB PRIMARY KEY, place INTEGER, record BLOB) WITHOUT ROWID")

    def close(self) -> None:
        self._table.close()

    async def load(self) -> None:
        """Fills the table from the log."""
        info = self._engine.info(self.partition)
        offset = info.log_start
        while offset < info.high_watermark:
            read = await self._engine.read(self.partition, offset, READ_BYTES)
            if not read.buffers:
                return
            self._table.execute("BEGIN")
            for buffer in read.buffers:
                at = 0
                while at < len(buffer):
                    header = parse_header(buffer, at)
                    batch = buffer[at : at + header.size_bytes]
                    at += header.size_bytes
                    for record in records_of(Stretch(self.partition, header.base_offset, header, batch)):
                        self.apply(record, record.offset)
            self._table.execute("COMMIT")
            offset = next_offset(read, offset)

    def entry(self, records: list[Record]) -> Append:
        """The changes (key: the name, null value: deleted) as one entry for an append."""
        batch = build(records)
        return Append(self.partition, parse_header(batch), batch)

    def apply(self, record: Record, offset: int) -> None:
        """A change that is durable; to be called in the order of the log."""
        name = to_key((record.key or b"").decode())
        if record.value is None:
            self.count -= self._table.execute("DELETE FROM retained WHERE name = ?", (name,)).rowcount
            return
        row = (offset, build([record]), name)
        if not self._table.execute("UPDATE retained SET place = ?, record = ? WHERE name = ?", row).rowcount:
            self._table.execute("INSERT INTO retained (place, record, name) VALUES (?, ?, ?)", row)
            self.count += 1

    def get(self, name: str) -> Record | None:
        """The retained record of a name, with its offset in the compacted topic."""
        row = self._table.execute("SELECT place, record FROM retained WHERE name = ?", (to_key(name),)).fetchone()
        return decode(row[1], RECORD_BYTES_MAX)[0]._replace(offset=row[0]) if row is not None else None

    def seek(self, key: bytes, count_max: int) -> list[bytes]:
        rows = self._table.execute("SELECT name FROM retained WHERE name >= ? ORDER BY name LIMIT ?", (key, count_max))
        return [row[0] for row in rows]
