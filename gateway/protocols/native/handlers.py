"""Every area's handlers, joined. A new area is one module with an `AREA`, and its name here."""

from __future__ import annotations

from gateway.protocols.native import (
    handlers_halves,
    handlers_offsets,
    handlers_pull,
    handlers_queue_admin,
    handlers_queues,
    handlers_resets,
    handlers_scheduled,
    handlers_send,
    handlers_topics,
    handlers_traces,
    handlers_transactions,
)
from gateway.protocols.native.context import Area

_MODULES = (
    handlers_topics,
    handlers_send,
    handlers_pull,
    handlers_offsets,
    handlers_transactions,
    handlers_scheduled,
    handlers_halves,
    handlers_resets,
    handlers_queues,
    handlers_queue_admin,
    handlers_traces,
)
_AREAS = [module.AREA for module in _MODULES]

HANDLERS = Area(
    tasks={cls: handler for area in _AREAS for cls, handler in area.tasks.items()},
    in_order={cls: handler for area in _AREAS for cls, handler in area.in_order.items()},
    one_way={cls: handler for area in _AREAS for cls, handler in area.one_way.items()},
)
