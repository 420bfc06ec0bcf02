from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocols.kafka.errors import RemoteProtocolError
from gateway.protocols.kafka.frames import FrameReader

frames_of_bytes = st.lists(st.binary(min_size=1, max_size=300), max_size=20)


def encode(frames: list[bytes]) -> bytes:
    return b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)


@given(frames_of_bytes, st.lists(st.integers(1, 500), min_size=1))
def test_frames_come_out_whole_however_the_stream_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    stream = encode(frames)
    reader = FrameReader(1000)
    got: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += [bytes(frame) for frame in reader.feed(stream[at : at + step])]
        at, turn = at + step, turn + 1
    assert got == frames
    assert reader.held_bytes == 0


@pytest.mark.parametrize("length", [0, -1, -(2**31), 1001, 2**31 - 1])
def test_a_length_out_of_range_is_refused_before_anything_is_kept(length: int) -> None:
    reader = FrameReader(1000)
    with pytest.raises(RemoteProtocolError, match=str(length)):
        reader.feed(struct.pack(">i", length))


def test_held_bytes_count_what_waits_for_its_rest() -> None:
    reader = FrameReader(1000)
    assert reader.feed(struct.pack(">i", 500) + b"x" * 100) == []
    assert reader.held_bytes == 104
    (frame,) = reader.feed(b"x" * 400)
    assert len(frame) == 500
    assert reader.held_bytes == 0


def test_a_frame_inside_one_chunk_is_not_copied() -> None:
    chunk = encode([b"abc", b"defg"])
    first, second = FrameReader(1000).feed(chunk)
    assert first.obj is chunk
    assert second.obj is chunk
