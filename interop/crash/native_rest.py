"""What the native crash run looks at when all is at rest: until nothing waits any more, then logs and lines against
what was told.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import trivium
import trivium.blocking
from interop.crash import native_ledger as checks
from interop.crash.ledger import Ledger
from interop.crash.load import PARTITIONS, read_all, read_messages
from interop.crash.native_roles import ATTEMPTS_MAX, Topics, is_committed
from interop.crash.native_workers import Told

GROUPS = ("none", "key", "moved")
COPIERS = 2
PATIENCE_S = 90.0


class Lines:
    """What the processes said, and the run about resets, in order."""

    def __init__(self, file: Path) -> None:
        self.groups: dict[str, list[checks.Line]] = defaultdict(list)
        self.reads: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        self.halves: dict[str, bool] = {}  # value -> whether its sending was answered
        self.said_ms: dict[str, int] = {}
        self.kept: list[tuple[int, int]] = []  # partition, offset
        self.violated: list[str] = []
        self.asked: dict[str, int] = {}  # group -> how much of its lines stood before its last reset was asked for
        self.places: dict[str, dict[int, int]] = {}  # where that reset put it, once it was answered
        self.answered: dict[str, int] = {}
        for text in file.read_text().splitlines():
            self._take(text)

    def _take(self, text: str) -> None:
        match text.split():
            case ["read", life, partition, offset, value]:
                self.reads[life].append((int(partition), int(offset), value))
            case ["kept", _, partition, offset]:
                self.kept.append((int(partition), int(offset)))
            case ["half?", value]:
                self.halves.setdefault(value, False)
            case ["half", value, _]:
                self.halves[value] = True
            case ["said", value, at_ms]:
                self.said_ms[value] = min(int(at_ms), self.said_ms.get(value, 1 << 62))
            case ["violated", *_]:
                self.violated.append(text)
            case ["reset?", group]:
                self.asked[group] = self._count(group)
            case ["reset", group, *places]:
                self.answered[group] = self._count(group)
                parts = (place.split(":") for place in places)
                self.places[group] = {int(part): int(offset) for part, offset in parts}
            case ["begun" | "commit?" | "committed", *_]:
                pass
            case _:
                if (line := checks.parse_line(text)) is not None:
                    self.groups[line.group].append(line)

    def _count(self, group: str) -> int:
        return len(self.kept if group == "keepers" else self.groups[group])

    def of_group(self, group: str) -> list[checks.Line]:
        """Since its last reset. An answer to what was handed out before that is left out: it may be of either side."""
        lines = self.groups[group]
        if group not in self.answered:
            return lines
        fresh = {
            (line.partition, line.offset, line.lease) for line in lines[self.answered[group] :] if line.verb == "got"
        }
        return [
            line
            for line in lines[self.asked[group] :]
            if line.verb not in checks.ANSWERED or (line.partition, line.offset, line.lease) in fresh
        ]


class AtRest:
    """Of one generation."""

    def __init__(
        self,
        client: trivium.blocking.Client,
        bootstrap: str,
        topics: Topics,
        once: str,
        later: str,
        directory: Path,
        told: Told,
        ledger: Ledger,
        check_processes: Callable[[], None],
    ) -> None:
        self._client = client
        self._bootstrap = bootstrap
        self._topics = topics
        self._once = once
        self._later = later
        self._directory = directory
        self._told = told
        self._ledger = ledger
        self._check_processes = check_processes
        self.messages = 0

    def wait(self) -> None:
        """Until nothing is scheduled, half or unsettled."""
        self._until("half messages", lambda: [one.message_id for one in self._client.halves()])
        self._until("what is scheduled", lambda: [one.message_id for one in self._client.scheduled()])
        self._until("queue groups", self._unsettled)

    def _unsettled(self) -> list[str]:
        ends = self._client.find_offsets(self._topics.plain, trivium.LATEST)
        found = []
        for info in self._client.describe_queues(*GROUPS):
            done = {place.partition: place for place in info.places if place.topic == self._topics.plain}
            for partition, end in ends.items():
                place = done.get(partition)
                if place is None or place.floor != end or place.failed or place.held:
                    found.append(f"{info.group}/{partition} of {end}: {place}")
        return found

    def _until(self, what: str, rest: Callable[[], list[str]]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while left := rest():
            self._check_processes()
            if time.monotonic() > deadline:
                self._ledger.violate(f"{what} did not come to an end in {PATIENCE_S:.0f} s: {left[:8]} ({len(left)})")
                return
            time.sleep(0.02)

    def check(self) -> None:
        plain = read_all(self._bootstrap, self._topics.plain, "read_committed")
        self._ledger.check_plain(self._topics.plain, plain)
        stored = dict.fromkeys(range(PARTITIONS), 0)
        stored.update({record.partition: record.offset + 1 for record in plain})
        values = {record.value for record in plain}
        violated = [f"refused, and stored: {value}" for value in self._told.refused if value in values]
        log = {(record.partition, record.offset): record.value for record in plain}
        sources = [[one.value for one in plain if one.partition == index] for index in range(COPIERS)]
        self._until("copies", lambda: self._uncopied(sources))
        self._until("readers", lambda: self._unread(stored))
        lines = Lines(self._directory / "lines")
        violated += lines.violated
        for group in GROUPS:
            violated += self._check_group(group, lines, stored)
        violated += checks.check_readers(lines.reads, log)
        violated += self._check_halves(lines)
        violated += checks.check_once(self._told.once, self._told.once_tried, self._once_ids())
        later = self._records(self._later)
        violated += checks.check_delivered(self._told.due_ms, self._told.cancelled, self._told.delivered, later)
        self.messages = len(plain) + len(later)
        for what in violated:
            self._ledger.violate(what)

    def _uncopied(self, sources: list[list[str]]) -> list[str]:
        records = read_all(self._bootstrap, self._topics.copies, "read_committed")
        copies = [[one.value for one in records if one.partition == index] for index in range(COPIERS)]
        return [
            what for source, found in zip(sources, copies, strict=True) for what in checks.check_copies(source, found)
        ]

    def _unread(self, stored: dict[int, int]) -> list[str]:
        """Somebody has read all, and who keeps a place in a group all since its reset."""
        lines = Lines(self._directory / "lines")
        whole = sum(stored.values())
        found = [] if any(len(read) == whole for read in list(lines.reads.values())[-3:]) else ["nobody has read all"]
        kept = set(lines.kept[lines.asked.get("keepers", 0) :])
        places = lines.places.get("keepers", {})
        due = {(part, offset) for part, end in stored.items() for offset in range(places.get(part, 0), end)}
        return found + [f"{place} is not read under a group" for place in sorted(due - kept)[:3]]

    def _check_group(self, group: str, lines: Lines, stored: dict[int, int]) -> list[str]:
        letters: list[checks.Letter] = []
        offset = 0
        while found := self._client.dead_letters(group, offset=offset, count=1_000):
            offset = found[-1].offset + 1
            letters += [checks.Letter(one.partition, one.message_offset, one.attempts) for one in found]
        mine = lines.of_group(group)
        if group in lines.answered:
            places, every, asked = lines.places[group], lines.groups[group], lines.asked[group]
            return checks.check_group(
                mine, stored, letters, attempts_max=ATTEMPTS_MAX, ordered=False, first=places
            ) + checks.check_reset(every, asked, places, stored)
        return checks.check_group(mine, stored, letters, attempts_max=ATTEMPTS_MAX, ordered=group == "key")

    def _check_halves(self, lines: Lines) -> list[str]:
        wanted = {value: is_committed(value) for value in lines.halves}
        acknowledged = {value for value, answered in lines.halves.items() if answered}
        return checks.check_halves(wanted, acknowledged, lines.said_ms, self._records(self._topics.halves))

    def _records(self, topic: str) -> list[checks.Stored]:
        return [
            checks.Stored(
                one.value().decode(), one.partition(), one.offset(), one.timestamp()[1], header(one, "trivium.id")
            )
            for one in read_messages(self._bootstrap, topic, "read_committed")
        ]

    def _once_ids(self) -> list[tuple[str, checks.Stored]]:
        return [
            (
                header(one, "once-id"),
                checks.Stored(one.value().decode(), one.partition(), one.offset(), 0, header(one, "trivium.id")),
            )
            for one in read_messages(self._bootstrap, self._once, "read_committed")
        ]


def header(message: object, name: str) -> str:
    """Of librdkafka's message."""
    headers = dict(message.headers() or [])  # type: ignore[attr-defined]
    return (headers.get(name) or b"").decode()
