"""The broker's own log."""

from __future__ import annotations

import json

import pytest
import structlog
from structlog.testing import capture_logs

from gateway.log import VALUE_CHARS_MAX, configure


def test_a_line_holds_the_beginning_of_a_long_value(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    structlog.get_logger().info("closed", client_id="c" * 65_000, code=1, peer="p" * VALUE_CHARS_MAX)
    line = json.loads(capsys.readouterr().err)
    assert line["client_id"] == "c" * VALUE_CHARS_MAX + "... (65,000 characters)"
    assert (line["event"], line["code"], line["peer"]) == ("closed", 1, "p" * VALUE_CHARS_MAX)


def test_what_is_configured_holds_for_loggers_that_were_used_before() -> None:
    log = structlog.get_logger()
    for style in ("text", "json"):
        configure("info", style)
        log.info("used")
    with capture_logs() as logs:
        log.info("captured")
    assert [line["event"] for line in logs] == ["captured"]
