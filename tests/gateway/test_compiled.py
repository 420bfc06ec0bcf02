"""Compiled modules: used when they are of these sources, left aside when not, and refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import cli, compiled
from gateway.compiled import CompileError, build, compile_modules, digest, is_outdated, use

WHERE = "from gateway import compiled; compiled.use(); import {0}; print({0}.__file__)"


def where(module: str, **environment: str) -> Path:
    """The file that a new process imports a module from."""
    command = [sys.executable, "-c", WHERE.format(module)]
    found = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def test_what_is_compiled_is_what_runs() -> None:
    for module in compiled.MODULES:
        file = sys.modules[module].__file__ if module in sys.modules else None
        assert file is None or file.endswith(".so") == use()


def test_the_sources_run_where_they_are_asked_for() -> None:
    assert where("gateway.protocols.mqtt.pump", TRIVIUM_COMPILED="no").suffix == ".py"


@pytest.mark.skipif(not use(), reason="nothing is compiled here")
def test_a_new_process_finds_every_compiled_module() -> None:
    names = "[sys.modules[name].__file__ for name in compiled.MODULES]"
    code = f"import sys; from gateway import compiled; compiled.use(); import gateway.serve; print({names})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.count(".so'") == len(compiled.MODULES)


def test_any_change_of_a_source_changes_the_digest(tmp_path: Path) -> None:
    source = tmp_path / "one.py"
    source.write_text("X = 1\n")
    seen = [digest({"p": tmp_path})]
    source.write_text("X = 2\n")
    seen.append(digest({"p": tmp_path}))
    source.rename(tmp_path / "two.py")
    seen.append(digest({"p": tmp_path}))
    (tmp_path / "three.py").touch()
    seen.append(digest({"p": tmp_path}))
    seen.append(digest({"q": tmp_path}))
    assert len(set(seen)) == len(seen)
    (tmp_path / "three.py").unlink()
    (tmp_path / ".#two.py").symlink_to("nowhere")
    assert digest({"p": tmp_path}) == seen[2]


@pytest.mark.skipif(not use(), reason="nothing can be compiled here, or is")
@pytest.mark.parametrize("place", ["checkout", "site-packages"])
def test_a_module_that_is_compiled_does_what_its_source_does(tmp_path: Path, place: str) -> None:
    package = tmp_path / place / "compiled_for_a_test"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sums.py").write_text("def total(numbers: list[int]) -> int:\n    return sum(numbers)\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    build([f"{package.name}.sums"], {package.name: package.parent}, scratch)
    code = f"from {package.name} import sums; print(sums.total([2**64, 1]), sums.__file__)"
    command = [sys.executable, "-c", code]
    (scratch / "lib" / package.name / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(scratch / "lib")}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=scratch).stdout
    total, file = found.split()
    assert int(total) == 2**64 + 1
    assert file.endswith(".so")


def test_what_mypyc_does_not_take_is_an_error_and_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(compiled, "MODULES", ("gateway.there_is_no_such_module",))
    before = Path.cwd()
    with pytest.raises(CompileError):
        compile_modules()
    assert list((tmp_path / "trivium-compiled").iterdir()) == []
    assert Path.cwd() == before


def test_an_environment_that_cannot_be_written_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trivium-compiled").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(CompileError, match="trivium-compiled"):
        compile_modules()
    ran = CliRunner().invoke(cli.main, ["compile"])
    assert ran.exit_code == 1
    assert "the sources will run as they are" in ran.stderr


def test_sources_that_have_changed_since_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv("TRIVIUM_COMPILED", raising=False)
    assert not is_outdated()  # nothing was compiled here
    (tmp_path / "trivium-compiled").mkdir()
    assert not is_outdated()  # it was tried
    (tmp_path / "trivium-compiled" / "of-other-sources").mkdir()
    assert is_outdated()
    monkeypatch.setenv("TRIVIUM_COMPILED", "no")
    assert not is_outdated()


def test_the_folders_of_older_sources_are_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that runs, or another checkout, may use one of the last."""
    monkeypatch.setattr(compiled, "FOLDERS_MAX", 3)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(compiled, "build", lambda modules, roots, scratch: (scratch / "lib").mkdir())
    for age, name in enumerate(("new", "old", "older", "oldest")):
        folder = tmp_path / "trivium-compiled" / name
        folder.mkdir(parents=True)
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    folder = compile_modules()
    assert {one.name for one in folder.parent.iterdir()} == {folder.name, "new", "old"}
    assert compile_modules() == folder
