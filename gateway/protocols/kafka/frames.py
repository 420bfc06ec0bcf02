"""Kafka's framing: a 4-byte length, then that many bytes. Sans-IO.

A frame that lies whole in one received chunk is a view of that chunk, not a copy; one that spans chunks is joined
once, when its last byte is there. Nothing is allocated by the announced length.
"""

from __future__ import annotations

import struct

from gateway.protocols.kafka.errors import RemoteProtocolError

_LENGTH = struct.Struct(">i")


class FrameReader:
    """Turns received chunks into frames; `held_bytes` is what waits for the rest of its frame."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._parts: list[bytes | memoryview] = []
        self._needed = 4
        self.held_bytes = 0

    def feed(self, chunk: bytes) -> list[memoryview]:
        """The frames that this chunk completes, without their length. Raises RemoteProtocolError for a length out
        of range.
        """
        if self.held_bytes:
            self._parts.append(chunk)
            self.held_bytes += len(chunk)
            if self.held_bytes < self._needed:
                return []
            chunk = b"".join(self._parts)
            self._parts.clear()
            self.held_bytes = 0
        frames = []
        view = memoryview(chunk)
        at, end = 0, len(chunk)
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(view, at)
            if not 0 < length <= self._frame_bytes_max:
                raise RemoteProtocolError(
                    f"frame of {length} bytes announced, 1 to {self._frame_bytes_max} are allowed"
                )
            if end - at - 4 < length:
                self._needed = 4 + length
                break
            frames.append(view[at + 4 : at + 4 + length])
            at += 4 + length
        else:
            self._needed = 4
        if at < end:
            self._parts.append(view[at:] if frames else chunk)
            self.held_bytes = end - at
        return frames
