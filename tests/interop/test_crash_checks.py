"""The checks of the native crash run find what they are there for: each is shown a history that is right, and the same
with one fault in it.
"""

from __future__ import annotations

import pytest

from interop.crash import native_ledger as checks
from interop.crash.native_ledger import Letter, Line, Stored

STORED = {0: 3}
RIGHT = ["got 0 1", "ack? 0 1", "acked 0 1", "got 1 2", "reject? 1 2", "rejected 1 2", "got 2 3", "ack? 2 3"]
LETTER = Letter(0, 1, 1)


def lines(*texts: str) -> list[Line]:
    """Lines of one group and key: verb, offset, lease."""
    found = []
    for text in texts:
        verb, offset, lease = text.split()
        found.append(Line(verb, "g", 0, int(offset), int(lease), "k"))
    return found


def group(said: list[Line], letters: list[Letter], **options: bool) -> list[str]:
    return checks.check_group(said, STORED, letters, attempts_max=4, ordered=options.get("ordered", False))


def test_a_line_that_was_cut_off_says_nothing() -> None:
    assert checks.parse_line("acked g 0 17 3 k") == Line("acked", "g", 0, 17, 3, "k")
    assert checks.parse_line("acked g 0 1") is None


def test_a_group_whose_messages_all_ended() -> None:
    assert group(lines(*RIGHT), [LETTER]) == []
    assert group(lines(*RIGHT), [LETTER], ordered=True) == []
    assert group(lines(*RIGHT, "got 2 2"), [LETTER]) == []  # what had been handed out before comes late


@pytest.mark.parametrize(
    ("said", "letters", "found"),
    [
        ([*RIGHT, "got 0 4"], [LETTER], "came again"),
        ([*RIGHT, "got 1 4"], [LETTER], "came again"),
        (RIGHT, [], "rejected, and no dead letters"),
        (RIGHT, [LETTER, LETTER], "more than once"),
        (RIGHT, [LETTER, Letter(0, 0, 4)], "acknowledged, and dead letters"),
        (RIGHT, [LETTER, Letter(0, 2, 1)], "dead after 1 attempts"),
        (RIGHT[:-1], [LETTER], "without an acknowledgement"),
        (RIGHT[:-2], [LETTER], "without an acknowledgement"),
    ],
)
def test_a_group_with_a_fault(said: list[str], letters: list[Letter], found: str) -> None:
    assert any(found in what for what in group(lines(*said), letters))


@pytest.mark.parametrize(
    "said",
    [
        ["got 0 1", "got 1 2", "ack? 0 1", "ack? 1 2", "got 2 3", "ack? 2 3"],  # two of a key at a time
        ["got 1 1", "ack? 1 1", "got 0 2", "ack? 0 2", "got 2 3", "ack? 2 3"],
    ],
)
def test_an_ordered_group_with_a_fault(said: list[str]) -> None:
    assert group(lines(*said), []) == []
    assert group(lines(*said), [], ordered=True)


def test_after_a_reset_all_comes_again() -> None:
    said = lines("got 0 1", "ack? 0 1", "got 1 2", "got 1 3", "got 2 4")
    assert checks.check_reset(said, 2, {0: 1}, STORED) == []
    assert checks.check_reset(said, 2, {0: 0}, STORED)


def stored(*texts: str) -> list[Stored]:
    return [Stored(text, 0, offset, 100, text) for offset, text in enumerate(texts)]


def test_what_is_stored_once() -> None:
    def found(told: dict[str, str], *texts: str) -> list[str]:
        return checks.check_once(told, ["1", "2"], [(record.value[0], record) for record in stored(*texts)])

    assert found({"1": "1a"}, "1a", "2b") == []
    assert found({"1": "1a"}, "1a", "1b")
    assert found({"1": "1a"}, "2b")
    assert found({"1": "1a"}, "1b")
    assert found({}, "3c")


def test_what_is_scheduled() -> None:
    due_ms = {"a": 90, "b": 90, "c": 90}
    assert checks.check_delivered(due_ms, {"a"}, {"b"}, stored("b", "c")) == []
    assert checks.check_delivered(due_ms, {"a"}, {"b"}, stored("a", "b", "c"))
    assert checks.check_delivered(due_ms, {"a"}, {"b"}, stored("b"))
    assert checks.check_delivered(due_ms, {"a"}, {"b"}, stored("b", "c", "c"))
    assert checks.check_delivered(due_ms, {"a"}, {"a"}, stored("b", "c"))
    assert checks.check_delivered({**due_ms, "c": 101}, {"a"}, {"b"}, stored("b", "c"))


def test_half_messages() -> None:
    wanted = {"a": True, "b": False, "c": True}
    said_ms = {"a": 90, "b": 90}
    assert checks.check_halves(wanted, {"a", "b"}, said_ms, stored("a")) == []
    assert checks.check_halves(wanted, {"a", "b"}, said_ms, stored("a", "b"))
    assert checks.check_halves(wanted, {"a", "b"}, said_ms, stored())
    assert checks.check_halves(wanted, {"a", "b"}, said_ms, stored("a", "a"))
    assert checks.check_halves(wanted, {"a", "b"}, said_ms, stored("a", "c"))  # nobody had said so


def test_readers_and_copies() -> None:
    log = {(0, 0): "a", (0, 1): "b", (1, 0): "c"}
    assert checks.check_readers({"r": [(0, 0, "a"), (1, 0, "c"), (0, 1, "b")]}, log) == []
    assert checks.check_readers({"r": [(0, 1, "b")]}, log)
    assert checks.check_readers({"r": [(0, 0, "a"), (0, 0, "a")]}, log)
    assert checks.check_readers({"r": [(0, 0, "b")]}, log)
    assert checks.check_copies(["a", "b"], ["a", "b"]) == []
    for copies in (["a"], ["b", "a"], ["a", "a", "b"], ["a", "b", "b"]):
        assert checks.check_copies(["a", "b"], copies)
