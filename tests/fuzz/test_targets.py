"""The fuzz targets under hypothesis, in child processes, so that an abort of native code is a failed test and no more.

Valid inputs with pieces changed, and bytes by chance. `python -m interop.fuzz_guided` goes on with coverage for guide.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.targets import TARGETS
from tests.patience import PATIENCE_S

EXAMPLES = 150


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_return_or_raise_the_declared_error(name: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.run_target", name, str(EXAMPLES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
