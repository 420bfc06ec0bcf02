"""The table beside the log keeps SQLite's journal bounded while it is written without a pause."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import table_file
from core.table_file import TableFile

ROW_BYTES = 4_000
ROWS = 25  # of one commit, some 100 KiB


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TableFile:
    monkeypatch.setattr(table_file, "JOURNAL_BYTES_MAX", 400_000)
    monkeypatch.setattr(table_file, "JOURNAL_BYTES_HELD_MAX", 4_000_000)
    return TableFile(tmp_path, "rows", "CREATE TABLE rows (number INTEGER PRIMARY KEY, value BLOB);", "test")


def _insert(table: TableFile, first: int) -> None:
    table.begin()
    rows = [(number, bytes(ROW_BYTES)) for number in range(first, first + ROWS)]
    table.connection.executemany("INSERT INTO rows VALUES (?, ?)", rows)


def _write(table: TableFile, first: int) -> None:
    _insert(table, first)
    table.commit({"first": first})


def _is_whole(table: TableFile, commits: int, folder: Path) -> None:
    table.close()
    again = TableFile(folder, "rows", "", "test")
    count, size = again.connection.execute("SELECT count(*), sum(length(value)) FROM rows").fetchone()
    assert (count, size) == (commits * ROWS, commits * ROWS * ROW_BYTES)
    assert again.number("first") == (commits - 1) * ROWS
    again.close()


def test_the_journal_begins_again_although_something_is_written_during_every_checkpoint(
    table: TableFile, tmp_path: Path
) -> None:
    """A transaction under way has pages in the journal already, which no checkpoint can move."""
    table.connection.execute("PRAGMA cache_size=10")
    largest = 0
    for number in range(200):
        _insert(table, number * ROWS)
        if table.checkpoint_is_due:
            table.checkpoint()
        table.commit({"first": number * ROWS})
        largest = max(largest, table.journal_bytes)
    assert largest < 1_000_000
    _is_whole(table, 200, tmp_path)


def test_where_checkpoints_do_not_come_the_writer_makes_them(table: TableFile, tmp_path: Path) -> None:
    largest = 0
    for number in range(200):
        _write(table, number * ROWS)
        largest = max(largest, table.journal_bytes)
    assert 4_000_000 < largest < 4_500_000
    _is_whole(table, 200, tmp_path)


def test_the_file_of_a_journal_that_was_large_is_cut(table: TableFile) -> None:
    written = 0
    while table.journal_bytes < 4_000_000:
        _write(table, written)
        written += ROWS
    for number in range(2):  # the first moves all of it, the second begins it again
        _write(table, written + number * ROWS)
    assert table.journal_bytes < 500_000


def test_a_table_that_nobody_writes_to_needs_no_checkpoint(table: TableFile) -> None:
    """However large the journal is that it was left with."""
    written = 0
    while table.journal_bytes <= 400_000:
        _write(table, written)
        written += ROWS
    assert table.checkpoint_is_due
    table.checkpoint()
    assert table.journal_bytes > 400_000
    assert not table.checkpoint_is_due
    _write(table, written)
    _write(table, written + ROWS)
    assert table.journal_bytes <= 400_000
