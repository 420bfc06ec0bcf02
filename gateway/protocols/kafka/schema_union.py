"""The union of the message definitions of two kafka-clients jars, for generate_schemas.py.

Apache ships every message definition as JSON (`common/message/*.json`) inside the kafka-clients jar. No single jar
knows all versions: 3.9 still defines each API from version 0, 4.x dropped old versions and added new ones. Rules:

- Definitions of the two jars are matched by API key and direction (API 74 changed its name), names come from the newer.
- Each version is taken whole from ONE jar: the newer one where it declares the version valid, the older one otherwise.
- The table that results is resolved again for every version and must give exactly that jar's fields, in order, with the
  same types, nullability, tags and defaults; anything else stops the generator.
- Where both jars declare a version valid they must agree on the wire; a difference stops the generator too.
- A version that a jar marks unstable (`latestVersionUnstable`) was not released there and does not count as valid.

Only names, types, version ranges, tags and defaults are kept; documentation texts are not.
"""

from __future__ import annotations

import json
import keyword
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Messages without an API key that the protocol carries inside other messages or control records.
DATA_MESSAGES = ("ConsumerProtocolSubscription", "ConsumerProtocolAssignment", "EndTxnMarker")
PRIMITIVES = {
    "bool",
    "int8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "float64",
    "string",
    "uuid",
    "bytes",
    "records",
}
NEVER = 32767  # "flexible from" of messages that have no flexible version

Versions = tuple[int, int]


def parse_versions(text: str | None, ceiling: int = NEVER) -> Versions | None:
    """`"3+"`, `"1-4"`, `"7"` -> inclusive range; `None`, `""` and `"none"` -> None."""
    if not text or text == "none":
        return None
    if text.endswith("+"):
        return int(text[:-1]), ceiling
    low, _, high = text.partition("-")
    return int(low), int(high or low)


def within(version: int, versions: Versions | None) -> bool:
    return versions is not None and versions[0] <= version <= versions[1]


def snake_case(name: str) -> str:
    """`TopicId` -> `topic_id`, `KRaftVersion` -> `k_raft_version`; Python's keywords get a trailing underscore."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return snake + "_" if keyword.iskeyword(snake) else snake


@dataclass(frozen=True)
class Resolved:
    """One field as it is on the wire in one version."""

    name: str
    type: str
    nullable: bool
    tag: int | None
    default: Any


@dataclass
class Row:
    """One field of the union: `Resolved` plus the versions in which it is so."""

    name: str
    type: str
    tag: int | None
    default: Any
    versions: list[int] = field(default_factory=list)
    nullable: list[int] = field(default_factory=list)


@dataclass
class Definition:
    """One message definition of one jar, read."""

    name: str
    api_key: int
    direction: str
    valid: Versions | None
    flexible: Versions | None
    structs: dict[str, list[dict[str, Any]]]

    def drop_latest_version(self) -> None:
        low, high = self.valid or (0, 0)
        self.valid = (low, high - 1) if high > low else None

    def resolve(self, version: int) -> dict[str, list[Resolved]]:
        """The structs reachable in `version`, root first, each with its fields in wire order."""
        result: dict[str, list[Resolved]] = {}
        pending = [self.name]
        while pending:
            struct = pending.pop(0)
            if struct in result:
                continue
            result[struct] = rows = []
            for raw in self.structs[struct]:
                if not within(version, parse_versions(raw["versions"])):
                    continue
                rows.append(resolve_field(raw, version))
                element = raw["type"].removeprefix("[]")
                if element not in PRIMITIVES:
                    pending.append(element)
        return result


def resolve_field(raw: dict[str, Any], version: int) -> Resolved:
    tagged = "tag" in raw and within(version, parse_versions(raw.get("taggedVersions")))
    return Resolved(
        snake_case(raw["name"]),
        raw["type"],
        within(version, parse_versions(raw.get("nullableVersions"))),
        int(raw["tag"]) if tagged else None,
        default_value(raw["type"], raw.get("default")),
    )


def default_value(type_: str, text: Any) -> Any:
    """A definition's default as a Python constant; `()` stands for a fresh list, `...` for a fresh struct."""
    if type_ == "records" or text == "null":
        return None
    if type_.startswith("[]"):
        return ()
    match type_:
        case "string":
            return text or ""
        case "bytes":
            return b""
        case "uuid":
            return bytes(16)
        case "bool":
            return str(text).lower() == "true"
        case "float64":
            return float(text or 0)
        case _ if type_ in PRIMITIVES:
            return int(str(text or 0), 0)
    return ...


