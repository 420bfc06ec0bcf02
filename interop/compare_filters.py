"""Asks RocketMQ's own filter library and ours the same: `python -m interop.compare_filters [--count N] [--seed S]`.

Random expressions, well-formed and not, over random property sets. What must be equal: whether an expression is
refused, and for each set whether it is true, false, unknown or cannot be evaluated. One difference is ours: RocketMQ
drops what follows a complete expression, we refuse it there. `--golden FILE` writes a part of what was asked as a set
for the tests.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from core.selectors import InvalidFilter
from core.selectors.conversions import EvaluationError
from core.selectors.parser import parse
from interop import setup
from interop.places import ROCKETMQ_FILTER_CLASSES, ROCKETMQ_FILTER_JARS

Properties = dict[str, str]
SETS_PER_EXPRESSION = 5
NAMES = ["a", "b", "c", "$d", "e_1", "Not1"]
NUMBERS = ["0", "1", "5", "7l", "10", "42L", "2147483647", "2147483648", "3000000000", "9223372036854775807"]
NUMBERS += ["1.5", "5.", ".5", "5e1", "1E-3", "7.0"]
ODD_NUMBERS = ["9223372036854775808", "0.0", "1e400", "007", "1e-400"]
TEXTS = ["", "x", "abc", "abcd", "bc", "5", "-3", "+7", "1.5", "true", "TRUE", "it''s", "NaN", "3000000000", "ü", "a b"]
VALUES = [
    *TEXTS,
    "it's",
    "Infinity",
    "-Infinity",
    " 5",
    "5 ",
    "1e3",
    "0x1p3",
    "0x.8P1f",
    "5d",
    "1.5f",
    "٣",
    "1_000",
    "2",
]
VALUES += ["2", "false", "10", "42", "2147483648", "-2147483648", "-2147483649", "9223372036854775808", "-0.0"]
VALUES += [
    "0",
    "0.0",
    "000000000000000000000000005",
    "7",
    "7.0",
    "1e400",
    "nan",
    "0x10",
    "1.",
    ".5",
    ".",
    "e5",
    "--5",
    "50",
    "6",
]
SIGNS = ["=", "<>", "<", "<=", ">", ">="]
STRAY = [
    *SIGNS,
    "(",
    ")",
    ",",
    "+",
    "-",
    "NOT",
    "AND",
    "OR",
    "IS",
    "NULL",
    "IN",
    "BETWEEN",
    "CONTAINS",
    "TRUE",
    "a",
    "'x'",
]
STRAY += ["5", "!", "#", "/* c */", "-- c\n", "'", "\t", "like", "%"]


class Writer:
    """Writes random expressions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def expression(self) -> str:
        text = self._or(self.random.choice([1, 2, 2, 3, 3, 4]))
        if self.random.random() < 0.12:
            tokens = text.split(" ")
            at = self.random.randrange(len(tokens))
            if self.random.random() < 0.5:
                tokens.insert(at, self.random.choice(STRAY))
            else:
                tokens[at] = self.random.choice(STRAY)
            text = " ".join(tokens)
        return text

    def properties(self) -> Properties:
        return {name: self.random.choice(VALUES) for name in NAMES if self.random.random() < 0.7}

    def _word(self, word: str) -> str:
        return self.random.choice([word, word.lower(), word.capitalize()])

    def _or(self, depth: int) -> str:
        if depth <= 0 or self.random.random() < 0.3:
            return self._condition(depth)
        sep = f" {self._word(self.random.choice(['AND', 'OR']))} "
        return sep.join(self._or(depth - 1) for _ in range(self.random.choice([2, 2, 3])))

    def _condition(self, depth: int) -> str:
        pick = self.random.random()
        if pick < 0.12 and depth > 0:
            return f"( {self._or(depth - 1)} )"
        if pick < 0.2:
            return f"{self._word('NOT')} {self._condition(depth - 1)}"
        if pick < 0.24:
            odd = ["'x'", "5", "- 5", "-a"]
            return self.random.choice(odd if self._rarely() else [*NAMES, "TRUE", "FALSE", "NULL"])
        return self._comparison(depth)

    def _comparison(self, depth: int) -> str:
        """Mostly of kinds that go together: an expression of a few of these should still be accepted."""
        negation = self.random.choice(["", "", f" {self._word('NOT')}"])
        pick = self.random.random()
        if pick < 0.25:
            left, right = self._sizable(), self._sizable()
            return f"{left} {self.random.choice(SIGNS)} {right}"
        if pick < 0.45:
            return f"{self._operand(depth)} {self.random.choice(['=', '<>'])} {self._operand(depth)}"
        if pick < 0.55:
            return f"{self._operand(depth)} {self._word('IS')}{negation} {self._word('NULL')}"
        if pick < 0.7:
            low, high = sorted([self._number(), self._number()], key=lambda text: text.strip("+- ").zfill(20))
            return f"{self._sizable()}{negation} {self._word('BETWEEN')} {low} {self._word('AND')} {high}"
        left = self._operand(depth) if self._rarely() else self.random.choice(NAMES)
        if pick < 0.82:
            texts = " , ".join(self._text() for _ in range(self.random.choice([1, 2, 3, 6])))
            return f"{left}{negation} {self._word('IN')} ( {texts} )"
        test = self.random.choice(["CONTAINS", "STARTSWITH", "ENDSWITH"])
        return f"{left}{negation} {self._word(test)} {self._text()}"

    def _rarely(self) -> bool:
        return self.random.random() < 0.04

    def _text(self) -> str:
        return "'" + self.random.choice(TEXTS) + "'"

    def _number(self) -> str:
        sign = self.random.choice(["", "", "", "", "-", "- ", "+"])
        if self.random.random() < 0.15:
            return sign + self.random.choice(NAMES)
        return sign + self.random.choice(ODD_NUMBERS if self._rarely() else NUMBERS)

    def _sizable(self) -> str:
        if self._rarely():
            return self._text()
        return self._number() if self.random.random() < 0.4 else self.random.choice(NAMES)

    def _operand(self, depth: int) -> str:
        pick = self.random.random()
        if pick < 0.55:
            return self.random.choice(NAMES)
        if pick < 0.75:
            return self._number()
        if pick < 0.9:
            return self._text()
        if pick < 0.95 or depth <= 0:
            truth = self.random.choice(["TRUE", "FALSE", "NULL"] if self._rarely() else ["TRUE", "FALSE"])
            return self._word(truth)
        return f"( {self._or(depth - 1)} )" if pick < 0.98 else f"-( {self._or(depth - 1)} )"


