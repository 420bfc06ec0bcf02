"""Closures that evaluate the parts of an expression for one message's properties: True, False, None (unknown), a value.

Three-valued logic is RocketMQ's: a missing property is None; `=` with a missing left side is None, with a missing right
side False; two missing sides are equal. A failure to compare (EvaluationError) ends the whole evaluation, unless `AND`
or `OR` had their answer before.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final

from core.selectors.conversions import Long, Value, compare, compare_sizes

Properties = dict[str, bytes | None]
Evaluate = Callable[[Properties], Value | None]
Test = Callable[[int], bool]

PROPERTY_BYTES_MAX: Final = 32_767  # RocketMQ's limit of all properties of a message

SIZES: Final[dict[str, tuple[Test, Callable[[float, float], bool]]]] = {
    "<": (lambda order: order < 0, operator.lt),
    "<=": (lambda order: order <= 0, operator.le),
    ">": (lambda order: order > 0, operator.gt),
    ">=": (lambda order: order >= 0, operator.ge),
}


def text_of(raw: bytes | None) -> str | None:
    """A header's value as a property's."""
    if raw is None or len(raw) > PROPERTY_BYTES_MAX:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def property_(name: str) -> Evaluate:
    return lambda properties: text_of(properties.get(name))


def constant(value: Value | None) -> Evaluate:
    return lambda properties: value


def negate(of: Evaluate) -> Evaluate:
    def evaluate(properties: Properties) -> Value | None:
        value = of(properties)
        return None if value is None or isinstance(value, bool | str) else negated(value)

    return evaluate


def negated(number: float) -> float:
    return Long(-number) if type(number) is Long else -number


def not_(of: Evaluate) -> Evaluate:
    def evaluate(properties: Properties) -> Value | None:
        value = of(properties)
        return None if value is None else not value

    return evaluate


def as_boolean(of: Evaluate) -> Evaluate:
    """A property where a boolean is asked for: a text is never true."""

    def evaluate(properties: Properties) -> Value | None:
        value = of(properties)
        return None if value is None else value is True

    return evaluate


def any_of(parts: Sequence[Evaluate]) -> Evaluate:
    """OR."""

    def evaluate(properties: Properties) -> Value | None:
        unknown = False
        for part in parts:
            value = part(properties)
            if value:
                return True
            if value is None:
                unknown = True
        return None if unknown else False

    return evaluate


def all_of(parts: Sequence[Evaluate]) -> Evaluate:
    """AND."""

    def evaluate(properties: Properties) -> Value | None:
        unknown = False
        for part in parts:
            value = part(properties)
            if value is None:
                unknown = True
            elif not value:
                return False
        return None if unknown else True

    return evaluate


def equal(left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(properties: Properties) -> Value | None:
        one, other = left(properties), right(properties)
        if one is None:
            return True if other is None else None
        return other is not None and compare(one, other) == 0

    return evaluate


def equals_text(name: str, text: str) -> Evaluate:
    """`property = 'text'`, the commonest of all, without decoding."""
    wanted = text.encode("utf-8", "surrogatepass")

    def evaluate(properties: Properties) -> Value | None:
        raw = properties.get(name)
        if raw == wanted:
            return True if len(wanted) <= PROPERTY_BYTES_MAX else None
        return None if text_of(raw) is None else False

    return evaluate


def sized(left: Evaluate, sign: str, right: Evaluate) -> Evaluate:
    """`<`, `<=`, `>`, `>=`."""
    test, _ = SIZES[sign]

    def evaluate(properties: Properties) -> Value | None:
        one = left(properties)
        if one is None:
            return None
        other = right(properties)
        return None if other is None else test(compare_sizes(one, other))

    return evaluate


def sized_constant(left: Evaluate, sign: str, number: float) -> Evaluate:
    """As `sized`, with a number on the right: texts of few ASCII digits need no care."""
    test, quick = SIZES[sign]

    def evaluate(properties: Properties) -> Value | None:
        one = left(properties)
        if one is None:
            return None
        if type(one) is str and _is_small(one):
            return quick(int(one), number)
        return test(compare_sizes(one, number))

    return evaluate


def _is_small(text: str) -> bool:
    """Whether it is an integer of any type, seen at a glance."""
    return len(text) < 10 and text.isascii() and text.isdigit()


def between_constants(value: Evaluate, low: float, high: float, inverted: bool) -> Evaluate:
    """`between` and `not_between` of two numbers."""

    def evaluate(properties: Properties) -> Value | None:
        one = value(properties)
        if one is None:
            return None
        if type(one) is str and _is_small(one):
            return (low <= int(one) <= high) is not inverted
        return (compare_sizes(one, low) >= 0 and compare_sizes(one, high) <= 0) is not inverted

    return evaluate


def between(value: Evaluate, low: Evaluate, high: Evaluate) -> Evaluate:
    """`value >= low AND value <= high`, the value evaluated once."""

    def evaluate(properties: Properties) -> Value | None:
        one = value(properties)
        if one is None:
            return None
        bound = low(properties)
        above = None if bound is None else compare_sizes(one, bound) >= 0
        if above is False:
            return False
        bound = high(properties)
        below = None if bound is None else compare_sizes(one, bound) <= 0
        return False if below is False else above and below

    return evaluate


def not_between(value: Evaluate, low: Evaluate, high: Evaluate) -> Evaluate:
    """`value < low OR value > high`, the value evaluated once."""

    def evaluate(properties: Properties) -> Value | None:
        one = value(properties)
        if one is None:
            return None
        bound = low(properties)
        below = None if bound is None else compare_sizes(one, bound) < 0
        if below:
            return True
        bound = high(properties)
        above = None if bound is None else compare_sizes(one, bound) > 0
        return True if above else None if below is None or above is None else False

    return evaluate


def in_list(name: str, texts: Sequence[str], inverted: bool) -> Evaluate:
    wanted = frozenset(texts)

    def evaluate(properties: Properties) -> Value | None:
        text = text_of(properties.get(name))
        return None if text is None else (text in wanted) is not inverted

    return evaluate


_TEXT_TESTS: Final[dict[str, Callable[[str, str], bool]]] = {
    "CONTAINS": operator.contains,
    "STARTSWITH": str.startswith,
    "ENDSWITH": str.endswith,
}


def text_test(of: Evaluate, test: str, search: str, inverted: bool) -> Evaluate:
    """CONTAINS, STARTSWITH, ENDSWITH: false, also when inverted, for what is no text and for an empty search."""
    passes = _TEXT_TESTS[test]

    def evaluate(properties: Properties) -> Value | None:
        value = of(properties)
        return bool(search) and isinstance(value, str) and passes(value, search) is not inverted

    return evaluate
