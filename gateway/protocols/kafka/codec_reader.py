"""Compiles a reader: the Python source of one function that decodes one message at one version.

The function is `read(buf, pos, end) -> (message, position behind it)`. All structs of the message are written out
inside it as nested loops, so that decoding calls nothing per field. How it stays fast and safe:

- Neighbouring fields of fixed size, and the length that follows them, form a run, read by one precompiled `struct`
  (which checks the bound). One-byte varints are part of runs; longer ones are read again by `uvarint`.
- A length is checked against `end` before anything is sliced; a count against `end` with the least size of an element,
  and against what is `left` of ELEMENTS_MAX, before anything is looped over. So work is linear in the bytes received.
- `buf` is a memoryview for messages with records, whose records are views of it, and bytes for all others (slicing and
  decoding bytes is twice as fast).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from gateway.protocols.kafka import codec_runtime
from gateway.protocols.kafka.codec_model import (
    FIXED_BYTES,
    FIXED_FORMATS,
    SHORT_ARRAY,
    Field,
    Message,
    Schema,
    struct_classes,
)

Reader = Callable[[bytes | memoryview, int, int], tuple[Message, int]]

_RUNTIME = {name: value for name, value in vars(codec_runtime).items() if not name.startswith("_")}


def compile_reader(schema: Schema, version: int) -> Reader:
    """The reader of a message at a version that the schema has."""
    builder = _ReaderBuilder(schema, version)
    code = compile(builder.source(), f"<read {schema.name} v{version}>", "exec")
    exec(code, builder.namespace)
    reader: Reader = builder.namespace["read"]
    return reader


def carries_records(schema: Schema, version: int) -> bool:
    """Whether the message has records at this version, which its reader hands out as views of the buffer."""
    names = schema.struct_names
    return any(field.type == "records" and field.present for name in names for field in schema.fields(name, version))


class _ReaderBuilder:
    def __init__(self, schema: Schema, version: int) -> None:
        self._schema = schema
        self._version = version
        self._flexible = schema.is_flexible(version)
        self._views = carries_records(schema, version)
        self._lines: list[str] = []
        self._indent = 1
        self._run: list[tuple[str, str]] = []
        self._serial = 0
        self.namespace: dict[str, Any] = {
            **_RUNTIME,
            **struct_classes(schema.name),
            "new": object.__new__,
            "unpack_from": struct.unpack_from,
        }

    def source(self) -> str:
        self._emit("left = ELEMENTS_MAX")
        message = self._struct(self._schema.name)
        self._flush()
        self._emit(f"return {message}, pos")
        return "\n".join(["def read(buf, pos, end):", *self._lines])

    def _emit(self, line: str) -> None:
        self._lines.append("    " * self._indent + line)

    def _fresh(self, prefix: str) -> str:
        self._serial += 1
        return f"{prefix}{self._serial}"

    def _flush(self) -> None:
        """Emit the pending run of fixed-size fields as one unpack."""
        if not self._run:
            return
        format_ = "".join(code for code, _ in self._run)
        targets = ", ".join(target for _, target in self._run)
        if format_ == "B":
            self._emit(f"{targets} = buf[pos]")
        else:
            unpack = f"unpack_{format_.replace('?', 'T')}"
            self.namespace[unpack] = struct.Struct(">" + format_).unpack_from
            self._emit(f"{targets}{',' if len(self._run) == 1 else ''} = {unpack}(buf, pos)")
        self._emit(f"pos += {sum(FIXED_BYTES[code] for code, _ in self._run)}")
        self._run.clear()

    def _struct(self, name: str) -> str:
        """Emit the reading of a struct; returns the variable that holds it. A run may be left pending."""
        target = self._fresh("o")
        self._emit(f"{target} = new({name})")
        fields = self._schema.fields(name, self._version)
        tagged = [field for field in fields if field.present and field.tag is not None]
        for field in fields:
            if field.present and field.tag is None:
                self._value(field, f"{target}.{field.name}")
            else:
                self._emit(f"{target}.{field.name} = {field.default_source}")
        if self._flexible:
            self._tags(target, tagged)
        return target

    def _tags(self, target: str, tagged: list[Field]) -> None:
        count = self._fresh("t")
        self._run.append(("B", count))
        self._flush()
        self._emit(f"if {count}:")
        self._indent += 1
        if not tagged:
            self._emit(f"pos = skip_tags(buf, pos, end, {count})")
            self._indent -= 1
            return
        self._emit(f"if {count} > 127: {count}, pos = uvarint(buf, pos - 1)")
        self._emit(f"check_tags({count}, pos, end)")
        tag, size, stop = self._fresh("g"), self._fresh("s"), self._fresh("e")
        self._emit(f"for _ in range({count}):")
        self._indent += 1
        self._emit(f"{tag}, pos = uvarint(buf, pos)")
        self._emit(f"{size}, pos = uvarint(buf, pos)")
        self._emit(f"{stop} = pos + {size}")
        self._emit(f"if {stop} > end: raise too_short({size}, pos, end)")
        for index, field in enumerate(tagged):
            self._emit(f"{'elif' if index else 'if'} {tag} == {field.tag}:")
            self._indent += 1
            self._value(field, f"{target}.{field.name}")
            self._flush()
            self._emit(f"if pos != {stop}: raise bad_tag({tag}, {size}, pos)")
            self._indent -= 1
        self._emit("else:")
        self._emit(f"    pos = {stop}")
        self._indent -= 2

    def _value(self, field: Field, target: str) -> None:
        if field.is_array:
            self._array(field, target)
        elif field.type in FIXED_FORMATS:
            self._run.append((FIXED_FORMATS[field.type], target))
        elif field.type in ("string", "bytes", "records"):
            self._variable(field.type, field.name, field.nullable, target)
        elif field.nullable and field.tag is None:
            mark = self._fresh("n")
            self._run.append(("b", mark))
            self._flush()
            self._emit(f"if {mark} < 0: {target} = None")
            self._emit("else:")
            self._indent += 1
            inner = self._struct(field.type)
            self._flush()
            self._emit(f"{target} = {inner}")
            self._indent -= 1
        else:
            inner = self._struct(field.type)
            self._emit(f"{target} = {inner}")

    def _length(self, kind: str) -> str:
        """Emit the reading of a length or count (null is -1); returns its variable."""
        length = self._fresh("n")
        if not self._flexible:
            self._run.append(("h" if kind == "string" else "i", length))
            self._flush()
            return length
        self._run.append(("B", length))
        self._flush()
        function = "string_prefix" if kind == "string" else "uvarint"
        self._emit(f"if {length} > 127: {length}, pos = {function}(buf, pos - 1)")
        self._emit(f"{length} -= 1")
        return length

    def _null_or_error(self, name: str, nullable: bool, length: str, target: str) -> None:
        """Emit what a negative length means, and the `else:` for all others."""
        error = f"raise bad_length({name!r}, {length}, pos)"
        if nullable:
            self._emit(f"if {length} == -1: {target} = None")
            if not self._flexible:
                self._emit(f"elif {length} < 0: {error}")
        else:
            self._emit(f"if {length} < 0: {error}")
        self._emit("else:")

    def _variable(self, kind: str, name: str, nullable: bool, target: str) -> None:
        length = self._length(kind)
        self._null_or_error(name, nullable, length, target)
        self._indent += 1
        stop = self._fresh("e")
        self._emit(f"{stop} = pos + {length}")
        self._emit(f"if {stop} > end: raise too_short({length}, pos, end)")
        value = f"buf[pos:{stop}]"
        if kind != "records" and self._views:
            value = f"bytes({value})"
        self._emit(f"{target} = {value}{'.decode()' if kind == 'string' else ''}")
        self._emit(f"pos = {stop}")
        self._indent -= 1

    def _array(self, field: Field, target: str) -> None:
        count = self._length("array")
        self._null_or_error(field.name, field.nullable, count, target)
        self._indent += 1
        least = max(1, self._schema.bytes_min(field.element, False, self._version))
        self._emit(f"if {count} * {least} > end - pos: raise bad_count({field.name!r}, {count}, pos, end)")
        self._emit(f"left -= {count}")
        self._emit(f"if left < 0: raise too_many({field.name!r}, pos)")
        if field.element == "uuid":
            self._emit(f"{target} = [bytes(buf[at : at + 16]) for at in range(pos, pos + {count} * 16, 16)]")
            self._emit(f"pos += {count} * 16")
        elif field.element in FIXED_FORMATS:
            format_ = FIXED_FORMATS[field.element]
            short = f"unpack_array_{format_}"
            self.namespace[short] = [struct.Struct(f">{n}{format_}").unpack_from for n in range(SHORT_ARRAY)]
            self._emit(f"if {count} < {SHORT_ARRAY}: {target} = list({short}[{count}](buf, pos))")
            self._emit(f'else: {target} = list(unpack_from(f">{{{count}}}{format_}", buf, pos))')
            self._emit(f"pos += {count} * {FIXED_BYTES[format_]}")
        else:
            elements, element = self._fresh("a"), self._fresh("x")
            self._emit(f"{target} = {elements} = []")
            self._emit(f"for _ in range({count}):")
            self._indent += 1
            if field.element in ("string", "bytes"):
                self._variable(field.element, field.name, False, element)
            else:
                element = self._struct(field.element)
            self._flush()
            self._emit(f"{elements}.append({element})")
            self._indent -= 1
        self._indent -= 1
