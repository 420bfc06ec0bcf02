"""What the codec compiles from: the tables of `schemas.py` seen at one version, and the classes of the messages.

Message classes are made on first use (importing 500 of them would cost more than the rest of the broker's start), from
source, so that they are plain slotted classes with a keyword-only constructor. `messages.pyi` tells mypy their types.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from gateway.protocols.kafka.errors import LocalProtocolError
from gateway.protocols.kafka.schemas import SCHEMAS

RecordBuffers = bytes | memoryview | Sequence[bytes | memoryview]
"""Records of a response: one buffer, or several that follow each other on the wire. Memoryviews are of bytes."""

FIXED_FORMATS: Final = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
    "uuid": "16s",
}
FIXED_BYTES: Final = {"?": 1, "b": 1, "B": 1, "x": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "d": 8, "16s": 16}
SHORT_ARRAY: Final = 9
"""Arrays of integers with fewer elements (replicas of a partition) are read and packed by precompiled structs."""


class Message:
    """Base of every message and struct: slots only, compared and printed by value."""

    __slots__: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__qualname__}({values})"


@dataclass(frozen=True, slots=True)
class Field:
    """One attribute at one version. `present` is false where the version does not carry it."""

    name: str
    type: str
    default: Any
    present: bool
    nullable: bool
    tag: int | None

    @property
    def is_array(self) -> bool:
        return self.type.startswith("[]")

    @property
    def element(self) -> str:
        return self.type.removeprefix("[]")

    @property
    def default_source(self) -> str:
        """The default as an expression; a tagged struct that is absent is None."""
        if self.default == ():
            return "[]"
        if self.default is ...:
            return "None" if self.tag is not None else f"{self.element}()"
        return repr(self.default)


class _Row(NamedTuple):
    """One line of a table: a field in all versions that have it so."""

    name: str
    type: str
    versions: tuple[int, int]
    default: Any
    nullable: tuple[int, int]
    tag: int | None


_NEVER: Final = (1, 0)


def _parse_versions(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return (int(low), int(high)) if low else _NEVER


def _parse_structs(text: str) -> dict[str, list[_Row]]:
    structs: dict[str, list[_Row]] = {}
    rows: list[_Row] = []
    for line in text.splitlines():
        if not line.startswith(" "):
            rows = structs[line] = []
            continue
        name, type_, versions, default, *rest = line.split()
        value = bytes(16) if default == "uuid" else literal_eval(default)
        nullable = _parse_versions(rest[0]) if rest else _NEVER
        rows.append(_Row(name, type_, _parse_versions(versions), value, nullable, int(rest[1]) if rest[1:] else None))
    return structs


def _within(version: int, versions: tuple[int, int]) -> bool:
    return versions[0] <= version <= versions[1]


class Schema:
    """One message of the tables."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.api_key, self.direction, self.low, self.high, self.flexible_from, text = SCHEMAS[name]
        self._structs = _parse_structs(text)

    @property
    def struct_names(self) -> list[str]:
        return list(self._structs)

    def fields(self, struct: str, version: int) -> list[Field]:
        """The fields of `struct` in wire order: present ones, and one absent entry per name that `version` lacks."""
        result: list[Field] = []
        for row in self._structs[struct]:
            present = _within(version, row.versions)
            nullable = present and _within(version, row.nullable)
            result.append(Field(row.name, row.type, row.default, present, nullable, row.tag))
        seen = {field.name for field in result if field.present}
        kept: list[Field] = []
        for field in result:
            if field.present or field.name not in seen:
                kept.append(field)
                seen.add(field.name)
        return kept

    def attributes(self, struct: str) -> list[Field]:
        """Every attribute once, whatever the version; the newest definition gives the default."""
        newest: dict[str, Field] = {}
        for version in range(self.low, self.high + 1):
            newest.update({field.name: field for field in self.fields(struct, version) if field.present})
        order = dict.fromkeys(row.name for row in self._structs[struct])
        return [newest[name] for name in order]

    def is_flexible(self, version: int) -> bool:
        return version >= self.flexible_from

    def bytes_min(self, type_: str, nullable: bool, version: int) -> int:
        """The fewest bytes that a value of `type_` takes on the wire."""
        if type_ in FIXED_FORMATS:
            return FIXED_BYTES[FIXED_FORMATS[type_]]
        if type_.startswith("[]") or type_ in ("bytes", "records"):
            return 1 if self.is_flexible(version) else 4
        if type_ == "string":
            return 1 if self.is_flexible(version) else 2
        if nullable:
            return 1
        present = [field for field in self.fields(type_, version) if field.present and field.tag is None]
        total = sum(self.bytes_min(field.type, field.nullable, version) for field in present)
        return total + self.is_flexible(version)


UNSET: Final = object()


def _class_source(schema: Schema, struct: str) -> Iterator[str]:
    attributes = schema.attributes(struct)
    names = ", ".join(f"{field.name!r}" for field in attributes)
    yield f"class {struct}(Message):"
    yield f"    __slots__ = ({names}{',' if attributes else ''})"
    if not attributes:
        return
    sources = {field.name: field.default_source for field in attributes}
    fresh = {name for name, source in sources.items() if source.endswith(("[]", "()"))}
    arguments = (f"{name}={'UNSET' if name in fresh else source}" for name, source in sources.items())
    yield f"    def __init__(self, *, {', '.join(arguments)}):"
    for name, source in sources.items():
        value = f"{source} if {name} is UNSET else {name}" if name in fresh else name
        yield f"        self.{name} = {value}"


@cache
def struct_classes(message: str) -> dict[str, type[Message]]:
    """The classes of a message's structs by name, the message's own among them."""
    schema = Schema(message)
    namespace: dict[str, Any] = {"Message": Message, "UNSET": UNSET, "__name__": "gateway.protocols.kafka.messages"}
    source = "\n".join(line for struct in schema.struct_names for line in _class_source(schema, struct))
    exec(compile(source, f"<{message} classes>", "exec"), namespace)
    classes: dict[str, type[Message]] = {struct: namespace[struct] for struct in schema.struct_names}
    root = classes[message]
    for struct, cls in classes.items():
        if cls is not root:
            cls.__qualname__ = f"{message}.{struct}"
            setattr(root, struct, cls)
    return classes


def message_class(message: str) -> type[Message]:
    """The class of a message, its structs being attributes of it. Raises LocalProtocolError for an unknown name."""
    if message not in SCHEMAS:
        raise LocalProtocolError(f"no message is called {message}")
    return struct_classes(message)[message]
