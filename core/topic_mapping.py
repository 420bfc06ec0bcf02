"""One name space: an MQTT topic name is a topic and a record key, joined by the first slash. Both ways, without loss.

Rules, in this order, for a name -> (topic, key):

1. A mapping rule whose filter matches: the rule's topic, the key made from its template.
2. The first level is a legal topic name, no rule's topic, not the catch-all: that topic; key null for `t`, empty for
   `t/`, else what follows the first slash, verbatim (`t//a` has the key `/a`).
3. Everything else (`/sys/x`, a first level in Unicode, other `$` names): the catch-all topic, the whole name as key.

The way back uses the same rules: key -> name by the templates of the rules of that topic, by joining, or by taking the
catch-all's key as it is. A key that is no name (not UTF-8, NUL, wildcards, too long) has no way back: such records
reach subscribers of the bare topic.

A rule is `filter -> topic, key template`. The template is made of levels: `{1}`, `{2}` are what the filter's `+` stood
for, `{#}` what its `#` stood for, anything else is literal. It must name every wildcard once, and no two rules may
match one name or make one key of one topic; then the way back is unique, and a set of rules that is not is refused.
Partitions are Kafka's: murmur2 of the key, as its Java client has it; records with a null key go to partition 0, so
that one name always has one order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from core.filters import NAME_BYTES_MAX, check_filter, check_topic, is_wildcard, matches, overlap
from trivium import partitioner

CATCH_ALL: Final = "mqtt.other"
_LEGAL: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PLACE: Final = re.compile(r"\{([1-9][0-9]*|#)\}")


class Place(NamedTuple):
    """Where a name lives. `key` is None for a null key."""

    topic: str
    key: bytes | None


class MappingError(ValueError):
    """A mapping rule, or a set of them, whose way back would not be unique."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`filter` (MQTT topic filter) -> `topic`, `key` (template, see the module)."""

    filter: str
    topic: str
    key: str


def is_legal_topic(name: str) -> bool:
    """Is this a legal name of a (Kafka) topic?"""
    return _LEGAL.fullmatch(name) is not None and name not in (".", "..")


class _Compiled:
    """A rule as levels. `pattern` is the key's shape as a filter: `+` and `#` where the template has placeholders."""

    __slots__ = ("levels", "pattern", "rule", "template")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        if (problem := check_filter(rule.filter)) is not None:
            raise MappingError(f"rule {rule.filter!r}: {problem}")
        if not is_legal_topic(rule.topic):
            raise MappingError(f"rule {rule.filter!r}: {rule.topic!r} is no legal topic name")
        if rule.topic.startswith("__"):
            raise MappingError(f"rule {rule.filter!r}: topics that begin with __ are the broker's own")
        self.levels = rule.filter.split("/")
        wanted = [str(number) for number in range(1, self.levels.count("+") + 1)] + ["#"] * (self.levels[-1] == "#")
        self.template: list[str] = rule.key.split("/")
        found: list[str] = []
        self.pattern: list[str] = []
        for index, level in enumerate(self.template):
            place = _PLACE.fullmatch(level)
            if place is None:
                if "{" in level or "}" in level or "+" in level or "#" in level:
                    raise MappingError(f"rule {rule.filter!r}: a placeholder is a whole level of the key template")
                self.pattern.append(level)
                continue
            found.append(place[1])
            if place[1] == "#" and index != len(self.template) - 1:
                raise MappingError(f"rule {rule.filter!r}: {{#}} is the last level of the key template")
            self.pattern.append("#" if place[1] == "#" else "+")
        if sorted(found) != sorted(wanted):
            raise MappingError(f"rule {rule.filter!r}: the key template must name every wildcard of the filter once")

    def key_of(self, levels: list[str]) -> bytes | None:
        """The key of a name that the filter matches."""
        values = [level for want, level in zip(self.levels, levels, strict=False) if want == "+"]
        rest = levels[len(self.levels) - 1 :] if self.levels[-1] == "#" else []
        made: list[str] = []
        for level in self.template:
            place = _PLACE.fullmatch(level)
            if place is None:
                made.append(level)
            elif place[1] == "#":
                made.extend(rest)
            else:
                made.append(values[int(place[1]) - 1])
        return "/".join(made).encode() if made else None

    def name_of(self, key: str | None) -> str | None:
        """The name that has this key, None if the key is not of the template's shape."""
        levels = key.split("/") if key is not None else []
        values: dict[str, str] = {}
        rest: list[str] = []
        for index, want in enumerate(self.template):
            place = _PLACE.fullmatch(want)
            if place is not None and place[1] == "#":
                rest = levels[index:]
                levels = levels[:index]
                break
            if index >= len(levels) or (place is None and levels[index] != want):
                return None
            if place is not None:
                values[place[1]] = levels[index]
        fixed = len(self.template) - (self.template[-1] == "{#}")
        if len(levels) != fixed:
            return None
        made: list[str] = []
        number = 0
        for want in self.levels:
            if want == "+":
                number += 1
                made.append(values[str(number)])
            elif want == "#":
                made.extend(rest)
            else:
                made.append(want)
        return "/".join(made)


