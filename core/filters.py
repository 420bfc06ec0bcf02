"""Names with levels: topic names and topic filters, their rules (MQTT 5 section 4.7), and what matches what.

Levels are separated by `/`; `+` stands for one level, `#`, last, for the level above it and all below. A name that
begins with `$` is not matched by a wildcard in the first level. Nothing is normalised: `/a`, `a` and `a/` differ.

`scan` answers the reverse question, which stored names match a filter, over a sorted table that can only seek. It
leaps: where a name does not match, the next one that could is computed, so the cost grows with the matches (and the
distinct levels under a `+`), not with the table. Names stand there with NUL instead of `/`, so levels sort as levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

NAME_BYTES_MAX: Final = 65_535
LEVELS_MAX: Final = 200  # as mosquitto has it; bounds the work that one name or filter can cause


def check_topic(topic: str) -> str | None:
    """What is wrong with a topic name, or None. The name is text without NUL (a string as MQTT decodes it)."""
    if not topic:
        return "a topic name has at least one character"
    if "+" in topic or "#" in topic:
        return "a topic name holds no wildcard"
    if topic.count("/") >= LEVELS_MAX:
        return f"a topic name of more than {LEVELS_MAX} levels"
    return None


def check_filter(filter_: str) -> str | None:
    """What is wrong with a topic filter (without `$share/...`), or None."""
    if not filter_:
        return "a topic filter has at least one character"
    if filter_.count("/") >= LEVELS_MAX:
        return f"a topic filter of more than {LEVELS_MAX} levels"
    if "#" in filter_ or "+" in filter_:
        levels = filter_.split("/")
        for index, level in enumerate(levels):
            if "#" in level and (level != "#" or index != len(levels) - 1):
                return "`#` stands for the whole last level only"
            if "+" in level and level != "+":
                return "`+` stands for a whole level"
    return None


def parse_filter(filter_: str) -> tuple[str | None, str, str | None]:
    """`$share/NAME/FILTER` or a plain filter -> (share name or None, filter, what is wrong or None)."""
    if not filter_.startswith("$share/"):
        # `$share` alone would read as a shared subscription without a name ([MQTT-4.8.2-1]).
        return None, filter_, "a shared subscription without a name" if filter_ == "$share" else check_filter(filter_)
    share, slash, rest = filter_[7:].partition("/")
    if not share or not slash:
        return share, rest, "a shared subscription needs a name and a filter"
    if "+" in share or "#" in share:
        return share, rest, "the name of a shared subscription holds no wildcard"
    return share, rest, check_filter(rest)


def is_wildcard(filter_: str) -> bool:
    return "+" in filter_ or filter_.endswith("#")


def matches(filter_: str, topic: str) -> bool:
    """Does the (valid) filter match the (valid) topic name?"""
    if not is_wildcard(filter_):
        return filter_ == topic
    if topic.startswith("$") and filter_[0] in "+#":
        return False
    return levels_match(filter_.split("/"), topic.split("/"), 0)


def levels_match(pattern: list[str], levels: list[str], at: int) -> bool:
    """Does the pattern match `levels[at:]`?"""
    index = at
    for level in pattern:
        if level == "#":
            return True
        if index == len(levels) or (level != "+" and level != levels[index]):
            return False
        index += 1
    return index == len(levels)


def overlap(one: list[str], other: list[str]) -> bool:
    """Is there a name that both filters, given as levels, match?"""
    for index in range(max(len(one), len(other))):
        left = one[index] if index < len(one) else None
        right = other[index] if index < len(other) else None
        if left == "#" or right == "#":
            return True
        if left is None or right is None:
            return False
        if left != right and "+" not in (left, right):
            return False
    return True


def covers(filter_: str, name_prefix: str) -> bool:
    """Could the filter match any name whose first level is `name_prefix`?"""
    first = filter_.partition("/")[0]
    if first in ("+", "#"):
        return not name_prefix.startswith("$")
    return first == name_prefix


class SortedNames(Protocol):
    """A sorted table of topic names in the form of `to_key`."""

    def seek(self, key: bytes, count_max: int) -> list[bytes]:
        """At most `count_max` keys that are >= `key`, in order; empty at the end of the table."""


def to_key(topic: str) -> bytes:
    """A topic name as a key of a sorted table: levels compare one by one."""
    return topic.encode().replace(b"/", b"\0")


def from_key(key: bytes) -> str:
    return key.replace(b"\0", b"/").decode()


def scan(filter_: str, table: SortedNames, batch_max: int = 64) -> Iterator[str]:
    """The topic names in `table` that match the (valid) filter, in the order of the table.

    Reads `batch_max` keys at a time where the filter's tail is `#` or the filter is a plain `+`, one at a leap.
    """
    pattern = to_key(filter_).split(b"\0")
    position = _literal_prefix(pattern)
    dollar = pattern[0] in (b"+", b"#")
    count = 1
    while True:
        keys = table.seek(position, count)
        if not keys:
            return
        leap: bytes | None = None
        for key in keys:
            if leap is not None and key < leap:
                continue
            leap = None
            if dollar and key.startswith(b"$"):
                leap = b"%"  # the byte after `$`
                continue
            step = _compare(pattern, key.split(b"\0"))
            if step is None:
                yield from_key(key)
            elif step == b"":
                return
            else:
                leap = step
        if leap is not None:
            position, count = leap, 1
        else:
            position, count = keys[-1] + b"\0", batch_max


def _literal_prefix(pattern: list[bytes]) -> bytes:
    literal = []
    for level in pattern:
        if level in (b"+", b"#"):
            break
        literal.append(level)
    return b"\0".join(literal)


def _compare(pattern: list[bytes], levels: list[bytes]) -> bytes | None:
    """None if the name matches; else the least key behind it that can match, b"" if there is none."""
    last_plus = -1
    for index, want in enumerate(pattern):
        if want == b"#":
            return None
        if index == len(levels):
            # The name is a proper prefix of what the filter asks for: deeper names follow it directly.
            tail = _literal_prefix(pattern[index:])
            return b"\0".join([*levels, tail])
        if want == b"+":
            last_plus = index
            continue
        have = levels[index]
        if have < want:
            return b"\0".join([*levels[:index], want])
        if have > want:
            return _next_sibling(levels, last_plus)
    if len(levels) == len(pattern):
        return None
    # Deeper than the filter: the next name at this depth is the sibling of the last level that may vary.
    return _next_sibling(levels, last_plus)


def _next_sibling(levels: list[bytes], index: int) -> bytes:
    return b"\0".join(levels[: index + 1]) + b"\x01" if index >= 0 else b""
