"""Mappings over time: a name that changes its mapping does so from a position of the log on.

What was stored before keeps the name that it was published under, for whoever reads it later; what comes after has the
name of the new rules. A change is a row of the sessions' table: `m` and the position -> the mapping, written at the
start that first sees it. Retained state of `mqtt.retain=last` goes by the mapping as it stands, whatever its age.
"""

from __future__ import annotations

import json
from typing import Final

import structlog

from core.state import Change
from core.topic_mapping import MappingError, Rule, TopicMapping

log = structlog.get_logger(__name__)

MAPPING: Final = b"m"
CHANGES_MAX: Final = 1_000  # the oldest are forgotten: what was stored before takes the oldest mapping known


class MappingHistory:
    """`stored` is what the table holds: position -> mapping. `changes` is what has to be stored in it now."""

    def __init__(self, current: TopicMapping, stored: dict[int, bytes], position: int) -> None:
        self.current = current
        self.changes: list[Change] = []
        known = [(at, found) for at, packed in sorted(stored.items()) if (found := _unpack(packed)) is not None]
        if not known or known[-1][1].fingerprint != current.fingerprint:
            # What a log without a mapping holds was not published by devices: it takes the first one.
            since = position if known else 0
            known.append((since, current))
            self.changes.append((_key(since), _pack(current)))
        while len(known) > CHANGES_MAX:
            self.changes.append((_key(known.pop(0)[0]), None))
        self._known = known

    def at(self, position: int) -> TopicMapping:
        """The mapping of what was stored at a position."""
        known = self._known
        if len(known) == 1 or position >= known[-1][0]:
            return self.current
        return next((mapping for since, mapping in reversed(known) if since <= position), known[0][1])

    def next_change(self, position: int) -> int | None:
        """Where the next change after a position stands; None if there is none."""
        return next((since for since, _ in self._known[1:] if since > position), None)

    def topics_since(self, filter_: str, position: int) -> frozenset[str] | None:
        """The topics in which names that match the filter were stored from a position on; None: in any topic."""
        ends = [since for since, _ in self._known[1:]]
        topics: set[str] = set()
        for index, (_, mapping) in enumerate(self._known):
            if index < len(ends) and ends[index] <= position:
                continue  # was over before
            found = mapping.topics_of(filter_)
            if found is None:
                return None
            topics |= {*found, mapping.catch_all}
        return frozenset(topics)


def _key(position: int) -> bytes:
    return MAPPING + position.to_bytes(8, "big")


def _pack(mapping: TopicMapping) -> bytes:
    rules = [[rule.filter, rule.topic, rule.key] for rule in mapping.rules]
    return json.dumps({"catch_all": mapping.catch_all, "rules": rules}, ensure_ascii=False).encode()


def _unpack(packed: bytes) -> TopicMapping | None:
    try:
        fields = json.loads(packed)
        return TopicMapping([Rule(*rule) for rule in fields["rules"]], fields["catch_all"])
    except (ValueError, KeyError, TypeError, MappingError) as error:
        log.error("an earlier mapping of MQTT names cannot be read", reason=str(error))
        return None
