"""Builds the configuration: defaults, then the file, then the environment (TRIVIUM_SECTION_KEY), then flags.

Every error names where the value came from (file and key, environment variable or flag) and what is allowed there.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from conf.schema import Config, MqttRule, sections

ENVIRONMENT_PREFIX = "TRIVIUM_"
FILE_BYTES_MAX = 1024 * 1024

Flags = Mapping[tuple[str, str], tuple[str, object]]
"""(section, key) -> (the flag as the user typed it, its value)."""


class ConfigError(Exception):
    """The configuration cannot be used; one line per problem, each naming its source, key and the allowed values."""


def load(file: Path | None, environment: Mapping[str, str], flags: Flags | None = None) -> Config:
    """The checked configuration. Raises ConfigError."""
    values: dict[str, dict[str, Any]] = {}
    sources: dict[tuple[str, str], str] = {}
    default_source = "defaults" if file is None else str(file)
    if file is not None:
        _add_file(file, values)
    _add_environment(environment, values, sources)
    for (section, key), (flag, value) in (flags or {}).items():
        values.setdefault(section, {})[key] = value
        sources[section, key] = flag
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [_explain(problem, sources, default_source) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _add_file(file: Path, values: dict[str, dict[str, Any]]) -> None:
    try:
        with file.open("rb") as stream:
            text = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(f"{file}: larger than {FILE_BYTES_MAX} bytes")
    try:
        tables = tomllib.loads(text.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    known = sections()
    for name, table in tables.items():
        if name not in known:
            raise ConfigError(f"{file}: unknown {'section' if isinstance(table, dict) else 'key'} {_near(name, known)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{file}: {name}: must be a section, written [{name}]")
        values[name] = dict(table)


def _add_environment(
    environment: Mapping[str, str], values: dict[str, dict[str, Any]], sources: dict[tuple[str, str], str]
) -> None:
    known = sections()
    for variable, value in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        section, _, key = variable[len(ENVIRONMENT_PREFIX) :].lower().partition("_")
        if section not in known:
            continue  # other programs of the project read variables of their own
        if key not in known[section].model_fields:
            raise ConfigError(f"environment {variable}: unknown key {_near(key, known[section].model_fields)}")
        values.setdefault(section, {})[key] = value
        sources[section, key] = f"environment {variable}"


def _near(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{name!r}: {hint}allowed: {', '.join(known)}"


def _explain(problem: ErrorDetails, sources: Mapping[tuple[str, str], str], default_source: str) -> str:
    """One line for one of pydantic's errors."""
    where = [str(part) for part in problem["loc"]]
    source = default_source
    if len(where) >= 2 and (where[0], where[1]) in sources:
        source = sources[where[0], where[1]]
    elif len(where) == 1:
        # A relation between keys of a section: name the flags and variables given for that section too.
        given = [name for (section, _), name in sources.items() if section == where[0]]
        source = ", ".join([default_source, *given] if default_source != "defaults" or not given else given)
    key = ".".join(where[:2]) + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in where[2:])
    context = problem.get("ctx", {})
    kind = problem["type"]
    if kind == "extra_forbidden" and len(where) > 2:  # rules are the only tables inside a section
        return f"{source}: {key}: unknown key; allowed: {', '.join(MqttRule.model_fields)}"
    if kind == "extra_forbidden":
        return f"{source}: {where[0]}: unknown key {_near(where[-1], sections()[where[0]].model_fields)}"
    if kind == "literal_error":
        return f"{source}: {key}: must be one of {context['expected']}; got {problem['input']!r}"
    if kind == "value_error":
        return f"{source}: {key}: {context['error']}" if key else f"{source}: {context['error']}"
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return f"{source}: {key}: must be {bound}; got {problem['input']!r}"
    if kind == "missing":
        return f"{source}: {key}: must be given"
    if kind == "string_type":
        return f"{source}: {key}: must be text; got {problem['input']!r}"
    if kind.startswith("bool"):
        return f"{source}: {key}: must be true or false; got {problem['input']!r}"
    if kind.startswith("int"):
        return f"{source}: {key}: must be a whole number; got {problem['input']!r}"
    return f"{source}: {key}: {problem['msg']}; got {problem['input']!r}"
