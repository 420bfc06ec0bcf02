"""The SDK by itself: `python -m interop.sdk_alone`.

Makes an empty virtual environment, installs `./sdk` and nothing else, has it produce and consume against a broker on
asyncio and as a script, looks that no part of the broker came along, and type-checks the examples strictly there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from interop.brokers import Trivium
from interop.places import CACHE, REPOSITORY, scratch_root

PROGRAM = """
import asyncio, importlib.util, sys
import trivium
from trivium import blocking

address = sys.argv[1]
for name in ("core", "gateway", "conf", "relay", "trio", "structlog", "pydantic"):
    assert importlib.util.find_spec(name) is None, f"{name} came along"

async def main():
    async with trivium.connect(address) as client:
        async with client.producer() as producer:
            await producer.send("alone", b"asyncio", key=b"k")
        async with client.consumer("alone", start=trivium.EARLIEST) as consumer:
            async for message in consumer:
                return message.value

assert asyncio.run(main()) == b"asyncio"
with blocking.connect(address) as client, client.producer() as producer:
    producer.send("alone", b"script", key=b"k")
    with client.consumer("alone", start=trivium.EARLIEST) as consumer:
        assert [next(consumer).value for _ in range(2)] == [b"asyncio", b"script"]
print("works with", ", ".join(sorted(name for name in sys.modules if "." not in name and name in
      ("anyio", "construct", "aiokafka", "cramjam", "google_crc32c", "trivium"))))
"""


def main() -> int:
    venv = CACHE / "venvs" / "sdk-alone"
    shutil.rmtree(venv, ignore_errors=True)
    python = venv / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, REPOSITORY / "sdk"], check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    print("installed:", " ".join(listed.stdout.split()))
    directory = scratch_root() / "sdk-alone"
    shutil.rmtree(directory, ignore_errors=True)
    with Trivium(directory) as broker:
        broker.start()
        ran = subprocess.run([python, "-c", PROGRAM, f"127.0.0.1:{broker.native_port}"], cwd=venv)
    subprocess.run([*install, "mypy"], check=True)
    programs = sorted(str(one) for one in Path(REPOSITORY / "examples").glob("*.py") if "test" not in one.name)
    typed = subprocess.run([python, "-m", "mypy", "--strict", "--no-incremental", *programs], cwd=venv)
    return ran.returncode or typed.returncode


if __name__ == "__main__":
    sys.exit(main())