class TopicMapping:
    """The mapping under one configuration. Raises MappingError for rules that cannot be undone."""

    def __init__(self, rules: Iterable[Rule] = (), catch_all: str = CATCH_ALL) -> None:
        if not is_legal_topic(catch_all) or catch_all.startswith("__"):
            raise MappingError(f"{catch_all!r} is no legal topic name")
        self.catch_all = catch_all
        self._rules = [_Compiled(rule) for rule in rules]
        self._by_topic: dict[str, list[_Compiled]] = {}
        for compiled in self._rules:
            if compiled.rule.topic == catch_all:
                raise MappingError(f"rule {compiled.rule.filter!r}: the catch-all topic takes no rule")
            self._by_topic.setdefault(compiled.rule.topic, []).append(compiled)
        for index, one in enumerate(self._rules):
            for other in self._rules[:index]:
                if overlap(one.levels, other.levels):
                    raise MappingError(f"rules {other.rule.filter!r} and {one.rule.filter!r} match the same name")
                if one.rule.topic == other.rule.topic and overlap(one.pattern, other.pattern):
                    raise MappingError(f"rules {other.rule.filter!r} and {one.rule.filter!r} make the same key")

    @property
    def rules(self) -> list[Rule]:
        return [one.rule for one in self._rules]

    @property
    def fingerprint(self) -> str:
        """Differs between mappings that do."""
        return hashlib.sha256(repr((self.catch_all, self.rules)).encode()).hexdigest()

    def place(self, name: str) -> Place:
        """Where a (valid) topic name lives."""
        for compiled in self._rules:
            if matches(compiled.rule.filter, name):
                key = compiled.key_of(name.split("/"))
                if _is_name_key(key):
                    return Place(compiled.rule.topic, key)
        topic, slash, rest = name.partition("/")
        if is_legal_topic(topic) and topic != self.catch_all and topic not in self._by_topic:
            return Place(topic, rest.encode() if slash else None)
        return Place(self.catch_all, name.encode())

    def name(self, topic: str, key: bytes | None) -> str | None:
        """The topic name of a record, None if its key stands for none."""
        if key is not None and not _is_name_key(key):
            return None
        text = key.decode() if key is not None else None
        if topic == self.catch_all:
            name = text
        elif topic in self._by_topic:
            made = (compiled.name_of(text) for compiled in self._by_topic[topic])
            name = next((one for one in made if one is not None), None)
        else:
            name = topic if text is None else f"{topic}/{text}"
        if name is None or name.startswith(("$SYS/", "$share/")) or check_topic(name) is not None:
            return None
        return name if len(name.encode()) <= NAME_BYTES_MAX else None

    def topics_of(self, filter_: str) -> frozenset[str] | None:
        """The topics in which names that match the filter can live; None: in any topic."""
        levels = filter_.split("/")
        if not is_wildcard(filter_):
            return frozenset((self.place(filter_).topic,))
        found = {one.rule.topic for one in self._rules if overlap(levels, one.levels)}
        if levels[0] in ("+", "#"):
            return None
        default = self.place(levels[0]).topic if levels[0] else self.catch_all
        if is_legal_topic(levels[0]) and levels[0] not in self._by_topic:
            default = levels[0] if levels[0] != self.catch_all else self.catch_all
        return frozenset((*found, default, self.catch_all))


def _is_name_key(key: bytes | None) -> bool:
    """Could this key be (part of) a topic name?"""
    if key is None:
        return True
    if len(key) > NAME_BYTES_MAX or b"\0" in key or b"+" in key or b"#" in key:
        return False
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


# -- partitions ------------------------------------------------------------------------------------------------------


def partition_of(key: bytes | None, partitions: int) -> int:
    """The partition (0 <= p < partitions) of a key, as Kafka's default partitioner has it; 0 for a null key."""
    return partitioner.partition_of(key, partitions) if key is not None else 0
