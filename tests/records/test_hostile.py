"""Readers of foreign bytes under damage, in a child process, so that an abort or a leak would be seen."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import PATIENCE_S


def run(*arguments: str) -> str:
    child = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False, encoding="utf-8"
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return child.stdout


def test_damage_never_aborts_and_bombs_never_grow() -> None:
    output = run("-m", "tests.records.hostile", "20", "3000")
    accepted, refused, grown_kib, _ = output.splitlines()[-1].split()
    assert int(accepted) > 1000
    assert int(refused) > 1000
    # the limit is 1 MiB: half a gigabyte of zeros may cost some buffers of it, and the stack of the decoders
    assert int(grown_kib) < 16 * 1024


def test_importing_the_wire_formats_brings_neither_trio_nor_a_kafka_client() -> None:
    output = run(
        "-c",
        "import sys, trivium.rebuild, trivium.records\n"
        "print([name for name in ('trio', 'asyncio', 'aiokafka', 'ssl', 'logging') if name in sys.modules])",
    )
    assert output.strip() == "[]"
