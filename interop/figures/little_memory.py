"""Gives a running broker less memory than the machine has, page cache included, by a control group of Linux."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def limited(pid: int, memory_bytes_max: int) -> Iterator[None]:
    """What the process allocates and reads from now on counts; at the limit the system drops the oldest cache.

    The process must have ended when the body does. Raises OSError where control groups cannot be made.
    """
    root, limit = (_V1, "memory.limit_in_bytes") if _V1.is_dir() else (_V2, "memory.max")
    group = root / f"trivium-{uuid.uuid4().hex}"
    group.mkdir()
    try:
        (group / limit).write_text(str(memory_bytes_max))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        group.rmdir()
