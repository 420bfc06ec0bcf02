"""Declared fields -> a function that reads a head and one that writes it.

construct walks its declaration for every message, and what its own compiler makes still goes through containers: 20 us
a head, four of them a request. What is made here goes between bytes and the message's class in 2 to 4 us. A test holds
it against construct over every declared message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import construct as c

from trivium.frames.declare import BYTES, LONG_TEXT, TEXT, Declared, Message

# Fields of a counted length: the format of the count, from what is counted, to what is counted.
_SIZED = {
    id(TEXT): ("H", "str({0}, 'utf8')", "{0}.encode()"),
    id(LONG_TEXT): ("I", "str({0}, 'utf8')", "{0}.encode()"),
    id(BYTES): ("I", "{0}", "bytes({0})"),
}


class Compiled(NamedTuple):
    """`read` takes a head and where to begin in it, and gives the message and where it ends; `write` hands out pieces.
    They raise struct.error, ValueError (UnicodeError is one), TypeError and AttributeError for what does not fit."""

    read: Callable[[bytes, int], tuple[Message, int]]
    write: Callable[[Message, Callable[[bytes], object]], None]


def compiled(declared: Declared) -> Compiled:
    """Raises TypeError for a kind of field that is not known here."""
    maker = _Maker(declared)
    for field in declared.fields.subcons:
        maker.add(f"f_{field.name}", field.subcon, declared.items.get(field.name))
    return maker.finish()


class _Maker:
    """Gathers the two functions' lines. Numbers that follow one another, and the counts of what follows them, are read
    and written by one struct."""

    def __init__(self, declared: Declared) -> None:
        self._fields = ", ".join(f"f_{name}" for name in declared.cls._fields) + "," * bool(declared.cls._fields)
        self._names: dict[str, Any] = {"cls": declared.cls, "unpack": struct.unpack_from, "pack": struct.pack}
        self._names |= {"cut": _cut, "fixed": _fixed}
        self._read: list[str] = []
        self._write: list[str] = []
        self._numbers: list[tuple[str, str, str]] = []  # what it is read to, written from, and its format

    def add(self, name: str, kind: Any, item: Declared | None) -> None:
        if isinstance(kind, c.FormatField):
            self._numbers.append((name, name, kind.fmtstr[1:]))
        elif isinstance(kind, c.Bytes):
            self._numbers.append((name, f"fixed({name}, {kind.length})", f"{kind.length}s"))
        elif id(kind) in _SIZED:
            self._add_sized(name, *_SIZED[id(kind)])
        elif isinstance(kind, c.FocusedSeq):  # what `list_of` makes
            self._add_list(name, kind.subcons[1].subcon.subcon, item)
        else:
            raise TypeError(f"{name[2:]}: a field of kind {kind!r} cannot be compiled")

    def _add_sized(self, name: str, count: str, get: str, put: str) -> None:
        data = f"d_{name}"
        self._write.append(f"{data} = {put.format(name)}")
        self._numbers.append((f"n_{name}", f"len({data})", count))
        self._flush()
        self._read += [f"end = cut(data, at, n_{name})", f"{name} = {get.format('data[at:end]')}", "at = end"]
        self._write.append(f"put({data})")

    def _add_list(self, name: str, kind: Any, item: Declared | None) -> None:
        count = f"n_{name}"
        self._numbers.append((count, f"len({name})", "I"))
        self._flush()
        self._read.append(f"cut(data, at, {count})")  # an item takes a byte at least
        if isinstance(kind, c.FormatField):
            number = kind.fmtstr[1:]
            self._read += [
                f"{name} = list(unpack(f'>{{{count}}}{number}', data, at))",
                f"at += {count} * {kind.length}",
            ]
            self._write.append(f"put(pack(f'>{{len({name})}}{number}', *{name}))")
            return
        one = f"one_{name}"
        self._names[f"{one}_read"], self._names[f"{one}_write"] = compiled(item or _alone(kind))
        got, given = ("one", "one") if item is not None else ("one[0]", "(one,)")
        self._read += [
            f"{name} = []",
            f"for _ in range({count}):",
            f"    one, at = {one}_read(data, at)",
            f"    {name}.append({got})",
        ]
        self._write += [f"for one in {name}:", f"    {one}_write({given}, put)"]

    def _flush(self) -> None:
        if not self._numbers:
            return
        packed = struct.Struct(">" + "".join(form for _, _, form in self._numbers))
        at = len(self._names)
        self._names[f"unpack{at}"], self._names[f"pack{at}"] = packed.unpack_from, packed.pack
        self._read.append(f"{', '.join(to for to, _, _ in self._numbers)}, = unpack{at}(data, at)")
        self._read.append(f"at += {packed.size}")
        self._write.append(f"put(pack{at}({', '.join(given for _, given, _ in self._numbers)}))")
        self._numbers = []

    def finish(self) -> Compiled:
        self._flush()
        read = ["def read(data, at):", *self._read, f"return cls({self._fields}), at"]
        write = ["def write(message, put):", *([f"{self._fields} = message"] if self._fields else []), *self._write]
        for lines in (read, write):
            exec("\n    ".join([*lines, "pass"]), self._names)
        return Compiled(self._names["read"], self._names["write"])


def _alone(kind: Any) -> Declared:
    """An item that is no message: as the one field of a tuple."""
    return Declared(_One, c.Struct("value" / kind))


class _One(NamedTuple):
    value: Any


def _cut(data: bytes, at: int, count: int) -> int:
    end = at + count
    if end > len(data):
        raise ValueError(f"{count} bytes or items announced, {len(data) - at} bytes are there")
    return end


def _fixed(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError(f"{len(value)} bytes instead of {length}")
    return value
