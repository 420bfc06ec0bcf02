"""The SDK without the broker. `python -m interop.sdk_alone` installs it by itself and does more."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import PATIENCE_S

PROGRAM = """
import importlib, pkgutil, sys

OURS = {"core", "gateway", "conf", "relay", "trio", "structlog", "click", "pydantic", "platformdirs", "wsproto", "re2"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OURS:
            raise ImportError(f"the SDK imports {name}")

sys.meta_path.insert(0, Refuse())
import trivium
for module in pkgutil.walk_packages(trivium.__path__, "trivium."):
    importlib.import_module(module.name)
for name in trivium.__all__:
    getattr(trivium, name)
"""


def test_the_sdk_needs_nothing_of_the_broker() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
