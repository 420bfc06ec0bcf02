"""How a message is declared: its class, its fields on the wire, and who may send it.

An area is one module with its messages and a table `KINDS`, number -> Kind; codec.py lists the areas. Numbers 1 to 127,
a range for each area, never used again for something else:

    1-15 connection, topics, sending, pulling, offsets    16-39 queues    40-63 schedules, half messages, deduplication
    64-87 filters, traces, request and reply, resets      88-103 administration

compiled.py makes functions of the fields; a kind of field that it does not know is an error there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import construct as c

TEXT = c.PascalString(c.Int16ub, "utf8")
LONG_TEXT = c.PascalString(c.Int32ub, "utf8")
BYTES = c.Prefixed(c.Int32ub, c.GreedyBytes)
FLAG = c.Int8ub

Message = Any  # an instance of a declared class


class Declared(NamedTuple):
    """A message's class (a NamedTuple), its fields on the wire, and the classes of what its lists hold."""

    cls: Any
    fields: Any
    items: dict[str, Declared] = {}  # noqa: RUF012 - never changed


class Kind(NamedTuple):
    """A request with its reply, or a one-way message (`reply` None). `from_broker`: the broker says it."""

    request: Declared
    reply: Declared | None
    from_broker: bool = False


def list_of(item: Any) -> Any:
    """A u32 count and so many items."""
    return c.PrefixedArray(c.Int32ub, item)
