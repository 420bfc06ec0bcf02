"""fdatasync, by the loop while the disk is quick, else by the kernel beside it.

A thread that syncs needs the interpreter's lock after each call, and the loop holds it: with both busy the hand-over
costs more than the sync (measured: 290 us of processor a request with a writer thread, 60 without). So:
* `sync_now`: the loop syncs, as long as that takes it less than QUICK_S on average. What comes meanwhile makes the next
  group larger, and nobody has to be woken (measured against the kernel beside the loop: 100 pairs of MQTT clients 24 to
  26 k messages/s, 1,000 pairs 21 to 25 k, idempotent singles 4.5 to 4.8 k; large batches alike).
* `begin_nowait`: for PAUSE_S after that was not so. Linux's native AIO takes an fdatasync (4.18 and later), runs it in
  a kernel worker and signals an eventfd that trio waits for, so that the loop goes on meanwhile. Where that is not
  there (another system, a filter of system calls) or the file is none of the operating system's, a thread does it.
* `sync`: what `flush = async` does now and then, by the kernel or a thread in the same way.

A sync that the kernel has taken is never tried again in another way: its error is the caller's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import time
from typing import Final

import trio

from core.store.disk import File, RealFile

# io_setup, io_destroy, io_getevents, io_submit
_CALLS: Final = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
_FDSYNC: Final = 3
_RESFD: Final = 1  # flag: signal the eventfd
_REQUESTS_MAX: Final = 4
QUICK_S: Final = 0.001
PAUSE_S: Final = 2.0
_AVERAGED: Final = 16  # an outlier of 16 ms, or some of a few, end the loop's syncs
# data, key, flags of the call, opcode, priority, file, buffer, bytes, offset, reserved, flags, eventfd
_IOCB: Final = struct.Struct("<QIIHhIQQqQII")
_EVENT: Final = struct.Struct("<QQqq")  # data, request, result, second result


class _KernelSync:
    """One AIO context with one request in flight at a time. Raises OSError where the kernel has none to give."""

    def __init__(self) -> None:
        if platform.system() != "Linux" or platform.machine() not in _CALLS:
            raise OSError(errno.ENOSYS, "no native AIO known here")
        self._setup, self._destroy, self._getevents, self._submit = _CALLS[platform.machine()]
        # PyDLL: these calls return at once, and letting go of the interpreter's lock is what costs.
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        self._call(self._setup, ctypes.c_long(_REQUESTS_MAX), ctypes.byref(self._context))
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._request = ctypes.create_string_buffer(_IOCB.size)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._event = ctypes.create_string_buffer(_EVENT.size)

    def _call(self, number: int, *arguments: object) -> int:
        result: int = self._syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def close(self) -> None:
        self._call(self._destroy, self._context)
        os.close(self._eventfd)

    def begin_nowait(self, fd: int) -> None:
        """Raises OSError before anything began."""
        _IOCB.pack_into(self._request, 0, 1, 0, 0, _FDSYNC, 0, fd, 0, 0, 0, 0, _RESFD, self._eventfd)
        self._call(self._submit, self._context, ctypes.c_long(1), self._requests)

    async def wait_end(self) -> None:
        """Raises OSError when the sync failed."""
        while True:
            await trio.lowlevel.wait_readable(self._eventfd)
            os.eventfd_read(self._eventfd)
            if self._call(self._getevents, self._context, ctypes.c_long(0), ctypes.c_long(1), self._event, None):
                break
        result = _EVENT.unpack_from(self._event)[2]
        if result < 0:
            raise OSError(-result, os.strerror(-result))


class Syncs:
    """The syncs of one writer, one after another, on the trio thread."""

    def __init__(self) -> None:
        try:
            self._kernel: _KernelSync | None = _KernelSync()
        except OSError:
            self._kernel = None

        self._average_s = 0.0  # of the loop's syncs since the last pause
        self._loop_from = 0.0

    def close(self) -> None:
        """After the last sync's end."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    def sync_now(self, file: File) -> bool:
        """Syncs, if the disk has been quick of late; else nothing has happened. Raises OSError when the sync failed."""
        began = time.perf_counter()
        if began < self._loop_from:
            return False
        file.fdatasync()
        ended = time.perf_counter()
        self._average_s += (ended - began - self._average_s) / _AVERAGED
        if self._average_s > QUICK_S:
            self._average_s = 0.0
            self._loop_from = ended + PAUSE_S
        return True

    def begin_nowait(self, file: File) -> bool:
        """Whether the kernel has taken the sync: then `wait_end` tells of its end. Else nothing has happened."""
        if self._kernel is None or not isinstance(file, RealFile):
            return False
        try:
            self._kernel.begin_nowait(file.fileno())
        except OSError:
            return False
        return True

    async def sync(self, file: File) -> None:
        """Syncs beside the loop, while nothing else of this writer is being synced. Raises OSError when it failed.
        Cancelling does not end it.

        By the kernel where it can: a thread that comes back from a sync wants the interpreter's lock, and where both
        cores are busy it is put off the processor with it in its hand (measured at half load: five times a second the
        loop stood still for 1 to 5 ms).
        """
        with trio.CancelScope(shield=True):
            if self.begin_nowait(file):
                await self.wait_end()
            else:
                await trio.to_thread.run_sync(file.fdatasync)

    async def wait_end(self) -> None:
        """The end of the sync that was begun. Raises OSError when it failed."""
        if self._kernel is None:
            await trio.sleep_forever()
        else:
            await self._kernel.wait_end()
