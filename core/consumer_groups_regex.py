"""Subscriptions by regular expression (KIP-848): RE2, whose matching takes time linear in the name, so no pattern can
stall the broker.
"""

from __future__ import annotations

from collections.abc import Iterable

import re2

from core.errors import CoreError, CoreFailure
from core.group_types import TopicView

PATTERN_CHARS_MAX = 4096
_PATTERN_MEMORY_BYTES_MAX = 1024 * 1024

_options = re2.Options()
_options.log_errors = False
_options.max_mem = _PATTERN_MEMORY_BYTES_MAX


def check_regex(pattern: str) -> None:
    """Raises CoreFailure(INVALID_REGEX)."""
    if len(pattern) > PATTERN_CHARS_MAX:
        raise CoreFailure(
            CoreError.INVALID_REGEX, f"SubscribedTopicRegex is longer than {PATTERN_CHARS_MAX} characters."
        )
    try:
        re2.compile(pattern, _options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise CoreFailure(
            CoreError.INVALID_REGEX, f"SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}."
        ) from None


def resolve_regexes(patterns: Iterable[str], topics: Iterable[TopicView]) -> dict[str, frozenset[str]]:
    """For each pattern (checked before) the topics whose whole name it matches; internal ones are nobody's business."""
    names = [topic.name for topic in topics if not topic.name.startswith("__")]
    resolved = {}
    for pattern in patterns:
        compiled = re2.compile(pattern, _options)
        resolved[pattern] = frozenset(name for name in names if compiled.fullmatch(name))
    return resolved
