"""A disk for tests: it keeps apart what is written and what is durable; can lose power, fail, tear, lie, fill, be slow.

The model is the weakest that the engine may rely on (POSIX with a disk that loses its cache):

* A file's bytes fall into blocks. Since the last `fdatasync` each block has had one or more contents; a power cut
  leaves any one of them (the durable one included), block by block, and any size the file had. The rest reads 0.
* Creations, renames and unlinks stand in a journal until `sync_directory`; a power cut keeps a random beginning of it.
* After a failed `fdatasync` the kernel forgets what was dirty: the next one reports success and makes nothing durable.

Every change is recorded in `trace`, together with marks that a test leaves (`mark`): so one run under load can be cut
at any number of points afterwards (`cuts`), each with any number of seeds.
"""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Buffer = bytes | bytearray | memoryview
Op = tuple[Any, ...]


class _Inode:
    """One file: what is read now, what is durable, and what each block has been in between."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.now = bytearray()
        self.durable = bytearray()
        self.versions: dict[int, list[bytes]] = {}  # block -> contents since the last sync
        self.sizes: list[int] = []
        self.forgotten: set[int] = set()  # blocks whose write-back failed: a later sync does not bring them

    def write(self, offset: int, data: Buffer) -> None:
        end = offset + len(data)
        if end > len(self.now):
            self.now.extend(bytes(end - len(self.now)))
            self.sizes.append(end)
        self.now[offset:end] = data
        size = self.block_bytes
        for block in range(offset // size, (end + size - 1) // size):
            self.versions.setdefault(block, []).append(bytes(self.now[block * size : (block + 1) * size]))
            self.forgotten.discard(block)

    def truncate(self, size: int) -> None:
        if size < len(self.now):
            del self.now[size:]
            for block in [b for b in self.versions if b * self.block_bytes >= size]:
                del self.versions[block]
        else:
            self.now.extend(bytes(size - len(self.now)))
        self.sizes.append(size)

    def sync(self) -> None:
        size = self.block_bytes
        kept = {b: bytes(self.durable[b * size : (b + 1) * size]) for b in self.forgotten}
        for block in self.versions:
            if block not in kept:
                self._put(self.durable, block, bytes(self.now[block * size : (block + 1) * size]))
        del self.durable[len(self.now) :]
        self.durable.extend(bytes(len(self.now) - len(self.durable)))
        self.versions.clear()
        self.sizes.clear()

    def fail_sync(self, rng: random.Random) -> None:
        """Some dirty blocks reach the disk; none of the others will be tried again."""
        for block in sorted(self.versions):
            if rng.random() < 0.5:
                self._put(self.durable, block, self.versions[block][-1])
            else:
                self.forgotten.add(block)
        self.versions.clear()

    def _put(self, target: bytearray, block: int, content: bytes) -> None:
        at = block * self.block_bytes
        if len(target) < at + len(content):
            target.extend(bytes(at + len(content) - len(target)))
        target[at : at + len(content)] = content

    def cut(self, rng: random.Random) -> _Inode:
        after = bytearray(self.durable)
        mood = rng.random()  # disks that keep nearly everything, or nearly nothing, find other faults than even ones
        for block in sorted(self.versions):
            if rng.random() < mood:
                self._put(after, block, rng.choice(self.versions[block]))
        if self.sizes:
            size = rng.choice([len(self.durable), *self.sizes])
            del after[size:]
            after.extend(bytes(size - len(after)))
        else:
            del after[len(self.durable) :]
        left = _Inode(self.block_bytes)
        left.now, left.durable = after, bytearray(after)
        return left


@dataclass
class Faults:
    """What goes wrong, counted in calls from now on; None for never."""

    write_fails_after: int | None = None  # the call after so many raises EIO, a random beginning of it written (torn)
    sync_fails_after: int | None = None
    syncs_lie: bool = False  # fdatasync and sync_directory return at once and do nothing
    capacity_bytes: int | None = None  # allocation above raises ENOSPC
    writes_wait_for: threading.Event | None = None  # a slow disk: the call returns when the test says so
    syncs_wait_for: threading.Event | None = None


class SimulatedFile:
    def __init__(self, disk: SimulatedDisk, inode: _Inode, number: int, name: str) -> None:
        self._disk = disk
        self._inode = inode
        self._number = number
        self.name = name

    def size(self) -> int:
        return len(self._inode.now)

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> int:
        data = b"".join(bytes(b) for b in buffers)
        self._disk.do_write(self._inode, self._number, offset, data)
        return len(data)

    def preadv(self, buffers: Sequence[bytearray | memoryview], offset: int, nowait: bool = False) -> int:
        self._disk.check_power()
        if nowait and self._disk.cold():
            raise BlockingIOError(errno.EAGAIN, "cold", self.name)
        got = 0
        for buffer in buffers:
            piece = self._inode.now[offset + got : offset + got + len(buffer)]
            memoryview(buffer)[: len(piece)] = piece
            got += len(piece)
        return got

    def mapped(self, offset: int, length: int) -> memoryview | None:
        self._disk.check_power()
        if self._disk.cold() or offset + length > len(self._inode.now):
            return None
        return memoryview(bytes(self._inode.now[offset : offset + length]))

    def pread(self, size: int, offset: int) -> bytes:
        self._disk.check_power()
        return bytes(self._inode.now[offset : offset + size])

    def fdatasync(self) -> None:
        self._disk.do_sync(self._inode, self._number)

    def zero(self, offset: int, length: int) -> None:
        self._disk.do_write(self._inode, self._number, offset, bytes(length))

    def allocate(self, offset: int, length: int) -> None:
        if offset + length > len(self._inode.now):
            self._disk.do_truncate(self._inode, self._number, offset + length)

    def truncate(self, size: int) -> None:
        self._disk.do_truncate(self._inode, self._number, size)

    def want(self, offset: int, length: int) -> None:
        pass

    def load(self, offset: int, length: int) -> None:
        self._disk.check_power()

    def forget(self, offset: int, length: int) -> None:
        pass

    def close(self) -> None:
        pass


class _Lock:
    def __init__(self, disk: SimulatedDisk, name: str) -> None:
        self._disk = disk
        self._name = name

    def release(self) -> None:
        self._disk.locked.discard(self._name)


@dataclass
class _State:
    """Files and directory; a trace replayed up to any point gives one."""

    block_bytes: int
    inodes: dict[int, _Inode] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    durable_names: dict[str, int] = field(default_factory=dict)
    journal: list[Op] = field(default_factory=list)

    def apply(self, op: Op) -> None:
        kind = op[0]
        if kind == "write":
            self.inodes[op[1]].write(op[2], op[3])
        elif kind == "sync":
            self.inodes[op[1]].sync()
        elif kind == "truncate":
            self.inodes[op[1]].truncate(op[2])
        elif kind in ("create", "rename", "unlink"):
            if kind == "create":
                self.inodes[op[2]] = _Inode(self.block_bytes)
            self.journal.append(op)
            _journal_step(self.names, op)
        elif kind == "sync directory":
            self.durable_names = dict(self.names)
            self.journal.clear()

    def copy(self) -> _State:
        """Of a state in which everything is durable."""
        copied = _State(self.block_bytes, names=dict(self.names), durable_names=dict(self.durable_names))
        for number, inode in self.inodes.items():
            other = copied.inodes[number] = _Inode(self.block_bytes)
            other.now, other.durable = bytearray(inode.now), bytearray(inode.durable)
        return copied

    def cut(self, rng: random.Random) -> _State:
        after = _State(self.block_bytes)
        names = dict(self.durable_names)
        for op in self.journal[: rng.randint(0, len(self.journal))]:
            _journal_step(names, op)
        after.names, after.durable_names = names, dict(names)
        after.inodes = {number: self.inodes[number].cut(rng) for number in sorted(set(names.values()))}
        return after


def _journal_step(names: dict[str, int], op: Op) -> None:
    if op[0] == "create":
        names[op[1]] = op[2]
    elif op[0] == "rename":
        names[op[2]] = names.pop(op[1])
    else:
        del names[op[1]]


class PowerLost(Exception):
    """The disk was cut off; nothing works on it any more."""


class SimulatedDisk:
    """A `core.store.disk.Disk` in memory. `coldness` is the share of nowait reads that find nothing in memory."""

    def __init__(
        self, *, seed: int = 0, block_bytes: int = 512, coldness: float = 0.0, faults: Faults | None = None
    ) -> None:
        self.faults = faults or Faults()
        self.trace: list[Op] = []
        self.locked: set[str] = set()
        self._block_bytes = block_bytes
        self._coldness = coldness
        self._rng = random.Random(seed)
        self._state = _State(block_bytes)
        self._first = _State(block_bytes)  # what the trace starts from
        self._next_number = 0
        self._lock = threading.RLock()
        self._off = False

    # What tests do with it

    def mark(self, *what: Any) -> None:
        """Records something that the world saw at this point: an acknowledgement, a read."""
        with self._lock:
            self.trace.append(("mark", *what))

    def power_off(self) -> None:
        """From now on every call raises PowerLost."""
        with self._lock:
            self._off = True

    def cut(self, at: int | None = None, *, seed: int) -> SimulatedDisk:
        """The disk after a power cut just before `trace[at]` (or now)."""
        with self._lock:
            if at is None:
                state = self._state
            else:
                state = self._first.copy()
                for op in self.trace[:at]:
                    state.apply(op)
            return self._from(state.cut(random.Random(seed)), seed)

    def cuts(self, points: Sequence[int], seed: int) -> Iterator[tuple[int, SimulatedDisk]]:
        """(point, disk after a cut there) for each of the ascending points, replaying the trace only once."""
        state = self._first.copy()
        done = 0
        for point in points:
            for op in self.trace[done:point]:
                state.apply(op)
            done = point
            yield point, self._from(state.cut(random.Random(f"{seed}/{point}")), seed)

    def marks(self, until: int) -> list[tuple[Any, ...]]:
        return [op[1:] for op in self.trace[:until] if op[0] == "mark"]

    def _from(self, state: _State, seed: int) -> SimulatedDisk:
        disk = SimulatedDisk(seed=seed, block_bytes=self._block_bytes, coldness=self._coldness)
        disk._state = state
        disk._first = state.copy()
        disk._next_number = max(state.inodes, default=-1) + 1
        return disk

    def copy(self) -> SimulatedDisk:
        """Another disk with the same files, everything durable: what a clean stop of the machine leaves."""
        with self._lock:
            state = _State(self._block_bytes)
            state.names = dict(self._state.names)
            state.durable_names = dict(self._state.names)
            for number in state.names.values():
                inode = state.inodes[number] = _Inode(self._block_bytes)
                inode.now = bytearray(self._state.inodes[number].now)
                inode.durable = bytearray(inode.now)
            return self._from(state, 0)

    def corrupt(self, name: str, offset: int, change: Callable[[int], int] = lambda byte: byte ^ 0x01) -> None:
        """Changes one byte for good, as a disk that rots."""
        with self._lock:
            inode = self._state.inodes[self._state.names[name]]
            for content in (inode.now, inode.durable):
                if offset < len(content):
                    content[offset] = change(content[offset])

    def content(self, name: str) -> bytes:
        with self._lock:
            return bytes(self._state.inodes[self._state.names[name]].now)

    # What files do

    def check_power(self) -> None:
        if self._off:
            raise PowerLost

    def cold(self) -> bool:
        return self._coldness > 0 and self._rng.random() < self._coldness

    def do_write(self, inode: _Inode, number: int, offset: int, data: bytes) -> None:
        if self.faults.writes_wait_for is not None:
            self.faults.writes_wait_for.wait()
        with self._lock:
            self.check_power()
            room = self._room(inode, offset, len(data))
            faults = self.faults
            error = 0
            if faults.write_fails_after is not None:
                faults.write_fails_after -= 1
                if faults.write_fails_after < 0:
                    error, room = errno.EIO, self._rng.randint(0, len(data))
            if room < len(data):
                error = error or errno.ENOSPC
            if room > 0:
                self._record(("write", number, offset, data[:room]))
            if error:
                raise OSError(error, "simulated")

    def _room(self, inode: _Inode, offset: int, size: int) -> int:
        if self.faults.capacity_bytes is None:
            return size
        used = self.used_bytes()
        return min(size, max(0, len(inode.now) - offset) + max(0, self.faults.capacity_bytes - used))

    def used_bytes(self) -> int:
        return sum(len(self._state.inodes[number].now) for number in self._state.names.values())

    def do_sync(self, inode: _Inode, number: int) -> None:
        if self.faults.syncs_wait_for is not None:
            self.faults.syncs_wait_for.wait()
        with self._lock:
            self.check_power()
            faults = self.faults
            if faults.sync_fails_after is not None:
                faults.sync_fails_after -= 1
                if faults.sync_fails_after == -1:
                    inode.fail_sync(self._rng)
                    raise OSError(errno.EIO, "simulated")
            if not faults.syncs_lie:
                self._record(("sync", number))

    def do_truncate(self, inode: _Inode, number: int, size: int) -> None:
        with self._lock:
            self.check_power()
            if self._room(inode, len(inode.now), size - len(inode.now)) < size - len(inode.now):
                raise OSError(errno.ENOSPC, "simulated")
            self._record(("truncate", number, size))

    def _record(self, op: Op) -> None:
        self.trace.append(op)
        self._state.apply(op)

    # What the engine does with it

    def open(self, name: str, *, write: bool = False, create: bool = False) -> SimulatedFile:
        with self._lock:
            self.check_power()
            if create:
                if name in self._state.names:
                    raise FileExistsError(errno.EEXIST, "there already", name)
                self._record(("create", name, self._next_number))
                self._next_number += 1
            elif name not in self._state.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", name)
            number = self._state.names[name]
            return SimulatedFile(self, self._state.inodes[number], number, name)

    def rename(self, old: str, new: str) -> None:
        with self._lock:
            self.check_power()
            if old not in self._state.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", old)
            self._record(("rename", old, new))

    def unlink(self, name: str) -> None:
        with self._lock:
            self.check_power()
            if name not in self._state.names:
                raise FileNotFoundError(errno.ENOENT, "no such file", name)
            self._record(("unlink", name))

    def list(self) -> list[str]:
        with self._lock:
            self.check_power()
            return sorted(self._state.names)

    def sync_directory(self) -> None:
        with self._lock:
            self.check_power()
            if not self.faults.syncs_lie:
                self._record(("sync directory",))

    def free_bytes(self) -> int:
        with self._lock:
            self.check_power()
            if self.faults.capacity_bytes is None:
                return 1 << 50
            return max(0, self.faults.capacity_bytes - self.used_bytes())

    def lock(self, name: str) -> _Lock:
        with self._lock:
            if name in self.locked:
                raise BlockingIOError(errno.EAGAIN, "held", name)
            self.locked.add(name)
            return _Lock(self, name)