def collect_structs(name: str, raw: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Flatten nested and common structs into one name space per message, as Kafka's own generator does."""
    structs: dict[str, list[dict[str, Any]]] = {}

    def visit(struct: str, fields: list[dict[str, Any]]) -> None:
        if struct in structs:
            raise SystemExit(f"{name}: struct {struct} is defined twice")
        structs[struct] = fields
        for entry in fields:
            if "fields" in entry:
                visit(entry["type"].removeprefix("[]"), entry["fields"])

    visit(name, raw.get("fields", []))
    for common in raw.get("commonStructs", ()):
        visit(common["name"], common["fields"])
    return structs


def read_jar(path: Path) -> dict[tuple[int, str], Definition]:
    """All API messages and the data messages we need, by (API key, direction or name)."""
    found: dict[tuple[int, str], Definition] = {}
    unstable: set[int] = set()
    with zipfile.ZipFile(path) as jar:
        for entry in jar.namelist():
            if not re.fullmatch(r"common/message/\w+\.json", entry):
                continue
            raw = json.loads(re.sub(r"^\s*//.*$", "", jar.read(entry).decode(), flags=re.MULTILINE))
            name, kind, api_key = raw["name"], raw["type"], raw.get("apiKey", -1)
            if kind not in ("request", "response") and name not in DATA_MESSAGES:
                continue
            valid = parse_versions(raw["validVersions"])
            flexible = parse_versions(raw.get("flexibleVersions"))
            key = (api_key, kind if api_key >= 0 else name)
            found[key] = Definition(name, api_key, kind, valid, flexible, collect_structs(name, raw))
            if raw.get("latestVersionUnstable", False):
                unstable.add(api_key)
    for api_key in unstable:
        for kind in ("request", "response"):
            found[api_key, kind].drop_latest_version()
    return found


@dataclass
class Union:
    """One message of the union table."""

    name: str
    api_key: int
    direction: str
    low: int
    high: int
    flexible_from: int
    structs: dict[str, list[Row]]

    def resolve(self, version: int) -> dict[str, list[Resolved]]:
        result: dict[str, list[Resolved]] = {}
        pending = [self.name]
        while pending:
            struct = pending.pop(0)
            if struct in result:
                continue
            rows = [row for row in self.structs[struct] if version in row.versions]
            result[struct] = [Resolved(r.name, r.type, version in r.nullable, r.tag, r.default) for r in rows]
            pending += [r.type.removeprefix("[]") for r in rows if r.type.removeprefix("[]") not in PRIMITIVES]
        return result


def version_sources(old: Definition | None, new: Definition | None) -> dict[int, Definition]:
    """version -> the definition that governs it."""
    sources: dict[int, Definition] = {}
    for definition in (old, new):
        if definition is not None and definition.valid is not None:
            sources.update(dict.fromkeys(range(definition.valid[0], definition.valid[1] + 1), definition))
    return dict(sorted(sources.items()))


def check_agreement(old: Definition, new: Definition) -> None:
    """Stop if the jars disagree about the wire format of a version that both declare valid."""

    def shape(definition: Definition, struct: str, version: int) -> list[Any]:
        result: list[Any] = []
        for entry in definition.resolve(version)[struct]:
            element = entry.type.removeprefix("[]")
            kind = (
                entry.type
                if element in PRIMITIVES
                else [entry.type[: -len(element)], shape(definition, element, version)]
            )
            result.append((kind, entry.nullable, entry.tag))
        return result

    for version in range(NEVER if old.valid is None else old.valid[1] + 1):
        if not (within(version, old.valid) and within(version, new.valid)):
            continue
        same_shape = shape(old, old.name, version) == shape(new, new.name, version)
        if not same_shape or within(version, old.flexible) != within(version, new.flexible):
            raise SystemExit(f"{new.name} v{version}: the two jars disagree on the wire format")


def merge(old: Definition | None, new: Definition | None) -> Union | None:
    sources = version_sources(old, new)
    if not sources:
        return None
    if old is not None and new is not None and old.valid and new.valid:
        check_agreement(old, new)
    newest = sources[max(sources)]
    rename = {source.name: newest.name for source in sources.values()}
    flexible = [version for version, source in sources.items() if within(version, source.flexible)]
    union = Union(
        newest.name, newest.api_key, newest.direction, min(sources), max(sources), min(flexible, default=NEVER), {}
    )
    # Newest first: its order, defaults and struct names lead; rows that only older versions have are fitted in.
    for version in sorted(sources, reverse=True):
        for struct, fields in sources[version].resolve(version).items():
            merge_struct(union.structs.setdefault(rename.get(struct, struct), []), fields, version)
    verify(union, sources, rename)
    return union


def merge_struct(rows: list[Row], fields: list[Resolved], version: int) -> None:
    position = 0
    for entry in fields:
        same = [i for i, row in enumerate(rows) if (row.name, row.type, row.tag) == (entry.name, entry.type, entry.tag)]
        if same:
            index = same[0]
        else:
            index = position
            rows.insert(index, Row(entry.name, entry.type, entry.tag, entry.default))
        rows[index].versions.insert(0, version)
        if entry.nullable:
            rows[index].nullable.insert(0, version)
        position = max(position, index + 1)


def verify(union: Union, sources: dict[int, Definition], rename: dict[str, str]) -> None:
    if list(sources) != list(range(union.low, union.high + 1)):
        raise SystemExit(f"{union.name}: versions {list(sources)} have a gap")
    for version, source in sources.items():
        expected = {rename.get(name, name): rows for name, rows in source.resolve(version).items()}
        actual = union.resolve(version)
        if actual != expected:
            raise SystemExit(f"{union.name} v{version}: table gives {actual}, the jar {expected}")
        if within(version, source.flexible) != (version >= union.flexible_from):
            raise SystemExit(f"{union.name} v{version}: flexible versions do not merge")
    for rows in union.structs.values():
        for row in rows:
            for versions in (row.versions, row.nullable):
                if versions and versions != list(range(versions[0], versions[-1] + 1)):
                    raise SystemExit(f"{union.name}.{row.name}: versions {versions} have a gap")


def span(versions: list[int]) -> str:
    return f"{versions[0]}-{versions[-1]}" if versions else ""
