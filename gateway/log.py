"""The broker's own log: structlog, one line per event, on standard error.

Standard output belongs to the lines that say where a listener listens. What clients call themselves may be 64 KiB long:
of each value a line holds the beginning.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

VALUE_CHARS_MAX: Final = 1_000


def cut_values(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str) and len(value) > VALUE_CHARS_MAX:
            event[name] = f"{value[:VALUE_CHARS_MAX]}... ({len(value):,} characters)"
    return event


def configure(level: str, style: str) -> None:
    """`level` is debug, info, warning or error; `style` is text or json."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        cut_values,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        shared += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = sys.stderr.isatty()
        traceback = structlog.dev.plain_traceback
        shared.append(structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, exception_formatter=traceback))
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
