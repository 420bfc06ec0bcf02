"""The broker's own log: structlog, one line per event, on standard error.

Standard output belongs to the lines that say where a listener listens.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure(level: str, style: str) -> None:
    """`level` is debug, info, warning or error; `style` is text or json."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
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
        cache_logger_on_first_use=True,
    )
