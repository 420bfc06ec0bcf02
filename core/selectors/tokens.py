"""SQL text into tokens: the longest match wins, a reserved word before a name of the same length.

Names and reserved words are ASCII, the latter in any case. A line comment ends with its line, so one without line end
is no comment. Everything is found with one regular expression without backtracking over more than a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from core.selectors.failure import InvalidFilter

RESERVED: Final = frozenset(
    ["NOT", "AND", "OR", "BETWEEN", "IN", "TRUE", "FALSE", "NULL", "IS", "CONTAINS", "STARTSWITH", "ENDSWITH"]
)
NAME: Final = "name"
TEXT: Final = "text"
INTEGER: Final = "integer"
FLOAT: Final = "float"
END: Final = "end"

_TOKEN: Final = re.compile(
    r"""(?P<skip>[ \t\n\r\f]+ | --[^\n\r]*(?:\r\n|\n|\r) | /\*[^*]*\*+(?:[^*/][^*]*\*+)*/)
      | (?P<name>[A-Za-z_$][A-Za-z0-9_$]*)
      | (?P<text>'[^']*(?:''[^']*)*')
      | (?P<float>[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)? | \.[0-9]+(?:[eE][+-]?[0-9]+)? | [0-9]+[eE][+-]?[0-9]+)
      | (?P<integer>0|[1-9][0-9]*[lL]?)
      | (?P<sign><>|>=|<=|[=<>(),+-])""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """`kind` is a sign or a reserved word itself, or NAME, TEXT, INTEGER, FLOAT, END; `at` counts characters from 0."""

    kind: str
    text: str
    at: int


def tokenize(text: str) -> Iterator[Token]:
    """Raises InvalidFilter where no token begins."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            what = "a text without its closing quote" if text[at] == "'" else f"{text[at]!r} has no meaning here"
            raise InvalidFilter(what, at)
        kind, image = match.lastgroup or "", match.group()
        if kind == "name" and image.upper() in RESERVED:
            yield Token(image.upper(), image, at)
        elif kind == "sign":
            yield Token(image, image, at)
        elif kind != "skip":
            yield Token(kind, image, at)
        at = match.end()
    yield Token(END, "", at)
