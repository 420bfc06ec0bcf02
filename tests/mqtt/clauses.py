"""Normative statements of MQTT that bind a server, and the tests that hold them: `python -m tests.mqtt.clauses`.

A test names its statements with `@pytest.mark.clause("MQTT-3.1.0-1", v=5)` (v=4: MQTT 3.1.1). The table is made from
the sources, without running them. Statements that bind only clients are not listed. Exits with 1 if one has no test.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# section: numbers of its statements, per version
_V5 = """
1.5.4 1-3; 1.5.5 1; 1.5.7 1; 2.1.3 1; 2.2.1 2-6; 2.2.2 1
3.1.0 1-2; 3.1.2 1-19 22-29; 3.1.3 1-12; 3.1.4 1-6; 3.2.0 1-2; 3.2.2 1-3 6-8 16 19-20 22
3.3.1 1-13; 3.3.2 1-8 11-20; 3.3.4 1-7 9-10; 3.4.2 1-3; 3.5.2 1-3; 3.6.1 1; 3.6.2 1-3; 3.7.2 1-3
3.8.1 1; 3.8.3 1-5; 3.8.4 1-8; 3.9.2 1-2; 3.9.3 1-2; 3.10.1 1; 3.10.3 1-2; 3.10.4 1-6; 3.11.2 1-2; 3.11.3 1-2
3.12.4 1; 3.14.0 1; 3.14.1 1; 3.14.2 1-4; 3.14.4 1-3; 3.15.1 1
4.1.0 1-2; 4.2.0 1; 4.3.1 1; 4.3.2 1-5; 4.3.3 1-13; 4.4.0 1-2; 4.5.0 1; 4.6.0 5-6; 4.7.0 1; 4.7.1 1-2; 4.7.2 1
4.7.3 1-4; 4.8.2 1-6; 4.9.0 1-3; 4.12.0 1 6-7; 4.13.1 1; 4.13.2 1; 6.0.0 1-4
"""
_V4 = """
1.5.3 1-3; 2.2.2 1-2; 2.3.1 1-7; 3.1.0 1-2; 3.1.2 1-22 24; 3.1.3 1-11; 3.1.4 1-5; 3.2.0 1; 3.2.2 1-6
3.3.1 1-12; 3.3.2 1-3; 3.3.4 1; 3.3.5 1-2; 3.6.1 1; 3.8.1 1; 3.8.3 1-4; 3.8.4 1-6; 3.9.3 1-2
3.10.1 1; 3.10.3 1-2; 3.10.4 1-6; 3.12.4 1; 3.14.1 1; 3.14.4 3; 4.1.0 1-2; 4.2.0 1; 4.3.1 1; 4.3.2 1-2; 4.3.3 1-2
4.4.0 1; 4.5.0 1; 4.6.0 5-6; 4.7.1 1-3; 4.7.2 1; 4.7.3 1-4; 4.8.0 1-2; 6.0.0 1-4
"""


def _expand(text: str, version: int) -> Iterator[tuple[int, str]]:
    for section in re.split(r"[;\n]", text):
        name, *numbers = section.split() or [""]
        for number in numbers:
            first, _, last = number.partition("-")
            for one in range(int(first), int(last or first) + 1):
                yield version, f"MQTT-{name}-{one}"


CLAUSES: frozenset[tuple[int, str]] = frozenset((*_expand(_V5, 5), *_expand(_V4, 4)))


def marks(source: str) -> Iterator[tuple[tuple[int, str], str]]:
    """((version, statement), test function) for every mark in a source text. Raises ValueError for odd marks."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call) or not ast.unparse(decorator.func).endswith("clause"):
                continue
            version = next((word.value for word in decorator.keywords if word.arg == "v"), None)
            if not isinstance(version, ast.Constant) or version.value not in (4, 5):
                raise ValueError(f"{node.name}: a clause mark needs v=4 or v=5")
            for argument in decorator.args:
                if not isinstance(argument, ast.Constant) or (version.value, argument.value) not in CLAUSES:
                    raise ValueError(f"{node.name}: {ast.unparse(argument)} is not listed for v={version.value}")
                yield (5 if version.value == 5 else 4, str(argument.value)), node.name


def table() -> dict[tuple[int, str], list[str]]:
    """Statement -> tests that hold it."""
    found: dict[tuple[int, str], list[str]] = {clause: [] for clause in CLAUSES}
    here = Path(__file__).parent
    for path in sorted((*here.glob("test_*.py"), *(here.parent / "core").glob("test_*.py"))):
        for clause, test in marks(path.read_text()):
            found[clause].append(f"{path.stem}::{test}")
    return found


def _order(clause: tuple[int, str]) -> tuple[int, list[int]]:
    return clause[0], [int(part) for part in re.findall(r"\d+", clause[1])]


def main() -> int:
    found = table()
    missing = 0
    for clause in sorted(found, key=_order):
        tests = found[clause]
        missing += not tests
        print(f"v{clause[0]} [{clause[1]}]".ljust(22), ", ".join(tests) or "-- NO TEST --")
    print(f"{len(found)} statements, {len(found) - missing} with tests, {missing} without")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
