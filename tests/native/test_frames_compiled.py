"""What is compiled from the declarations does as construct does with them, for every declared message."""

from __future__ import annotations

import random
from typing import Any

import construct as c
import pytest

from tests.native.test_frames import MESSAGES
from trivium.errors import LocalProtocolError, RemoteProtocolError
from trivium.frames.codec import KINDS, REPLY_BIT, decode, encode
from trivium.frames.compiled import compiled
from trivium.frames.connection import MAGIC, Hello
from trivium.frames.declare import Declared
from trivium.frames.sending import Send, SendEntry

DECLARED = {number: kind.request for number, kind in KINDS.items()}
DECLARED |= {number | REPLY_BIT: kind.reply for number, kind in KINDS.items() if kind.reply is not None}


def plain(message: Any) -> dict[str, Any]:
    def value(one: Any) -> Any:
        if isinstance(one, list):
            return [plain(item) if hasattr(item, "_asdict") else item for item in one]
        return one

    return {name: value(one) for name, one in message._asdict().items()}


def typed(declared: Declared, parsed: Any) -> Any:
    def value(name: str, one: Any) -> Any:
        if name in declared.items:
            return [typed(declared.items[name], item) for item in one]
        return list(one) if isinstance(one, list) else one

    return declared.cls(*[value(name, parsed[name]) for name in declared.cls._fields])


def read_by_construct(declared: Declared, head: bytes) -> Any:
    """None where it refuses."""
    whole = c.Struct("message" / declared.fields, "end" / c.Terminated)
    try:
        return typed(declared, whole.parse(head)["message"])
    except (c.ConstructError, UnicodeError):
        return None


def read(declared: Declared, head: bytes, kind: int) -> Any:
    frame = b"".join([(10 + len(head)).to_bytes(4), len(head).to_bytes(4), bytes([kind, 0]), bytes(4), head])
    try:
        return decode(memoryview(frame)).message
    except RemoteProtocolError:
        return None


@pytest.mark.parametrize(("kind", "message"), [(kind, message) for kind, message, _ in MESSAGES])
def test_bytes_are_those_of_construct(kind: int, message: Any) -> None:
    assert encode(kind, 7, message)[14:] == DECLARED[kind].fields.build(plain(message))


@pytest.mark.parametrize(("kind", "message"), [(kind, message) for kind, message, _ in MESSAGES])
def test_what_is_damaged_is_read_as_construct_reads_it(kind: int, message: Any) -> None:
    declared = DECLARED[kind]
    whole = encode(kind, 7, message)[14:]
    source = random.Random(kind)
    damaged = [whole[:cut] for cut in range(len(whole))] + [whole + b"\0"]
    for _ in range(200 if whole else 0):
        changed = bytearray(whole)
        for _ in range(source.randint(1, 3)):
            changed[source.randrange(len(changed))] = source.choice([0, 1, 2, 127, 128, 255, source.randrange(256)])
        damaged.append(bytes(changed))
    for head in damaged:
        assert read(declared, head, kind) == read_by_construct(declared, head), head.hex()


@pytest.mark.parametrize(
    "message",
    [
        Send(256, "", []),
        Send(0, "x" * 65_536, []),
        Send(0, "", [SendEntry("t", -1, 0)]),
        Send(0, "", [SendEntry("t", "one", 0)]),  # type: ignore[arg-type]
        Send(0, None, []),  # type: ignore[arg-type]
        Send(0, "", [("t", 1)]),  # type: ignore[list-item]
        Hello(MAGIC + b"!", 1, 1, "", ""),
        Hello(MAGIC[1:], 1, 1, "", ""),
    ],
)
def test_what_does_not_fit_is_refused(message: Any) -> None:
    with pytest.raises(LocalProtocolError, match="does not fit"):
        encode(1 if isinstance(message, Hello) else 6, 7, message)


def test_a_field_that_cannot_be_compiled_is_named() -> None:
    with pytest.raises(TypeError, match="partition"):
        compiled(Declared(SendEntry, c.Struct("topic" / c.Int8ub, "partition" / c.VarInt, "size" / c.Int8ub)))
