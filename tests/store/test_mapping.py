"""Views of files in memory: the bytes that a read would copy, as long as they are there."""

from __future__ import annotations

import errno
import mmap
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from core.store import mapping
from core.store.disk import RealDisk, RealFile
from core.store.embedded import EmbeddedEngine, EngineConfig
from core.store.engine import CreatePartition, append
from core.store.mapping import Mapping
from core.store.reader import _JOIN_BYTES_MAX
from tests.store.batches import batch, batches_in, entry

PAGE = mmap.PAGESIZE
STRETCH = mapping._STRETCH_BYTES


def made(path: Path, size: int) -> tuple[RealFile, bytes]:
    data = os.urandom(size)
    file = RealDisk(path).open("file", create=True)
    file.pwritev([data], 0)
    return file, data


def only_pages(monkeypatch: pytest.MonkeyPatch, there: Callable[[int], bool]) -> list[tuple[int, int]]:
    """Of files mapped from now on only these pages are in memory, as the kernel tells it; returns what it is asked."""
    asked: list[tuple[int, int]] = []
    real = Mapping._resident

    def resident(self: Mapping, start: int, end: int) -> bool:
        asked.append((start, end))
        if not real(self, start, end):
            return False
        return all(there(page) for page in range(start // PAGE, -(-end // PAGE)))

    monkeypatch.setattr(Mapping, "_resident", resident)
    return asked


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (PAGE - 1, 2), (100, 3 * PAGE), (STRETCH - 5, 10), (STRETCH // 2, 2 * STRETCH), (0, 3 * STRETCH + 77)],
)
def test_a_view_is_what_a_read_would_copy(tmp_path: Path, offset: int, length: int) -> None:
    file, data = made(tmp_path, 3 * STRETCH + 77)
    view = file.mapped(offset, length)
    assert view is not None
    assert view == data[offset : offset + length]
    assert view.readonly


def test_a_view_outlives_its_file(tmp_path: Path) -> None:
    file, data = made(tmp_path, 10_000)
    view = file.mapped(5_000, 5_000)
    RealDisk(tmp_path).unlink("file")
    file.close()
    del file
    assert view is not None
    assert view == data[5_000:]


def test_what_was_written_after_the_first_view_is_seen(tmp_path: Path) -> None:
    file, data = made(tmp_path, 10_000)
    assert bytes(file.mapped(0, 10_000) or b"") == data
    file.pwritev([b"more" * 10_000], 10_000)
    assert bytes(file.mapped(9_990, 30) or b"") == data[9_990:] + b"more" * 5


def test_beyond_the_end_and_of_an_empty_file_there_is_nothing(tmp_path: Path) -> None:
    file, _ = made(tmp_path, 10_000)
    assert file.mapped(9_999, 2) is None
    empty = RealDisk(tmp_path).open("empty", create=True)
    assert empty.mapped(0, 1) is None


def test_without_a_map_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENODEV, "no maps here")

    file, _ = made(tmp_path, 10_000)
    monkeypatch.setattr(mmap, "mmap", refuse)
    assert file.mapped(0, 10) is None


def test_the_kernel_says_what_is_in_memory(tmp_path: Path) -> None:
    file, _ = made(tmp_path, 4 * STRETCH)
    file.fdatasync()
    file.forget(0, 4 * STRETCH)
    cold = file.mapped(STRETCH, STRETCH)
    try:
        file.preadv([bytearray(STRETCH)], STRETCH, nowait=True)
        was_cold = False
    except BlockingIOError:
        was_cold = True
    assert (cold is None) is was_cold  # a file system in memory drops nothing
    file.pread(STRETCH, STRETCH)
    assert file.mapped(STRETCH, STRETCH) is not None


def test_a_view_needs_its_own_pages_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_pages(monkeypatch, lambda page: page not in (3, 700))
    file, data = made(tmp_path, 4 * STRETCH)
    assert bytes(file.mapped(0, 3 * PAGE) or b"") == data[: 3 * PAGE]
    assert bytes(file.mapped(4 * PAGE, STRETCH) or b"") == data[4 * PAGE : 4 * PAGE + STRETCH]
    assert file.mapped(3 * PAGE - 1, 2) is None
    assert file.mapped(4 * PAGE - 1, 1) is None
    assert file.mapped(600 * PAGE, 101 * PAGE) is None
    assert bytes(file.mapped(600 * PAGE, 100 * PAGE) or b"") == data[600 * PAGE : 700 * PAGE]


def test_a_stretch_is_not_asked_for_again_at_once_but_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = True
    asked = only_pages(monkeypatch, lambda page: there)
    now = 100.0
    monkeypatch.setattr("core.store.mapping.time.monotonic", lambda: now)
    file, _ = made(tmp_path, 4 * STRETCH)
    assert file.mapped(10, 100) is not None
    assert file.mapped(STRETCH // 2, 100) is not None
    assert asked == [(0, STRETCH)]
    there = False
    now += mapping._FRESH_S + 0.01
    assert file.mapped(10, 100) is None


def test_the_kernel_gets_an_error_where_a_program_would_die(tmp_path: Path) -> None:
    """As when the disk fails under a page that has gone: here the page itself is no more."""
    file, data = made(tmp_path, 64 * PAGE)
    view = file.mapped(0, 64 * PAGE)
    assert view is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.writev(ours.fileno(), [view[:PAGE]])
        file.truncate(PAGE)
        with pytest.raises(OSError, match="Bad address"):
            os.writev(ours.fileno(), [view[PAGE:]])
        assert theirs.recv(2 * PAGE) == data[:PAGE]


@asynccontextmanager
async def stored(path: Path, values: Sequence[bytes]) -> AsyncIterator[EmbeddedEngine]:
    """The values by turns in two partitions, none of them in the ring."""
    async with trio.open_nursery() as nursery:
        engine = EmbeddedEngine(path, EngineConfig(reserve_bytes=0, hot_batches_max=0))
        await nursery.start(engine.run)
        await append(engine, [CreatePartition(1), CreatePartition(2)])
        for number, value in enumerate(values):
            await append(engine, [entry(1 + number % 2, batch(value))])
        yield engine
        nursery.cancel_scope.cancel()


def is_mapped(buffer: memoryview) -> bool:
    return isinstance(buffer.obj, mmap.mmap)


@pytest.mark.parametrize("between_bytes", [9_000, 100])
async def test_large_batches_are_read_as_views(tmp_path: Path, between_bytes: int) -> None:
    """Whether what lies between them is read around or through."""
    sizes = [between_bytes if number % 2 else 9_000 + number for number in range(20)]
    async with stored(tmp_path, [os.urandom(size) for size in sizes]) as engine:
        copied = engine.read_nowait(1, 2, 48_000)
        mapped = engine.read_nowait(1, 2, 48_000, mapped=True)
        assert copied is not None
        assert mapped is not None
        assert list(batches_in(mapped)) == list(batches_in(copied))
        assert len(list(batches_in(mapped))) == 5
        assert mapped[1:] == copied[1:]
        assert all(map(is_mapped, mapped.buffers))
        assert not any(map(is_mapped, copied.buffers))


async def test_small_batches_far_apart_are_copied(tmp_path: Path) -> None:
    async with stored(tmp_path, [os.urandom(_JOIN_BYTES_MAX // 2) for _ in range(20)]) as engine:
        copied = engine.read_nowait(2, 0, 1 << 20)
        mapped = engine.read_nowait(2, 0, 1 << 20, mapped=True)
        assert copied is not None
        assert mapped is not None
        assert list(batches_in(mapped)) == list(batches_in(copied))
        assert not any(map(is_mapped, mapped.buffers))


async def test_what_cannot_be_mapped_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RealFile, "mapped", lambda *_: None)
    async with stored(tmp_path, [os.urandom(20_000) for _ in range(6)]) as engine:
        read = engine.read_nowait(1, 0, 1 << 20, mapped=True)
        assert read is not None
        assert len(list(batches_in(read))) == 3
