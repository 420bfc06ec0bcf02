"""A SQLite table on disk beside the log that it is made from, for tables too large for memory.

Rules:
* The log alone is the truth. The table knows, in the same transaction as its rows, how much of the log it holds: what
  a kill or a power cut leaves is consistent and older than the log, and the rest is folded again.
* A table that cannot be read, or of another log or format, is thrown away and made anew.
* Memory holds SQLite's page cache (CACHE_KIB). Writes reach the table by `checkpoint`, which syncs and so belongs into
  a thread; it has a connection of its own.
* SQLite begins its journal again only when all of it has been moved, which never comes about while more is written. So
  above JOURNAL_BYTES_MAX, when `checkpoint` has left little, `commit` moves the rest; where checkpoints cannot follow,
  above JOURNAL_BYTES_HELD_MAX, it moves all, and whoever writes waits.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Final

CACHE_KIB: Final = 16 * 1024
COMMIT_INTERVAL_S: Final = 0.5
CHECKPOINT_INTERVAL_S: Final = 10.0
JOURNAL_BYTES_MAX: Final = 64 * 1024 * 1024
JOURNAL_BYTES_HELD_MAX: Final = 512 * 1024 * 1024
_LITTLE_FRAMES: Final = 1024  # some 4 MiB, moved and synced within some 30 ms
_ROUNDS_MAX: Final = 8  # of one checkpoint, each taking what was written during the one before


class TableFile:
    """`directory` None: a temporary one, gone with `close`. `identity` names the log and the format of the rows.

    Raises sqlite3.Error or OSError when no table can be made.
    """

    def __init__(self, directory: Path | None, name: str, schema: str, identity: str) -> None:
        self._temporary = tempfile.mkdtemp(prefix="trivium-") if directory is None else None
        folder = Path(self._temporary) if self._temporary is not None else Path(directory or ".")
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{name}.sqlite"
        self._journal = folder / f"{name}.sqlite-wal"
        self._unmoved = True  # something was committed since the last checkpoint began
        self._little_left = False  # that one has moved nearly all
        self._schema = schema
        self._identity = identity
        self._committed_s = self._checkpointed_s = time.monotonic()
        self.dirty = False
        self.connection = self.connect()
        try:
            self._open()
        except sqlite3.DatabaseError:
            self.start_anew()

    def connect(self) -> sqlite3.Connection:
        """A connection of its own, for another thread: it sees what was committed."""
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)

    def _open(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=NORMAL")
        execute("PRAGMA wal_autocheckpoint=0")
        execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES_MAX}")
        execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        if not execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self.connection.executescript("CREATE TABLE meta (name TEXT PRIMARY KEY, value);" + self._schema)
            execute("INSERT INTO meta VALUES ('identity', ?)", (self._identity,))
        row = execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
        if row is None or row[0] != self._identity:
            raise sqlite3.DatabaseError("another log's table")

    def start_anew(self) -> None:
        """Throws away what is there."""
        self.connection.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self.dirty = False
        self.connection = self.connect()
        self._open()

    def number(self, name: str, default: int = 0) -> int:
        """A number kept beside the rows."""
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else int(row[0])

    def begin(self) -> None:
        """To be called before rows are changed."""
        if not self.dirty:
            self.connection.execute("BEGIN")
            self.dirty = True

    @property
    def commit_is_due(self) -> bool:
        return self.dirty and time.monotonic() - self._committed_s > COMMIT_INTERVAL_S

    def commit(self, numbers: dict[str, int]) -> None:
        """Keeps the changes, and with them the numbers that say how far they go."""
        if self.dirty:
            self.connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", numbers.items())
            self.connection.execute("COMMIT")
            self.dirty = False
            self._unmoved = True
            journal_bytes = self.journal_bytes
            if journal_bytes > JOURNAL_BYTES_MAX and (self._little_left or journal_bytes > JOURNAL_BYTES_HELD_MAX):
                self._little_left = False
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._committed_s = time.monotonic()

    def take_back(self) -> None:
        """Back to what was committed, after an error."""
        if self.dirty and self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.dirty = False

    @property
    def journal_bytes(self) -> int:
        """The size of SQLite's journal: what was written since it was begun."""
        try:
            return self._journal.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def checkpoint_is_due(self) -> bool:
        if not self._unmoved:
            return False
        return time.monotonic() - self._checkpointed_s > CHECKPOINT_INTERVAL_S or self.journal_bytes > JOURNAL_BYTES_MAX

    def checkpoint(self) -> None:
        """Moves what was committed from SQLite's journal into the table, with syncs. Any thread."""
        if self._path.exists():
            connection = self.connect()
            self._unmoved = False
            moved = 0
            try:
                for _ in range(_ROUNDS_MAX):
                    before = moved
                    busy, _frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    self._little_left = not busy and moved - before <= _LITTLE_FRAMES
                    if busy or self._little_left:  # busy: the writer is at it
                        break
            except sqlite3.Error:
                self._unmoved = True
                raise
            finally:
                connection.close()
        self._checkpointed_s = time.monotonic()

    def close(self) -> None:
        """Closes what was committed."""
        self.take_back()
        self.connection.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
