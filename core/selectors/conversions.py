"""Values of different types compared as RocketMQ's filter compares them, which is how Java converts them.

A text beside a number is read as a number of that type, by the rules of Java's `Integer.valueOf`, `Long.valueOf` and
`Double.valueOf`; what is none raises EvaluationError. Doubles have Java's total order: NaN equals itself and is the
largest, -0.0 is below 0.0.
"""

from __future__ import annotations

import math
import re
from typing import Final

Value = str | int | float | bool
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
_DIGITS_MAX: Final = 19  # of a long

_INTEGER: Final = re.compile(r"[+-]?\d+\Z")
_DOUBLE: Final = re.compile(r"[+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fFdD]?)\Z")
_HEX_DOUBLE: Final = re.compile(r"([+-]?0[xX](?:[0-9a-fA-F]+\.?|[0-9a-fA-F]*\.[0-9a-fA-F]+)[pP][+-]?[0-9]+)[fFdD]?\Z")
_TRIMMED: Final = "".join(map(chr, range(33)))  # what Java's String.trim takes away


class Long(int):
    """An integer beyond 32 bits, or the negation of one: a text beside it is read as a long."""


class EvaluationError(Exception):
    """Two values cannot be compared."""


def parse_integer(text: str, number: int) -> int:
    """The text as an integer of the type of `number`."""
    if not _INTEGER.match(text) or max(text) > "\uffff":
        raise EvaluationError
    sign = "-" if text[0] == "-" else ""
    digits = text.lstrip("+-").lstrip("0") or "0"
    if len(digits) > _DIGITS_MAX:
        digits = digits.translate({ord(one): "0" for one in set(digits) if int(one) == 0}).lstrip("0") or "0"
        if len(digits) > _DIGITS_MAX:
            raise EvaluationError
    value = int(sign + digits)
    low, high = (LONG_MIN, LONG_MAX) if type(number) is Long else (INT_MIN, INT_MAX)
    if not low <= value <= high:
        raise EvaluationError
    return value


def parse_double(text: str) -> float:
    stripped = text.strip(_TRIMMED)
    if _DOUBLE.match(stripped):
        return float(stripped.rstrip("fFdD") if stripped[-1] in "fFdD" else stripped)
    match = _HEX_DOUBLE.match(stripped)
    if match is None:
        raise EvaluationError
    try:
        return float.fromhex(match[1])
    except OverflowError:
        return -math.inf if stripped[0] == "-" else math.inf


def compare_doubles(left: float, right: float) -> int:
    if left < right:
        return -1
    if left > right:
        return 1
    if left == right:
        return int(math.copysign(1, left) - math.copysign(1, right)) // 2 if left == 0 else 0
    return (left != left) - (right != right)


def compare(left: Value, right: Value) -> int:
    """Negative, 0 or positive; -1 too for types that have no common one. Raises EvaluationError."""
    if isinstance(left, bool):
        if isinstance(right, bool):
            return left - right
        if isinstance(right, str):
            raise EvaluationError  # Java's filter fails here too: it casts the wrong side
        return -1
    if isinstance(left, str):
        return _compare_text(left, right)
    if isinstance(right, bool):
        return -1
    if isinstance(left, float):
        return compare_doubles(left, parse_double(right) if isinstance(right, str) else float(right))
    if isinstance(right, float):
        return compare_doubles(float(left), right)
    number = parse_integer(right, left) if isinstance(right, str) else right
    return (left > number) - (left < number)


def _compare_text(left: str, right: Value) -> int:
    if isinstance(right, str):
        return (left > right) - (left < right)
    if isinstance(right, bool):
        return (left.lower() == "true") - right
    if isinstance(right, float):
        return compare_doubles(parse_double(left), right)
    number = parse_integer(left, right)
    return (number > right) - (number < right)


def compare_sizes(left: Value, right: Value) -> int:
    """As `compare`, for `<`, `<=`, `>` and `>=`: two texts are read as doubles. Raises EvaluationError."""
    if isinstance(left, str) and isinstance(right, str):
        return compare_doubles(parse_double(left), parse_double(right))
    return compare(left, right)
