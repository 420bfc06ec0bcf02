"""Bytes in, frames out: the sans-IO half that both ends of a native connection share.

A frame's length is checked against `frame_bytes_max` before anything is kept for it; memory grows only with bytes that
have arrived.
"""

from __future__ import annotations

from trivium.errors import RemoteProtocolError
from trivium.frames.codec import PREFIX_BYTES, SIZE_BYTES, Frame, decode


class FrameReader:
    """Takes bytes as they come, whole or one by one."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that has not arrived whole."""
        return len(self._held)

    def receive(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes; their payloads stay valid. Raises RemoteProtocolError."""
        if self._held:
            self._held += data
            if len(self._held) < SIZE_BYTES or len(self._held) < self._frame_size(self._held, 0):
                return []
            data, self._held = bytes(self._held), bytearray()
        view = memoryview(data)
        frames = []
        at, end = 0, len(data)
        while end - at >= SIZE_BYTES:
            size = self._frame_size(data, at)
            if end - at < size:
                break
            frames.append(decode(view[at : at + size]))
            at += size
        if at < end:
            self._held = bytearray(view[at:])
        return frames

    def _frame_size(self, data: bytes | bytearray, at: int) -> int:
        size = SIZE_BYTES + int.from_bytes(data[at : at + SIZE_BYTES], "big")
        if not PREFIX_BYTES <= size <= self._frame_bytes_max:
            raise RemoteProtocolError(f"a frame of {size} bytes; allowed are {PREFIX_BYTES} to {self._frame_bytes_max}")
        return size
