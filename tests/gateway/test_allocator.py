"""Freed memory is kept: what is allocated again costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from gateway.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def answers():
    blocks = [bytes([1]) * 1_000_000 for _ in range(12)]

answers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    answers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(mode: str) -> int:
    found = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are glibc's settings")
def test_answers_of_megabytes_are_made_of_the_memory_of_those_before() -> None:
    assert _faults("kept") < 1_000
    assert _faults("as it is") > 10_000  # else the settings have become superfluous
