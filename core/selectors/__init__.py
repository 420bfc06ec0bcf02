"""Filters over a message's properties, compiled once and asked per record: tag expressions and SQL-92, as RocketMQ's;
and over its key, by a pattern as devices have them (`line3/+`, `#`).

A message's properties are its record's headers, read as UTF-8 text, the last of a name; what is no text, or longer
than PROPERTY_BYTES_MAX, is not there. Two names have a meaning when no header bears them: `TAGS` is the message's tag
(header `trivium.tag`), `KEYS` the record's key. An expression that cannot be evaluated for a message, because a text
it compares with a number is none, does not match it.

A selector is a pure function of the record. What it may cost is bounded when it is compiled (`core.selectors.parser`).

Measured per record (2 cores, Python 3.11; three headers, decoded already; `python -m interop.bench_selectors`): tags
0.23 us, `region = 'eu'` 0.29, `price BETWEEN 10 AND 20 AND region IN ('eu', 'us')` 1.0; decoding the record 0.6.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from core.filters import check_filter, is_wildcard, matches
from core.selectors.conversions import EvaluationError
from core.selectors.expressions import Properties
from core.selectors.failure import InvalidFilter
from core.selectors.parser import parse
from core.selectors.tags import ALL, parse_tags
from trivium.headers import TAG
from trivium.records import Record

__all__ = ["InvalidFilter", "Kind", "Selector", "compile_selector", "matches_all", "selector_of"]

Selector = Callable[[Record], bool]
_TAGS_PROPERTY: Final = "TAGS"
_KEYS_PROPERTY: Final = "KEYS"
COMPILED_MAX: Final = 1_024  # that `selector_of` keeps; one that it does not is compiled anew


class Kind(enum.Enum):
    """The language of a filter, by the name that configurations and protocols use."""

    TAGS = "tags"
    SQL = "sql"
    KEY = "key"


_KINDS: Final = frozenset(kind.value for kind in Kind)


def matches_all(text: str, kind: Kind) -> bool:
    """Whether the filter lets everything pass, so that none is needed."""
    return kind is Kind.TAGS and text.strip() in ("", ALL)


def compile_selector(text: str, kind: Kind) -> Selector:
    """Raises InvalidFilter, which says what is wrong and where."""
    if kind is Kind.SQL:
        return _compile_sql(text)
    if kind is Kind.KEY:
        return _compile_key(text)
    if matches_all(text, kind):
        return lambda record: True
    return _compile_tags(text)


@lru_cache(COMPILED_MAX)
def selector_of(text: str) -> Selector:
    """As protocols and tables write a filter: `sql:EXPRESSION`, `tags:EXPRESSION`, `key:PATTERN`.

    Raises InvalidFilter.
    """
    kind, colon, expression = text.partition(":")
    if not colon or kind not in _KINDS:
        raise InvalidFilter("a filter begins with sql:, tags: or key:", 0)
    return compile_selector(expression, Kind(kind))


def _compile_tags(text: str) -> Selector:
    wanted = frozenset(tag.encode() for tag in parse_tags(text))

    def selects(record: Record) -> bool:
        return dict(record.headers).get(TAG) in wanted

    return selects


def _compile_key(pattern: str) -> Selector:
    if (problem := check_filter(pattern)) is not None:
        raise InvalidFilter(problem, 0)
    if not is_wildcard(pattern):
        wanted = pattern.encode()
        return lambda record: record.key == wanted

    def selects(record: Record) -> bool:
        try:
            return record.key is not None and matches(pattern, record.key.decode())
        except UnicodeDecodeError:
            return False

    return selects


def _compile_sql(text: str) -> Selector:
    expression = parse(text)
    evaluate = expression.evaluate
    aliases = expression.properties & {_TAGS_PROPERTY, _KEYS_PROPERTY}

    def selects(record: Record) -> bool:
        properties: Properties = dict(record.headers)
        if aliases:
            _add_aliases(properties, record)
        try:
            return evaluate(properties) is True
        except EvaluationError:
            return False

    return selects


def _add_aliases(properties: Properties, record: Record) -> None:
    if TAG in properties:
        properties.setdefault(_TAGS_PROPERTY, properties[TAG])
    properties.setdefault(_KEYS_PROPERTY, record.key)
