"""A small disk for a broker's data, full when the run wants it: a tmpfs, so it needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FREE_MB_MIN = 16
SMALL = f"[store]\nsegment_bytes = 8388608\ndisk_free_bytes_min = {FREE_MB_MIN << 20}\n"


class SmallDisk:
    def __init__(self, size_mb: int) -> None:
        self._size_mb = size_mb
        self._directory: Path | None = None

    def mount(self, directory: Path) -> None:
        options = f"size={self._size_mb}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
        self._directory = directory

    def unmount(self) -> None:
        if self._directory is not None:
            subprocess.run(["umount", "-l", str(self._directory)], check=False)

    @property
    def _ballast(self) -> Path:
        assert self._directory is not None
        return self._directory / "ballast"

    def fill(self) -> None:
        """Less is free than the broker wants."""
        status = os.statvfs(self._ballast.parent)
        size = status.f_bavail * status.f_frsize - (FREE_MB_MIN << 20) // 2
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)
