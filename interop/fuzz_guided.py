"""Coverage-guided fuzzing (atheris, the extra `fuzz`): `python -m interop.fuzz_guided --seconds 60 [--target NAME]`.

Each target of `tests.fuzz.targets` runs in a child process, so that an abort or a hang is a finding like any other. The
corpus is kept from run to run; an input that falls is kept beside it and printed as hex, for
tests/kafka/test_bad_input_found.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from interop.places import CACHE

RSS_MIB_MAX = 1024
HANG_S_MAX = 20
INPUT_BYTES_MAX = 4096


def child(target: str, arguments: list[str]) -> None:
    """Fuzzes one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["gateway.protocols.kafka", "trivium", "tests.fuzz.targets"]):
        from gateway.protocols.kafka import codec
        from tests.fuzz.targets import TARGETS
    compile_reader = codec.compile_reader
    # the readers are made by exec, which the import hook does not see
    codec.compile_reader = lambda schema, version: atheris.instrument_func(compile_reader(schema, version))
    run = TARGETS[target]
    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()


def fuzz(target: str, seconds: int, folder: Path) -> bool:
    """One target in a child process, from its seeds and what earlier runs found. True if nothing fell."""
    from tests.fuzz.seeds import seeds

    corpus, found = folder / target / "corpus", folder / target / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for at, seed in enumerate(seeds(target)):
        (corpus / f"seed-{at}").write_bytes(seed[:INPUT_BYTES_MAX])
    options = [
        str(corpus),
        f"-artifact_prefix={found}/",
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-rss_limit_mb={RSS_MIB_MAX}",
        f"-timeout={HANG_S_MAX}",
    ]
    command = [sys.executable, "-m", "interop.fuzz_guided", "--child", target, "--", *options]
    before = set(found.iterdir())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    click.echo(f"{target}: exit {done.returncode}; {next((line for line in reversed(lines) if 'cov:' in line), '')}")
    if done.returncode == 0:
        return True
    click.echo("\n".join((done.stdout.splitlines() + lines)[-30:]))
    for file in set(found.iterdir()) - before:
        click.echo(f"{file.name}: {file.read_bytes().hex()}")
    return False


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--seconds", default=60, show_default=True, help="For each target.")
@click.option("--target", "only", default="", help="One target instead of all.")
@click.option("--child", "child_target", default="", hidden=True)
@click.argument("arguments", nargs=-1)
def main(seconds: int, only: str, child_target: str, arguments: tuple[str, ...]) -> None:
    """Fuzz with coverage; exit code 1 if anything fell."""
    if child_target:
        child(child_target, list(arguments))
        return
    from tests.fuzz.targets import TARGETS

    results = [fuzz(target, seconds, CACHE / "fuzz") for target in TARGETS if only in ("", target)]
    raise SystemExit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