def ours(sql: str, sets: list[Properties]) -> str:
    """The answer in the oracle's words."""
    try:
        expression = parse(sql)
    except InvalidFilter:
        return "refused"
    return "accepted " + "".join(_letter(expression.evaluate, one) for one in sets)


def _letter(evaluate: Callable[[dict[str, bytes | None]], object], properties: Properties) -> str:
    try:
        value = evaluate({name: text.encode() for name, text in properties.items()})
    except EvaluationError:
        return "E"
    return "N" if value is None else "T" if value is True else "F"


class Oracle:
    """RocketMQ's filter in a Java process."""

    def __init__(self) -> None:
        setup.rocketmq_filter()
        path = f"{ROCKETMQ_FILTER_CLASSES}:{ROCKETMQ_FILTER_JARS}/*"
        self._java = subprocess.Popen(
            ["java", "-Xmx256m", "-cp", path, "FilterOracle"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, sql: str, sets: list[Properties]) -> str:
        assert self._java.stdin is not None
        assert self._java.stdout is not None
        fields = [_base64(sql), *(_set(one) for one in sets)]
        self._java.stdin.write("\t".join(fields) + "\n")
        self._java.stdin.flush()
        return self._java.stdout.readline().rstrip("\n")

    def close(self) -> None:
        assert self._java.stdin is not None
        self._java.stdin.close()
        self._java.wait()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _set(properties: Properties) -> str:
    return ",".join(f"{_base64(name)}:{_base64(value)}" for name, value in properties.items()) or "-"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m interop.compare_filters")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--golden", type=Path, help="write what was asked and answered, a line of JSON each")
    options = parser.parse_args(arguments)
    writer, oracle = Writer(options.seed), Oracle()
    letters: Counter[str] = Counter()
    golden, differing = [], 0
    for _ in range(options.count):
        sql = writer.expression()
        sets = [writer.properties() for _ in range(SETS_PER_EXPRESSION)]
        theirs, mine = oracle.ask(sql, sets), ours(sql, sets)
        verdict, _, values = theirs.partition(" ")
        letters[verdict] += 1
        letters.update(values)
        if verdict == "trailing":
            theirs = "refused"
        if mine != theirs:
            differing += 1
            if differing <= 20:
                print(f"{sql!r}\n  {sets}\n  RocketMQ {theirs}, here {mine}")
        golden.append(json.dumps([sql, sets, theirs], ensure_ascii=False))
    oracle.close()
    if options.golden is not None:
        options.golden.write_text("\n".join(golden) + "\n")
    counts = ", ".join(f"{name} {count}" for name, count in sorted(letters.items()))
    print(
        f"{options.count} expressions, {options.count * SETS_PER_EXPRESSION} evaluations, {differing} differ ({counts})"
    )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
