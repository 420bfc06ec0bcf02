"""What native clients were told, and what must hold of it. No I/O here: each check returns what is violated.

Values are unique texts. A queue group's members say what they do in lines of one file that all append to, before they
ask (`ack?`) and when they were answered (`acked`), so it is known what a member that was killed may have done.
A line: verb, group, partition, offset, lease, key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

TRIED = frozenset(("ack?", "reject?"))  # after which a message may be over
ANSWERED = {"acked": "ack", "rejected": "reject"}  # after which it is


class Line(NamedTuple):
    verb: str
    group: str
    partition: int
    offset: int
    lease: int
    key: str


class Letter(NamedTuple):
    """A dead letter: where it came from, and after how many attempts."""

    partition: int
    offset: int
    attempts: int


class Stored(NamedTuple):
    """A record as Kafka reads it. `message_id` is empty where it has none."""

    value: str
    partition: int
    offset: int
    timestamp_ms: int
    message_id: str = ""


def parse_line(text: str) -> Line | None:
    """None for a line that a kill has cut off."""
    words = text.split()
    if len(words) != 6:
        return None
    verb, group, partition, offset, lease, key = words
    return Line(verb, group, int(partition), int(offset), int(lease), key)


def _few(found: Iterable[object]) -> str:
    every = sorted(map(str, found))
    return f"{', '.join(every[:5])} ({len(every)})"


# -- queue groups


def check_group(
    lines: list[Line],
    stored: Mapping[int, int],
    letters: list[Letter],
    *,
    attempts_max: int,
    ordered: bool,
    first: Mapping[int, int] | None = None,
) -> list[str]:
    """A group that says all is done. `lines` are its own, since its last reset if it had one, which put it to `first`;
    `stored`: partition -> end of the log, `letters` all of its dead letters.
    """
    violated: list[str] = []
    tried: dict[tuple[int, int], int] = {}  # place -> the last lease under which its end was asked for
    ended: dict[tuple[int, int], str] = {}
    refused: set[tuple[int, int]] = set()
    given: dict[tuple[int, int], int] = {}  # place -> the last lease under which it was handed out
    acked: dict[tuple[int, int], int] = {}
    for line in lines:
        place = (line.partition, line.offset)
        if line.verb == "got":
            given[place] = max(given.get(place, -1), line.lease)
        elif line.verb == "acked":
            acked[place] = max(acked.get(place, -1), line.lease)
        if line.verb == "got" and place in ended and line.lease > tried.get(place, -1):
            violated.append(f"{line.group}: {place} came again under lease {line.lease} after its {ended[place]}")
        elif line.verb in TRIED:
            tried[place] = max(tried.get(place, -1), line.lease)
        elif line.verb in ANSWERED:
            ended[place] = ANSWERED[line.verb]
        if line.verb == "reject?":
            refused.add(place)
    dead: dict[tuple[int, int], int] = defaultdict(int)
    for letter in letters:
        dead[letter.partition, letter.offset] += 1
        if letter.attempts < attempts_max and (letter.partition, letter.offset) not in refused:
            violated.append(f"dead after {letter.attempts} attempts: {letter}")
    group = lines[0].group if lines else "a group"
    if twice := [place for place, count in dead.items() if count > 1]:
        violated.append(f"{group}: dead letters more than once: {_few(twice)}")
    # Under an earlier lease: to acknowledge what others have ended since is done too.
    if both := [place for place in dead if place in acked and acked[place] >= given.get(place, -1)]:
        violated.append(f"{group}: acknowledged, and dead letters: {_few(both)}")
    if alive := [place for place, how in ended.items() if how == "reject" and place not in dead]:
        violated.append(f"{group}: rejected, and no dead letters: {_few(alive)}")
    acks = {(line.partition, line.offset) for line in lines if line.verb == "ack?"}
    begin = first or {}
    every = {(part, offset) for part, end in stored.items() for offset in range(begin.get(part, 0), end)}
    if lost := every - acks - dead.keys():
        violated.append(f"{group}: done without an acknowledgement or a dead letter: {_few(lost)}")
    if ordered:
        violated += _check_order(lines, dead)
    return violated


def _check_order(lines: list[Line], dead: Mapping[tuple[int, int], int]) -> list[str]:
    """Of each key, messages are handed out (leases rise) in order, and none before the end of the one before it."""
    violated: list[str] = []
    keys: dict[tuple[int, str], list[Line]] = defaultdict(list)
    ends: dict[tuple[int, int], int] = {}  # place -> line in which its end was first asked for
    for number, line in enumerate(lines):
        if line.verb == "got":
            keys[line.partition, line.key].append(line)
            known = [one.offset for one in keys[line.partition, line.key] if one.offset < line.offset]
            for offset in set(known[-3:]):
                place = (line.partition, offset)
                if place not in dead and ends.get(place, number) >= number:
                    violated.append(f"{line.group}: {line} before the end of {place}")
        elif line.verb in TRIED:
            ends.setdefault((line.partition, line.offset), number)
    for found in keys.values():
        found.sort(key=lambda line: line.lease)
        for before, after in pairwise(found):
            if after.offset < before.offset and after.lease != before.lease:
                violated.append(f"{after.group}: {after} was handed out after {before}")
    return violated


def check_reset(lines: list[Line], asked: int, places: Mapping[int, int], stored: Mapping[int, int]) -> list[str]:
    """A group that was reset to `places`; it was asked for before line `asked`. All from there on came again."""
    group = lines[0].group if lines else "a group"
    got = {(line.partition, line.offset) for line in lines[asked:] if line.verb == "got"}
    due = {(part, offset) for part, first in places.items() for offset in range(first, stored.get(part, 0))}
    return [f"{group}: did not come again after the reset: {_few(due - got)}"] if due - got else []


# -- what is stored once, or never


def check_once(told: Mapping[str, str], tried: Iterable[str], stored: list[tuple[str, Stored]]) -> list[str]:
    """`told`: once-id -> id of the first message, `tried` every once-id, `stored` (once-id, record)."""
    violated: list[str] = []
    found: dict[str, list[Stored]] = defaultdict(list)
    for once_id, record in stored:
        found[once_id].append(record)
    if twice := [one for one, records in found.items() if len(records) > 1]:
        violated.append(f"once-ids that are stored more than once: {_few(twice)}")
    if lost := [one for one in told if one not in found]:
        violated.append(f"once-ids that were acknowledged and are not stored: {_few(lost)}")
    if other := [one for one, first in told.items() if one in found and found[one][0].message_id != first]:
        violated.append(f"once-ids whose first message is another than was told: {_few(other)}")
    if unknown := found.keys() - set(tried):
        violated.append(f"once-ids that nobody sent: {_few(unknown)}")
    return violated


def check_delivered(
    due_ms: Mapping[str, int], cancelled: set[str], delivered: set[str], stored: list[Stored]
) -> list[str]:
    """Scheduled messages, when all are over. `due_ms`: id -> time, of all that were acknowledged; `cancelled` and
    `delivered` those of which a cancellation was answered so. What was asked and never answered is in neither.
    """
    violated: list[str] = []
    counts: dict[str, int] = defaultdict(int)
    early: list[str] = []
    for record in stored:
        counts[record.message_id] += 1
        if record.timestamp_ms < due_ms.get(record.message_id, 0):
            early.append(record.message_id)
    if early:
        violated.append(f"delivered before its time: {_few(early)}")
    if both := cancelled & delivered:
        violated.append(f"told to be cancelled and to be delivered: {_few(both)}")
    if came := [one for one in cancelled if counts[one]]:
        violated.append(f"cancelled and delivered: {_few(came)}")
    if twice := [one for one, count in counts.items() if count > 1]:
        violated.append(f"delivered more than once: {_few(twice)}")
    if lost := [one for one in due_ms.keys() | delivered if one not in cancelled and not counts[one]]:
        violated.append(f"scheduled, not cancelled and not delivered: {_few(lost)}")
    return violated


def check_halves(
    wanted: Mapping[str, bool], acknowledged: set[str], said_ms: Mapping[str, int], stored: list[Stored]
) -> list[str]:
    """Half messages, when none waits. `wanted`: value -> whether it is to be committed, of all that were sent;
    `acknowledged` those whose sending was answered; `said_ms`: when somebody first said what is to become of it.
    """
    violated: list[str] = []
    counts: dict[str, int] = defaultdict(int)
    for record in stored:
        counts[record.value] += 1
        if record.timestamp_ms < said_ms.get(record.value, 1 << 62):
            violated.append(f"half message seen before it was committed: {record}, said {said_ms.get(record.value)}")
    if twice := [value for value, count in counts.items() if count > 1]:
        violated.append(f"half messages delivered more than once: {_few(twice)}")
    if shown := [value for value in counts if not wanted.get(value)]:
        violated.append(f"half messages delivered that were rolled back: {_few(shown)}")
    if lost := [value for value in acknowledged if wanted[value] and not counts[value]]:
        violated.append(f"half messages committed and not delivered: {_few(lost)}")
    return violated


# -- readers


def check_readers(reads: Mapping[str, list[tuple[int, int, str]]], log: Mapping[tuple[int, int], str]) -> list[str]:
    """`reads`: reader -> (partition, offset, value) in order, each from the beginning: without gaps or repetitions."""
    violated: list[str] = []
    for reader, found in reads.items():
        due: dict[int, int] = defaultdict(int)
        for partition, offset, value in found:
            if offset != due[partition] or log.get((partition, offset)) != value:
                stands = log.get((partition, offset))
                violated.append(f"{reader}: read {value} at {partition}/{offset}, {due[partition]} was due; {stands}")
                break
            due[partition] = offset + 1
    return violated


def check_copies(source: list[str], copies: list[str]) -> list[str]:
    """A partition that was copied in transactions: all of it, once, in order."""
    if source == copies:
        return []
    same = next((i for i, pair in enumerate(zip(source, copies, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(source), len(copies)) if same is None else same
    here, there = source[at : at + 3], copies[at : at + 3]
    return [f"{len(source)} to copy, {len(copies)} copied, differs from {at} on: {here} {there}"]
