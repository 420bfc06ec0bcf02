"""A file's pages in memory, for the kernel to send from where they lie: no copy, no buffer.

A fetch answer made of copies costs a read and a buffer for every batch, and the first byte leaves once the last is
copied. Measured, alternated: a consumer of 1 GB takes 1.3 s of the broker's processor with copies, 0.8 to 1.0 s with
views. What has been sent counts as resident (RssFile) until the system wants the room; its page tables take 2 MB for
1 GB, at most for the files that are kept open.

The pages of a view may go before it is used: whoever touches them then waits for the disk, and if that fails a system
call ends with EFAULT but a program with SIGBUS. So only the kernel may read them.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from typing import Final

_STRETCH_PAGES: Final = 256
_STRETCH_BYTES: Final = _STRETCH_PAGES * mmap.PAGESIZE
_FRESH_S: Final = 0.5  # a stretch that was in memory is taken to be there for so long: neighbours are read together
_SIMPLE: Final = 0  # PyBUF_SIMPLE


class _PyBuffer(ctypes.Structure):
    """`Py_buffer` of the C API; its last fields are of no use here."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("rest", ctypes.c_void_p * 5),
    )


# PyDLL: these calls return at once, and letting go of the interpreter's lock is what costs.
_mincore: Final = ctypes.PyDLL(None).mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_vector: Final = bytearray(_STRETCH_PAGES)  # a byte a page: 1 when it is in memory
_vector_address: Final = ctypes.addressof(ctypes.c_char.from_buffer(_vector))


class Mapping:
    """All of a file as it is now, mapped until the last view is gone; OSError where the system has no such mapping.

    On the trio thread.
    """

    __slots__ = ("_address", "_mapped", "_seen_s", "_view", "size")

    def __init__(self, fd: int) -> None:
        mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        buffer = _PyBuffer()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapped), ctypes.byref(buffer), _SIMPLE)
        self._address: int = buffer.buf
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
        self._mapped = mapped
        self._view = memoryview(mapped)
        self.size = len(mapped)
        self._seen_s: dict[int, float] = {}  # by stretch: when all of it was in memory

    def view(self, offset: int, length: int) -> memoryview | None:
        """These bytes; None when not all of them are in memory (nor within `size`), or nobody can say."""
        end = offset + length
        if end > self.size:
            return None
        now = time.monotonic()
        at = offset - offset % _STRETCH_BYTES
        while at < end:
            next_at = at + _STRETCH_BYTES
            if self._seen_s.get(at, -_FRESH_S) < now - _FRESH_S:
                if self._resident(at, min(next_at, self.size)):
                    self._seen_s[at] = now
                elif not self._resident(max(at, offset), min(next_at, end)):
                    return None
            at = next_at
        return self._view[offset:end]

    def forget(self, offset: int, length: int) -> None:
        """Takes these pages out of the map until they are used again. From any thread; `offset` is a page's."""
        length = min(length, self.size - offset)
        if length > 0:
            self._mapped.madvise(mmap.MADV_DONTNEED, offset, length)

    def _resident(self, start: int, end: int) -> bool:
        """Whether these bytes, of one stretch, are in memory."""
        start -= start % mmap.PAGESIZE
        pages = -(-(end - start) // mmap.PAGESIZE)
        return not _mincore(self._address + start, end - start, _vector_address) and _vector.find(0, 0, pages) < 0
