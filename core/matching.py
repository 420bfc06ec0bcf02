"""The subscription index: which subscriptions match a topic name, for millions of them.

A subscriber is a number, a subscription a number with options; the index stores `subscriber << OPTIONS_BITS | options`
as one integer per filter and subscriber, and knows neither sessions nor protocols. Shared subscriptions are subscribers
too: the caller gives each group a number of its own and keeps the members.

- Filters without wildcards are keys of a dict: one look-up, whatever their number.
- Filters with wildcards form a trie by level. A branch that leads to one filter only is not unfolded: its parent holds
  `(remaining levels, subscribers)`. Matching walks the branches that the name's levels, `+` and `#` select: the cost
  grows with levels and matches.
- The subscribers of a filter are an int when there is one, a sorted array of 64-bit numbers for a few, a dict above
  that: a million subscribers of one filter cost neither a million objects at rest nor a scan to remove one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, TypeAlias

from core.filters import is_wildcard, levels_match

OPTIONS_BITS: Final = 36
OPTIONS_MASK: Final = (1 << OPTIONS_BITS) - 1
SUBSCRIBERS_MAX: Final = 1 << (64 - OPTIONS_BITS)
_ARRAY_MAX: Final = 64

Subscribers: TypeAlias = "int | array[int] | dict[int, int]"


class _Node:
    __slots__ = ("children", "here", "plus", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node | tuple[str, Subscribers]] | None = None
        self.plus: _Node | tuple[str, Subscribers] | None = None
        self.here: Subscribers | None = None  # the filter ends at this level
        self.rest: Subscribers | None = None  # the filter ends with `#` below this level


_Branch: TypeAlias = "_Node | tuple[str, Subscribers]"


class SubscriptionIndex:
    """Filters (valid, without `$share/`) to subscribers. `version` changes with every change, for caches."""

    def __init__(self) -> None:
        self._exact: dict[str, Subscribers] = {}
        self._root = _Node()
        self._wildcards = 0
        self.version = 0
        self.count = 0

    def add(self, filter_: str, subscriber: int, options: int) -> bool:
        """Add a subscription or replace its options; True if it is new. Options: 0 <= options <= OPTIONS_MASK."""
        if not (0 <= options <= OPTIONS_MASK and 0 <= subscriber < SUBSCRIBERS_MAX):
            raise ValueError("subscriber or options do not fit their bits")
        entry = subscriber << OPTIONS_BITS | options
        self.version += 1
        if not is_wildcard(filter_):
            old = self._exact.get(filter_)
            self._exact[filter_], added = _with(old, entry)
        else:
            added = self._add_wildcard(filter_, entry)
            self._wildcards += added
        self.count += added
        return added

    def remove(self, filter_: str, subscriber: int) -> bool:
        """Remove a subscription; False if there is none."""
        if not is_wildcard(filter_):
            old = self._exact.get(filter_)
            if old is None or not _holds(old, subscriber):
                return False
            left = _without(old, subscriber)
            if left is None:
                del self._exact[filter_]
            else:
                self._exact[filter_] = left
        else:
            if not self._remove_wildcard(filter_, subscriber):
                return False
            self._wildcards -= 1
        self.count -= 1
        self.version += 1
        return True

    def match(self, topic: str) -> list[int]:
        """Entries (subscriber << OPTIONS_BITS | options) of all filters that match; a subscriber may appear often."""
        found: list[int] = []
        exact = self._exact.get(topic)
        if exact is not None:
            _collect(exact, found)
        if self._wildcards:
            self._match_wildcards(topic, found)
        return found

    def _match_wildcards(self, topic: str, found: list[int]) -> None:
        levels = topic.split("/")
        depth = len(levels)
        stack: list[tuple[_Node, int]] = [(self._root, 0)]
        dollar = topic.startswith("$")
        while stack:
            node, at = stack.pop()
            wild = at > 0 or not dollar
            if node.rest is not None and wild:
                _collect(node.rest, found)
            if at == depth:
                if node.here is not None:
                    _collect(node.here, found)
                continue
            branches: list[_Branch | None] = [node.plus if wild else None]
            if node.children is not None:
                branches.append(node.children.get(levels[at]))
            for branch in branches:
                if branch is None:
                    continue
                if type(branch) is tuple:
                    if _tail_matches(branch[0], levels, at + 1):
                        _collect(branch[1], found)
                elif isinstance(branch, _Node):
                    stack.append((branch, at + 1))

    def _add_wildcard(self, filter_: str, entry: int) -> bool:
        levels = filter_.split("/")
        node = self._root
        for at, level in enumerate(levels):
            if level == "#":
                node.rest, added = _with(node.rest, entry)
                return added
            branch = _branch(node, level)
            tail = "/".join(levels[at + 1 :])
            last = at + 1 == len(levels)
            if branch is None:
                _set_branch(node, level, ("" if last else "/" + tail, entry))
                return True
            if type(branch) is tuple:
                if branch[0] == ("" if last else "/" + tail):
                    subscribers, added = _with(branch[1], entry)
                    _set_branch(node, level, (branch[0], subscribers))
                    return added
                branch = _unfold(branch)
                _set_branch(node, level, branch)
            assert isinstance(branch, _Node)
            node = branch
        node.here, added = _with(node.here, entry)
        return added

    def _remove_wildcard(self, filter_: str, subscriber: int) -> bool:
        levels = filter_.split("/")
        path: list[tuple[_Node, str]] = []
        node = self._root
        for at, level in enumerate(levels):
            if level == "#":
                if node.rest is None or not _holds(node.rest, subscriber):
                    return False
                node.rest = _without(node.rest, subscriber)
                _prune(node, path)
                return True
            branch = _branch(node, level)
            if branch is None:
                return False
            if type(branch) is tuple:
                tail = "" if at + 1 == len(levels) else "/" + "/".join(levels[at + 1 :])
                if branch[0] != tail or not _holds(branch[1], subscriber):
                    return False
                left = _without(branch[1], subscriber)
                _set_branch(node, level, None if left is None else (tail, left))
                _prune(node, path)
                return True
            assert isinstance(branch, _Node)
            path.append((node, level))
            node = branch
        if node.here is None or not _holds(node.here, subscriber):
            return False
        node.here = _without(node.here, subscriber)
        _prune(node, path)
        return True


def _tail_matches(tail: str, levels: list[str], at: int) -> bool:
    """`tail` is what a folded branch has left: empty, or `/` and the remaining levels of its filter."""
    if not tail:
        return at == len(levels)
    if tail == "/#":
        return True
    return levels_match(tail[1:].split("/"), levels, at)


def _branch(node: _Node, level: str) -> _Branch | None:
    if level == "+":
        return node.plus
    return node.children.get(level) if node.children is not None else None


def _set_branch(node: _Node, level: str, branch: _Branch | None) -> None:
    if level == "+":
        node.plus = branch
    elif branch is None:
        if node.children is not None:
            node.children.pop(level, None)
            if not node.children:
                node.children = None
    elif node.children is None:
        node.children = {level: branch}
    else:
        node.children[level] = branch


def _unfold(branch: tuple[str, Subscribers]) -> _Node:
    """One level of a folded branch as a node of its own."""
    tail, subscribers = branch
    node = _Node()
    if not tail:
        node.here = subscribers
        return node
    level, slash, rest = tail[1:].partition("/")
    if level == "#":
        node.rest = subscribers
    else:
        _set_branch(node, level, (slash + rest, subscribers))
    return node


def _prune(node: _Node, path: list[tuple[_Node, str]]) -> None:
    """Take out nodes that lead nowhere any more."""
    while path and node.here is None and node.rest is None and node.plus is None and not node.children:
        node, level = path.pop()
        _set_branch(node, level, None)


# -- the set of subscribers of one filter --------------------------------------------------------------------------


def _collect(subscribers: Subscribers, found: list[int]) -> None:
    if isinstance(subscribers, int):
        found.append(subscribers)
    elif isinstance(subscribers, dict):
        found.extend([subscriber << OPTIONS_BITS | options for subscriber, options in subscribers.items()])
    else:
        found.extend(subscribers)


def _with(old: Subscribers | None, entry: int) -> tuple[Subscribers, bool]:
    """The set with the entry in it, and whether its subscriber is new."""
    if old is None:
        return entry, True
    subscriber = entry >> OPTIONS_BITS
    if isinstance(old, int):
        if old >> OPTIONS_BITS == subscriber:
            return entry, False
        return array("Q", sorted((old, entry))), True
    if isinstance(old, dict):
        added = subscriber not in old
        old[subscriber] = entry & OPTIONS_MASK
        return old, added
    at = bisect_left(old, subscriber << OPTIONS_BITS)
    if at < len(old) and old[at] >> OPTIONS_BITS == subscriber:
        old[at] = entry
        return old, False
    if len(old) < _ARRAY_MAX:
        old.insert(at, entry)
        return old, True
    grown = {one >> OPTIONS_BITS: one & OPTIONS_MASK for one in old}
    grown[subscriber] = entry & OPTIONS_MASK
    return grown, True


def _holds(subscribers: Subscribers, subscriber: int) -> bool:
    if isinstance(subscribers, int):
        return subscribers >> OPTIONS_BITS == subscriber
    if isinstance(subscribers, dict):
        return subscriber in subscribers
    at = bisect_left(subscribers, subscriber << OPTIONS_BITS)
    return at < len(subscribers) and subscribers[at] >> OPTIONS_BITS == subscriber


def _without(subscribers: Subscribers, subscriber: int) -> Subscribers | None:
    """The set without a subscriber that it holds; None when nobody is left."""
    if isinstance(subscribers, int):
        return None
    if isinstance(subscribers, dict):
        del subscribers[subscriber]
        if len(subscribers) > _ARRAY_MAX // 2:
            return subscribers
        return array("Q", sorted(one << OPTIONS_BITS | options for one, options in subscribers.items()))
    del subscribers[bisect_left(subscribers, subscriber << OPTIONS_BITS)]
    return subscribers if len(subscribers) > 1 else subscribers[0]


def entries(subscribers: list[int]) -> Iterator[tuple[int, int]]:
    """(subscriber, options) of what `match` found."""
    for entry in subscribers:
        yield entry >> OPTIONS_BITS, entry & OPTIONS_MASK
