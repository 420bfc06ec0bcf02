"""Tag expressions: `TagA || TagB`, or `*` for every message.

As RocketMQ's FilterAPI: parts are trimmed, empty ones left out, a tag is compared as a whole and with its case. An
expression of separators alone is refused (RocketMQ's client refuses some of them, and of others makes a subscription
that matches nothing).
"""

from __future__ import annotations

from typing import Final

from core.selectors.failure import InvalidFilter

ALL: Final = "*"
SEPARATOR: Final = "||"
EXPRESSION_CHARS_MAX: Final = 16_384


def parse_tags(text: str) -> frozenset[str]:
    """The tags that match. Raises InvalidFilter."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise InvalidFilter(f"a tag expression has at most {EXPRESSION_CHARS_MAX} characters", EXPRESSION_CHARS_MAX)
    tags = frozenset(part.strip() for part in text.split(SEPARATOR)) - {""}
    if not tags:
        raise InvalidFilter("no tag; give TagA || TagB, or * for all", 0)
    return tags
