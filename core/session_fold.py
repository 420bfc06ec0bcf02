"""Stored sessions while the log is read at start: the last row of each key, sorted by client, in a table on disk.

Memory holds one stretch of rows, whatever the number of sessions and of rows that later ones replaced. The table is a
temporary SQLite file, gone when it is closed. Rows are put there in order of their keys, a stretch at a time, so that a
stretch touches each page of the table once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Final

STRETCH_ROWS: Final = 50_000
CACHE_KIB: Final = 32 * 1024
_SCHEMA: Final = "CREATE TABLE staged (client BLOB, kind BLOB, value BLOB, PRIMARY KEY (client, kind)) WITHOUT ROWID"

Row = tuple[bytes, bytes]  # kind, value


class SessionFold:
    """`put` while reading, then `sessions` once or more, then `close`."""

    def __init__(self) -> None:
        self._stretch: dict[tuple[bytes, bytes], bytes | None] = {}
        self._table = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}"):
            self._table.execute(f"PRAGMA {pragma}")
        self._table.execute(_SCHEMA)

    def put(self, client: bytes, kind: bytes, value: bytes | None) -> None:
        """A row of the log, which replaces the client's earlier one of this kind; None deletes it."""
        self._stretch[client, kind] = value
        if len(self._stretch) >= STRETCH_ROWS:
            self._write()

    def _write(self) -> None:
        stretch, self._stretch = sorted(self._stretch.items()), {}
        self._table.execute("BEGIN")
        self._table.executemany(
            "INSERT OR REPLACE INTO staged VALUES (?, ?, ?)",
            [(*key, value) for key, value in stretch if value is not None],
        )
        self._table.executemany(
            "DELETE FROM staged WHERE client = ? AND kind = ?", [key for key, value in stretch if value is None]
        )
        self._table.execute("COMMIT")

    def sessions(self) -> Iterator[tuple[bytes, list[Row]]]:
        """Client -> what is stored of it, in order of their keys."""
        if self._stretch:
            self._write()
        found = self._table.execute("SELECT client, kind, value FROM staged ORDER BY client, kind")
        for client, rows in groupby(found, itemgetter(0)):
            yield client, [row[1:] for row in rows]

    def close(self) -> None:
        self._table.close()
