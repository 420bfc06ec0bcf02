"""The broker's own log."""

from __future__ import annotations

import structlog
from structlog.testing import capture_logs

from gateway.log import VALUE_CHARS_MAX, configure, cut_values


def test_a_line_holds_the_beginning_of_a_long_value() -> None:
    line = cut_values(None, "info", {"event": "closed", "client_id": "c" * 65_000, "code": 1, "peer": "p" * 1_000})
    assert line["client_id"] == "c" * VALUE_CHARS_MAX + "... (65,000 characters)"
    assert (line["event"], line["code"], line["peer"]) == ("closed", 1, "p" * 1_000)


def test_what_is_configured_holds_for_loggers_that_were_used_before() -> None:
    log = structlog.get_logger()
    for style in ("text", "json"):
        configure("info", style)
        log.info("used")
    with capture_logs() as logs:
        log.info("captured")
    assert [line["event"] for line in logs] == ["captured"]
