"""Filters: RocketMQ's answers (a part of what `interop.compare_filters` asks), errors with positions, and bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import CoreError
from core.selectors import InvalidFilter, Kind, compile_selector, matches_all
from core.selectors.conversions import EvaluationError, parse_double, parse_integer
from core.selectors.expressions import PROPERTY_BYTES_MAX
from core.selectors.parser import DEPTH_MAX, EXPRESSION_CHARS_MAX, OPERATIONS_MAX, parse
from trivium.records import Record

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "filters_golden.jsonl").read_text().splitlines()]


def record(headers: dict[str, bytes | None], key: bytes | None = None) -> Record:
    return Record(0, 0, key, b"", list(headers.items()))


def answer(sql: str, sets: list[dict[str, str]]) -> str:
    try:
        expression = parse(sql)
    except InvalidFilter:
        return "refused"
    letters = []
    for one in sets:
        try:
            value = expression.evaluate({name: text.encode() for name, text in one.items()})
        except EvaluationError:
            letters.append("E")
        else:
            letters.append({True: "T", False: "F", None: "N"}[value])  # type: ignore[index]
    return "accepted " + "".join(letters)


@pytest.mark.parametrize(("sql", "sets", "expected"), GOLDEN)
def test_answers_as_rocketmq_does(sql: str, sets: list[dict[str, str]], expected: str) -> None:
    assert answer(sql, sets) == expected


@pytest.mark.parametrize(
    ("sql", "position", "words"),
    [
        ("", 0, "a property, a value or an opening bracket expected, found the end"),
        ("a = ", 4, "found the end"),
        ("a = 1 b = 2", 6, "AND, OR or the end expected, found 'b'"),
        ("a ! b", 2, "'!' has no meaning here"),
        ("a = 'x", 4, "a text without its closing quote"),
        ("a IN ('x', 5)", 11, "a text in quotes expected, found '5'"),
        ("5 IN ('x')", 2, "IN takes a property"),
        ("(a = 1", 6, "a closing bracket expected"),
        ("a = NULL", 4, "use IS NULL"),
        ("a > 'x'", 4, "take numbers and properties"),
        ("a AND 5", 6, "a condition expected"),
        ("a BETWEEN 5 AND 4", 10, "lower bound"),
        ("a = 9223372036854775808", 4, "an integer above"),
        ("a = 0.0", 4, "out of range"),
        ("a NOT 5", 6, "CONTAINS, STARTSWITH, ENDSWITH, BETWEEN or IN expected"),
    ],
)
def test_errors_say_where(sql: str, position: int, words: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        compile_selector(sql, Kind.SQL)
    assert caught.value.position == position
    assert words in caught.value.message
    assert f"at character {position + 1}:" in caught.value.message
    assert caught.value.error is CoreError.INVALID_FILTER


@pytest.mark.parametrize(
    "bomb",
    [
        "(" * (DEPTH_MAX + 1) + "a" + ")" * (DEPTH_MAX + 1),
        "NOT " * (DEPTH_MAX + 1) + "a",
        "(" * EXPRESSION_CHARS_MAX,
        "a = 1" + " OR a = 1" * OPERATIONS_MAX,
        "a" + " IS NULL" * (DEPTH_MAX + 1),
        "a = " + "9" * 10_000,
        "a IN (" + ",".join("'x'" for _ in range(EXPRESSION_CHARS_MAX // 4)) + ")",
        "a = '" + "x" * EXPRESSION_CHARS_MAX + "'",
        "/*" * 8_000,
        "a" * (EXPRESSION_CHARS_MAX + 1),
        "-" * EXPRESSION_CHARS_MAX,
    ],
)
def test_bombs_are_refused(bomb: str) -> None:
    with pytest.raises(InvalidFilter):
        compile_selector(bomb, Kind.SQL)


def test_the_largest_that_is_allowed_works() -> None:
    deep = "(" * (DEPTH_MAX - 1) + "a = 'x'" + ")" * (DEPTH_MAX - 1)
    wide = "a = 'y' OR " * (OPERATIONS_MAX // 2 - 1) + "a = 'x'"
    many = "a IN (" + ",".join(f"'{number}'" for number in range(2_000)) + ",'x')"
    for sql in (deep, wide, many):
        selects = compile_selector(sql, Kind.SQL)
        assert selects(record({"a": b"x"}))
        assert not selects(record({"a": b"z"}))


def test_a_nested_between_evaluates_its_value_once() -> None:
    sql = "a"
    for _ in range(15):
        sql = f"-({sql} BETWEEN 1 AND 2)"
    compile_selector(f"{sql} IS NULL", Kind.SQL)(record({"a": b"1"}))  # 2 ** 15 evaluations otherwise
    calls = []

    class Counting(dict[str, bytes | None]):
        def get(self, name: str, default: Any = None) -> Any:
            calls.append(name)
            return super().get(name, default)

    parse(f"{sql} IS NULL").evaluate(Counting(a=b"1"))
    assert calls == ["a"]


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    for kind in Kind:
        try:
            selects = compile_selector(text, kind)
        except InvalidFilter as failure:
            position = failure.position
        else:
            position = 0
            assert selects(record({"a": b"1"})) in (True, False)
        assert 0 <= position <= len(text)


@given(st.text(alphabet="0123456789+-.eEfFdDxXpPNaInfity \t_٣", max_size=12))
def test_texts_are_numbers_or_not_but_never_a_fault(text: str) -> None:
    for convert in (parse_double, lambda one: parse_integer(one, 1)):
        try:
            convert(text)
        except EvaluationError:
            pass


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("TagA", [b"TagA"], [b"taga", b"TagAB", b"", None]),
        (" TagA || TagB ", [b"TagA", b"TagB"], [b"TagC", b"TagA || TagB"]),
        ("*", [b"x", None], []),
        ("", [b"x", None], []),
        ("*||x", [b"*", b"x"], [b"y", None]),
        ("||a||", [b"a"], [b""]),
        ("a|b", [b"a|b"], [b"a"]),
    ],
)
def test_tags(text: str, matching: list[bytes | None], others: list[bytes | None]) -> None:
    selects = compile_selector(text, Kind.TAGS)
    assert all(selects(record({"trivium.tag": tag} if tag is not None else {})) for tag in matching)
    assert not any(selects(record({"trivium.tag": tag} if tag is not None else {})) for tag in others)
    assert matches_all(text, Kind.TAGS) == (text in ("*", ""))


def test_a_tag_expression_without_a_tag_is_refused() -> None:
    for text in ("||", " || || "):
        with pytest.raises(InvalidFilter):
            compile_selector(text, Kind.TAGS)


def test_properties_are_headers_the_last_of_a_name() -> None:
    selects = compile_selector("a = 'new'", Kind.SQL)
    assert selects(Record(0, 0, None, b"", [("a", b"old"), ("a", b"new")]))
    assert not selects(Record(0, 0, None, b"", [("a", b"new"), ("a", None)]))


def test_what_is_no_text_or_too_long_is_not_there() -> None:
    missing = compile_selector("a IS NULL", Kind.SQL)
    assert missing(record({"a": b"\xff"}))
    assert missing(record({"a": b"x" * (PROPERTY_BYTES_MAX + 1)}))
    assert not missing(record({"a": b"x" * PROPERTY_BYTES_MAX}))


def test_tag_and_key_have_names() -> None:
    both = compile_selector("TAGS = 'hot' AND KEYS STARTSWITH 'line3/'", Kind.SQL)
    assert both(record({"trivium.tag": b"hot"}, b"line3/temp"))
    assert not both(record({"trivium.tag": b"hot"}, b"line4/temp"))
    assert not both(record({}, None))
    assert both(record({"TAGS": b"hot", "KEYS": b"line3/"}, b"x"))


def test_an_expression_that_cannot_be_evaluated_does_not_match() -> None:
    selects = compile_selector("price > 5 OR region = 'eu'", Kind.SQL)
    assert selects(record({"price": b"7", "region": b"eu"}))
    assert not selects(record({"price": b"cheap", "region": b"eu"}))
