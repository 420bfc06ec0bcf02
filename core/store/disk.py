"""All that the store asks of a disk: one directory of files, named by plain names.

The engine takes a `Disk` and never touches `os` itself, so that tests can give it a disk that loses power, fails,
tears, lies or fills (`tests/store/simulated_disk.py`). Rules for those who use it:

* What was written is durable only after `fdatasync` of that file; that a file exists, has a new name or is gone only
  after `sync_directory`.
* A failed `fdatasync` is never retried: the kernel may have dropped the pages and report success the next time.
* A `File` closes itself with its last reference. A reader that holds one keeps reading through a swap or an unlink;
  the room comes back when the last reader lets go. That is the count of open handles; nothing else keeps one.
* Every method may be called from any thread. Reads and writes give offsets, so no file has a current position.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from core.store.mapping import Mapping

Buffer = bytes | bytearray | memoryview

_IOVECS_MAX = 1024  # IOV_MAX of Linux
_ZEROS = bytes(1024 * 1024)
_SCRATCH = bytearray(1024 * 1024)  # read into by any thread, read by none
_SCRATCH_TIMES_MAX = 32


class File(Protocol):
    """An open file. All methods raise OSError as the system does."""

    name: str

    def size(self) -> int:
        """Size in bytes."""

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Writes all of the buffers one after another from `offset` on; returns how many bytes that is.

        Part of it may be written when it raises.
        """

    def preadv(self, buffers: Sequence[bytearray | memoryview], offset: int, nowait: bool = False) -> int:
        """Fills the buffers from `offset`; returns the bytes read, fewer only at the end of the file.

        With `nowait` it reads only what is in memory: possibly fewer bytes than asked, BlockingIOError when none are.
        """

    def mapped(self, offset: int, length: int) -> memoryview | None:
        """These bytes where they lie in memory, for the kernel alone to read (`core.store.mapping`): valid as long as
        the view, whatever becomes of the file's name. None when not all are in memory now, or it cannot be told.

        On the trio thread.
        """

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer only at the end of the file.

        Allocates `size`: never pass it a length nobody checked.
        """

    def fdatasync(self) -> None:
        """Everything written to this file so far is on the disk when it returns, its size included."""

    def zero(self, offset: int, length: int) -> None:
        """Writes zeros, so that later writes there change no metadata (fdatasync 106 us; after plain fallocate 174)."""

    def allocate(self, offset: int, length: int) -> None:
        """Reserves room without writing; it reads as zeros."""

    def truncate(self, size: int) -> None: ...

    def want(self, offset: int, length: int) -> None:
        """Tells the system that this range will be read soon, in any order."""

    def load(self, offset: int, length: int) -> None:
        """Has this range in memory and touched, waiting for the disk; what lies beyond the end is left out."""

    def forget(self, offset: int, length: int) -> None:
        """Tells the system that this range need not stay in memory (it must be synced to have an effect)."""

    def close(self) -> None:
        """Closes it now; allowed more than once. Only for an owner who knows that nobody else reads it."""


class Lock(Protocol):
    def release(self) -> None: ...


class Disk(Protocol):
    """One directory. Names are plain file names, never paths. Methods raise OSError as the system does."""

    def open(self, name: str, *, write: bool = False, create: bool = False) -> File:
        """Opens a file; FileNotFoundError without it. `create` makes a new one; FileExistsError if it is there."""

    def rename(self, old: str, new: str) -> None:
        """Atomic; replaces `new`."""

    def unlink(self, name: str) -> None: ...

    def list(self) -> list[str]:
        """The names of all files, sorted."""

    def sync_directory(self) -> None: ...

    def free_bytes(self) -> int:
        """What this process may still write."""

    def lock(self, name: str) -> Lock:
        """Takes an exclusive lock kept by file `name`; BlockingIOError when another holds it. Ends with the process."""


class RealFile:
    """A file of the operating system."""

    __slots__ = ("__weakref__", "_fd", "_mapping", "name")

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._mapping: Mapping | None = None
        self.name = name

    def fileno(self) -> int:
        return self._fd

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        total = 0
        for first in range(0, len(buffers), _IOVECS_MAX):
            group = buffers[first : first + _IOVECS_MAX] if len(buffers) > _IOVECS_MAX else buffers
            size = sum(map(len, group))
            written = os.pwritev(self._fd, group, offset + total)
            if written < size:
                self._write_rest(group, written, offset + total)
            total += size
        return total

    def _write_rest(self, buffers: Iterable[Buffer], skip: int, offset: int) -> None:
        """Finishes a short write (a signal, a disk that just filled): the next call succeeds or names the error."""
        at = 0
        for buffer in buffers:
            view = memoryview(buffer)
            end = at + len(view)
            while skip < end:
                written = os.pwrite(self._fd, view[skip - at :], offset + skip)
                if written == 0:
                    raise OSError(errno.EIO, "nothing written", self.name)
                skip += written
            at = end

    def preadv(self, buffers: Sequence[bytearray | memoryview], offset: int, nowait: bool = False) -> int:
        if nowait:
            try:
                return os.preadv(self._fd, buffers, offset, os.RWF_NOWAIT)
            except OSError as e:
                if e.errno == errno.EOPNOTSUPP:  # a file system that cannot tell: a thread has to read
                    raise BlockingIOError(errno.EAGAIN, "no RWF_NOWAIT here", self.name) from None
                raise
        wanted = sum(map(len, buffers))
        got = os.preadv(self._fd, buffers, offset)
        while got < wanted:
            more = os.preadv(self._fd, _after(buffers, got), offset + got)
            if more == 0:
                break
            got += more
        return got

    def mapped(self, offset: int, length: int) -> memoryview | None:
        if self._mapping is None or self._mapping.size < offset + length:
            try:
                self._mapping = Mapping(self._fd)
            except (OSError, ValueError):  # no room in the address space, a file system without maps, an empty file
                return None
        return self._mapping.view(offset, length)

    def pread(self, size: int, offset: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        if len(data) == size:
            return data
        parts = [data]
        got = len(data)
        while parts[-1] and got < size:
            parts.append(os.pread(self._fd, size - got, offset + got))
            got += len(parts[-1])
        return b"".join(parts)

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def zero(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            count = min(len(_ZEROS), end - offset)
            self.pwritev([memoryview(_ZEROS)[:count]], offset)
            offset += count

    def allocate(self, offset: int, length: int) -> None:
        os.posix_fallocate(self._fd, offset, length)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def want(self, offset: int, length: int) -> None:
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def load(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            times, rest = divmod(end - offset, len(_SCRATCH))
            buffers: list[bytearray | memoryview] = [_SCRATCH] * min(times, _SCRATCH_TIMES_MAX)
            got = os.preadv(self._fd, buffers or [memoryview(_SCRATCH)[:rest]], offset)
            if not got:
                break
            offset += got

    def forget(self, offset: int, length: int) -> None:
        if self._mapping is not None:
            self._mapping.forget(offset, length)  # what is mapped stays in memory
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _after(buffers: Iterable[bytearray | memoryview], skip: int) -> list[memoryview]:
    rest = []
    for buffer in buffers:
        view = memoryview(buffer)
        if skip < len(view):
            rest.append(view[skip:])
            skip = 0
        else:
            skip -= len(view)
    return rest


class _FileLock:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class RealDisk:
    """A directory of the operating system's; it must exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, name: str, *, write: bool = False, create: bool = False) -> RealFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write or create else os.O_RDONLY)
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return RealFile(os.open(self.root / name, flags, 0o640), name)

    def rename(self, old: str, new: str) -> None:
        os.rename(self.root / old, self.root / new)

    def unlink(self, name: str) -> None:
        os.unlink(self.root / name)

    def list(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.root) if entry.is_file())

    def sync_directory(self) -> None:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self) -> int:
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def lock(self, name: str) -> Lock:
        fd = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return _FileLock(fd)
