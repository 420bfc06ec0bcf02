"""mosquitto's `acl_file`: who may publish to, and get messages of, which topics.

    topic [read|write|readwrite|deny] FILTER     for the user named above, or for anonymous clients before any `user`
    user NAME
    pattern [read|write|readwrite|deny] FILTER   for everybody; `%c` stands for the client id, `%u` for the user name

Rules are mosquitto's. The denials of a user's list come before its grants, then the patterns' denials and grants; what
nothing grants is denied. A named user has its own list only, not the anonymous one. Patterns are not used for names and
client ids with `+` or `#`, and those with `%u` not for anonymous clients. SUBSCRIBE is always granted: what may not be
read is not delivered.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from core.filters import check_filter, matches

READ: Final = 1
WRITE: Final = 2
_ACCESS: Final = {"read": READ, "write": WRITE, "readwrite": READ | WRITE, "deny": 0}
_PLACE: Final = re.compile("%[cu]")
VERDICTS_MAX: Final = 65_536  # remembered answers


class _Rule(NamedTuple):
    """`access` 0: denied."""

    access: int
    filter: str


class Acl:
    """The rules of a file. Raises OSError, or ValueError for a line that is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._users: dict[str | None, list[_Rule]] = {}
        self._patterns: list[_Rule] = []
        self._verdicts: dict[tuple[str | None, str, int, bytes], bool] = {}
        self.reload()

    def reload(self) -> None:
        """Raises as the constructor does, and then changes nothing."""
        users: dict[str | None, list[_Rule]] = {}
        patterns: list[_Rule] = []
        user: str | None = None
        for number, line in enumerate(self._path.read_text().splitlines(), 1):
            word, _, rest = line.rstrip().partition(" ")
            rest = rest.strip()
            if not word or line.startswith("#"):
                continue
            try:
                match word:
                    case "user" if rest:
                        user = rest
                    case "topic":
                        users.setdefault(user, []).append(_rule(rest))
                    case "pattern":
                        patterns.append(_rule(rest))
                    case _:
                        raise ValueError(f"{word!r} is not topic, user NAME or pattern")
            except ValueError as error:
                raise ValueError(f"{self._path}, line {number}: {error}") from None
        # Stable: within denials and grants the order of the file holds.
        self._users = {name: sorted(rules, key=lambda rule: rule.access != 0) for name, rules in users.items()}
        self._patterns = sorted(patterns, key=lambda rule: rule.access != 0)
        self._verdicts.clear()

    def allows(self, user: str | None, client_id: str, access: int, topic: bytes) -> bool:
        """`access` is READ or WRITE, `topic` a name in UTF-8."""
        key = user, client_id if self._patterns else "", access, topic
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= VERDICTS_MAX:
                self._verdicts.clear()
            verdict = self._verdicts[key] = self._judge(user, client_id, access, topic.decode())
        return verdict

    def _judge(self, user: str | None, client_id: str, access: int, name: str) -> bool:
        for rule in self._users.get(user, ()):
            if matches(rule.filter, name) and (rule.access == 0 or rule.access & access):
                return rule.access != 0
        if any(sign in text for text in (user or "", client_id) for sign in "+#"):
            return False
        put = {"%c": client_id, "%u": user or ""}
        for rule in self._patterns:
            if "%u" in rule.filter and user is None:
                continue
            made = _PLACE.sub(lambda found: put[found[0]], rule.filter)  # one pass: a client id "%u" stands for itself
            if matches(made, name) and (rule.access == 0 or rule.access & access):
                return rule.access != 0
        return False


def _rule(text: str) -> _Rule:
    word, space, rest = text.partition(" ")
    if not text:
        raise ValueError("the topic is missing")
    if not space:
        access, filter_ = READ | WRITE, text
    elif word in _ACCESS:
        access, filter_ = _ACCESS[word], rest.strip()
    else:
        raise ValueError(f"access {word!r} is not read, write, readwrite or deny")
    if (problem := check_filter(filter_)) is not None:
        raise ValueError(problem)
    return _Rule(access, filter_)
