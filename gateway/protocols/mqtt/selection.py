"""A subscription's filter over message properties: user property `trivium-filter` (SQL-92) or `trivium-tags` of a
SUBSCRIBE.

It counts for every topic filter of that SUBSCRIBE, is stored with the subscription as `core.selectors.selector_of`
reads it (empty for none), and compiled when it is needed; subscribers with the same filter share what it lets pass. Of
overlapping subscriptions a message needs to pass one. Members of a shared subscription all have the same filter.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from core.selectors import InvalidFilter, Kind, matches_all, selector_of
from gateway.protocols.mqtt.codec import properties as props
from gateway.protocols.mqtt.codec.properties import Properties
from trivium.records import Record

SELECTION_CHARS_MAX: Final = 4_096
_PROPERTIES: Final = {"trivium-filter": Kind.SQL, "trivium-tags": Kind.TAGS}


def asked_selection(properties: Properties) -> str:
    """The filter that a SUBSCRIBE asks for, as text. Raises InvalidFilter."""
    found = [(_PROPERTIES[name], text) for name, text in properties.get(props.USER_PROPERTY, []) if name in _PROPERTIES]
    if not found:
        return ""
    if len(found) > 1:
        raise InvalidFilter("one trivium-filter or trivium-tags to a SUBSCRIBE", 0)
    kind, text = found[0]
    if len(text) > SELECTION_CHARS_MAX:
        raise InvalidFilter(f"a filter has at most {SELECTION_CHARS_MAX} characters here", SELECTION_CHARS_MAX)
    if matches_all(text, kind):
        return ""
    selection = f"{kind.value}:{text}"
    selector_of(selection)
    return selection


def passes(selections: Iterable[str], record: Record) -> bool:
    """Whether a record passes one of the filters."""
    return any(selector_of(selection)(record) for selection in selections)
