"""The record builder is imported on first use, which may be in several threads at once."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import PATIENCE_S

PROGRAM = """
import sys
from trivium import records

found = []

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("aiokafka"):
            found.append(records._importing.locked())

sys.meta_path.insert(0, Hook())
records.preload()
assert found and all(found), found
"""


def test_threads_that_send_for_the_first_time_at_once_import_it_one_after_the_other() -> None:
    """Its modules import each other in a circle: who comes in the middle of that finds half of a module."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
