"""Compiles a writer: the Python source of one function that encodes one message at one version.

The function is `write(message, out)`; it appends the pieces of the body to the list `out`. Structs are written out
inside it as nested loops. Neighbouring fields of fixed size form a run, packed by one precompiled `struct`. Records are
appended as they are (a view, or several), never copied. Attributes that the version lacks are not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from gateway.protocols.kafka import codec_runtime
from gateway.protocols.kafka.codec_model import FIXED_FORMATS, SHORT_ARRAY, Field, Message, Schema

Writer = Callable[[Message, list[bytes | memoryview]], None]

_RUNTIME = {name: value for name, value in vars(codec_runtime).items() if not name.startswith("_")}


def compile_writer(schema: Schema, version: int) -> Writer:
    """The writer of a message at a version that the schema has."""
    builder = _WriterBuilder(schema, version)
    code = compile(builder.source(), f"<write {schema.name} v{version}>", "exec")
    exec(code, builder.namespace)
    writer: Writer = builder.namespace["write"]
    return writer


class _WriterBuilder:
    def __init__(self, schema: Schema, version: int) -> None:
        self._schema = schema
        self._version = version
        self._flexible = schema.is_flexible(version)
        self._lines: list[str] = []
        self._indent = 1
        self._run: list[tuple[str, str]] = []
        self._serial = 0
        self._out = "out"  # the list that pieces go to, and its append; a tagged field has its own
        self._append = "w"
        self.namespace: dict[str, Any] = {**_RUNTIME, "pack": struct.pack}

    def source(self) -> str:
        self._emit("w = out.append")
        self._struct(self._schema.name, "message")
        self._flush()
        return "\n".join(["def write(message, out):", *self._lines])

    def _emit(self, line: str) -> None:
        self._lines.append("    " * self._indent + line)

    def _fresh(self, prefix: str) -> str:
        self._serial += 1
        return f"{prefix}{self._serial}"

    def _flush(self) -> None:
        """Emit the pending run of fixed-size fields as one pack."""
        if not self._run:
            return
        format_ = "".join(code for code, _ in self._run)
        values = ", ".join(value for code, value in self._run if code != "x")
        if values:
            name = f"pack_{format_.replace('?', 'T')}"
            self.namespace[name] = struct.Struct(">" + format_).pack
            self._emit(f"{self._append}({name}({values}))")
        else:
            self._emit(f"{self._append}({bytes(len(format_))!r})")
        self._run.clear()

    def _struct(self, name: str, source: str) -> None:
        """Emit the writing of a struct. A run may be left pending."""
        fields = [field for field in self._schema.fields(name, self._version) if field.present]
        for field in fields:
            if field.tag is None:
                self._value(field, f"{source}.{field.name}")
        tagged = sorted((field for field in fields if field.tag is not None), key=lambda field: field.tag or 0)
        if tagged:
            self._tags(source, tagged)
        elif self._flexible:
            self._run.append(("x", ""))

    def _tags(self, source: str, tagged: list[Field]) -> None:
        self._flush()
        conditions = [f"({_differs(field, source)})" for field in tagged]
        count = self._fresh("t")
        self._emit(f"{count} = {' + '.join(conditions)}")
        self._emit(f"{self._append}(ONE_BYTE[{count}])")
        self._emit(f"if {count}:")
        self._indent += 1
        outer = self._out, self._append
        for field, condition in zip(tagged, conditions, strict=True):
            self._emit(f"if {condition}:")
            self._indent += 1
            self._out, self._append = self._fresh("out"), self._fresh("w")
            self._emit(f"{self._out} = []")
            self._emit(f"{self._append} = {self._out}.append")
            self._value(field, f"{source}.{field.name}")
            self._flush()
            piece = self._fresh("p")
            self._emit(f"{piece} = b''.join({self._out})")
            self._out, self._append = outer
            self._emit(f"{self._append}(encode_uvarint({field.tag}) + encode_uvarint(len({piece})) + {piece})")
            self._indent -= 1
        self._indent -= 1

    def _value(self, field: Field, source: str) -> None:
        if field.is_array:
            self._array(field, source)
        elif field.type in FIXED_FORMATS:
            self._run.append((FIXED_FORMATS[field.type], source))
        elif field.type in ("string", "bytes", "records"):
            self._variable(field.type, field.nullable, source)
        elif field.nullable and field.tag is None:
            value = self._fresh("v")
            self._flush()
            self._emit(f"{value} = {source}")
            self._emit(f"if {value} is None: {self._append}(b'\\xff')")
            self._emit("else:")
            self._indent += 1
            self._emit(f"{self._append}(b'\\x01')")
            self._struct(field.type, value)
            self._flush()
            self._indent -= 1
        else:
            value = self._fresh("v")
            self._emit(f"{value} = {source}")
            self._struct(field.type, value)

    def _begin_nullable(self, kind: str, value: str) -> None:
        null = b"\0" if self._flexible else b"\xff" * (2 if kind == "string" else 4)
        self._flush()
        self._emit(f"if {value} is None: {self._append}({null!r})")
        self._emit("else:")
        self._indent += 1

    def _length(self, kind: str, length: str) -> None:
        if not self._flexible:
            self._run.append(("h" if kind == "string" else "i", length))
            self._flush()
            return
        self._flush()
        prefix = self._fresh("n")
        function = "encode_string_prefix" if kind == "string" else "encode_uvarint"
        self._emit(f"{prefix} = {length} + 1")
        self._emit(f"{self._append}(ONE_BYTE[{prefix}] if {prefix} < 128 else {function}({prefix}))")

    def _variable(self, kind: str, nullable: bool, source: str) -> None:
        value = self._fresh("v")
        self._emit(f"{value} = {source}")
        if nullable:
            self._begin_nullable(kind, value)
        if kind == "string":
            self._emit(f"{value} = {value}.encode()")
        if kind == "records":
            total = self._fresh("r")
            self._emit(f"if type({value}) is bytes or type({value}) is memoryview: {value} = ({value},)")
            self._emit(f"{total} = sum(map(len, {value}))")
            self._length(kind, total)
            self._emit(f"{self._out}.extend({value})")
        else:
            self._length(kind, f"len({value})")
            self._emit(f"{self._append}({value})")
        if nullable:
            self._indent -= 1

    def _array(self, field: Field, source: str) -> None:
        values = self._fresh("a")
        self._emit(f"{values} = {source}")
        if field.nullable:
            self._begin_nullable("array", values)
        count = self._fresh("c")
        self._emit(f"{count} = len({values})")
        self._length("array", count)
        if field.element in FIXED_FORMATS and field.element != "uuid":
            format_ = FIXED_FORMATS[field.element]
            short = f"pack_array_{format_}"
            self.namespace[short] = [struct.Struct(f">{n}{format_}").pack for n in range(SHORT_ARRAY)]
            self._emit(f"if {count} < {SHORT_ARRAY}: {self._append}({short}[{count}](*{values}))")
            self._emit(f'else: {self._append}(pack(f">{{{count}}}{format_}", *{values}))')
        elif field.element == "uuid":
            self._emit(f"{self._out}.extend({values})")
        else:
            value = self._fresh("x")
            self._emit(f"for {value} in {values}:")
            self._indent += 1
            if field.element in ("string", "bytes"):
                self._variable(field.element, False, value)
            else:
                self._struct(field.element, value)
            self._flush()
            self._indent -= 1
        if field.nullable:
            self._indent -= 1


def _differs(field: Field, source: str) -> str:
    """The condition under which a tagged field is written: it is not its default."""
    value = f"{source}.{field.name}"
    default = field.default_source
    return f"{value} is not None" if default == "None" else f"{value} != {default}"
