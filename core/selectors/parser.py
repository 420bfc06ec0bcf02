"""SQL-92 filter expressions, RocketMQ's grammar (`rocketmq-filter`, SelectorParser.jj), parsed into one closure.

    selector   = or
    or         = and { OR and }
    and        = equality { AND equality }
    equality   = comparison { = comparison | <> comparison | IS [NOT] NULL }
    comparison = unary { (> | >= | < | <=) unary | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) text
                       | [NOT] BETWEEN unary AND unary | [NOT] IN ( text { , text } ) }
    unary      = { + | - | NOT } primary
    primary    = text | integer | float | TRUE | FALSE | NULL | name | ( or )

`NOT` binds tighter than a comparison: it is `NOT (a = 1)` that one mostly means. What Java's parser refuses by an
operand's kind is refused here: `<` and its like take numbers and properties, `IN` a property, `=` no NULL. One thing
differs: RocketMQ silently drops whatever follows a complete expression (`a = 1 b = 2` means `a = 1` there); here it is
an error.

Bounded: EXPRESSION_CHARS_MAX, DEPTH_MAX (of nesting, and so of the recursion here and at evaluation), OPERATIONS_MAX
(so of the work per record; the texts of an IN list are one operation, they are looked up in a set).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn, TypeGuard

from core.selectors import expressions as ex
from core.selectors.conversions import INT_MAX, LONG_MAX, Long, Value, compare
from core.selectors.failure import InvalidFilter
from core.selectors.tokens import END, FLOAT, INTEGER, NAME, TEXT, Token, tokenize

EXPRESSION_CHARS_MAX: Final = 16_384
DEPTH_MAX: Final = 50
OPERATIONS_MAX: Final = 500
_LONG_DIGITS_MAX: Final = 19
_SHOWN_CHARS_MAX: Final = 20


class Expression(NamedTuple):
    """`evaluate` gives True, False or None; `properties` are the names it asks for."""

    evaluate: ex.Evaluate
    properties: frozenset[str]


class _Shape(enum.Enum):
    PROPERTY = enum.auto()
    NUMBER = enum.auto()  # a literal
    TEXT = enum.auto()  # a literal
    TRUTH = enum.auto()  # TRUE, FALSE, NULL
    BOOLEAN = enum.auto()  # a condition
    NEGATED = enum.auto()


class _Part(NamedTuple):
    """A parsed operand. `value` is a literal's, or a property's name."""

    shape: _Shape
    evaluate: ex.Evaluate
    at: int
    depth: int = 1
    value: Value | None = None


_LITERALS: Final = (_Shape.NUMBER, _Shape.TEXT, _Shape.TRUTH)
_TRUTHS: Final[dict[str, bool | None]] = {"TRUE": True, "FALSE": False, "NULL": None}


def parse(text: str) -> Expression:
    """Raises InvalidFilter."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise InvalidFilter(f"an expression has at most {EXPRESSION_CHARS_MAX} characters", EXPRESSION_CHARS_MAX)
    return _Parser(text).selector()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(tokenize(text))
        self._next = 0
        self._operations = 0
        self._nesting = 0
        self._properties: set[str] = set()

    # -- tokens

    @property
    def _token(self) -> Token:
        return self._tokens[self._next]

    def _peek(self, *kinds: str) -> bool:
        """Whether these tokens come next."""
        ahead = self._tokens[self._next : self._next + len(kinds)]
        return [token.kind for token in ahead] == list(kinds)

    def _take(self, kind: str | None = None) -> Token:
        token = self._token
        if kind is not None and token.kind != kind:
            self._unexpected({TEXT: "a text in quotes"}.get(kind, kind))
        self._next += 1
        return token

    def _unexpected(self, wanted: str) -> NoReturn:
        token = self._token
        found = "the end" if token.kind == END else repr(token.text[:_SHOWN_CHARS_MAX])
        raise InvalidFilter(f"{wanted} expected, found {found}", token.at)

    def _operation(self) -> Token:
        """Takes an operator, counted."""
        token = self._take()
        self._operations += 1
        if self._operations > OPERATIONS_MAX:
            raise InvalidFilter(f"more than {OPERATIONS_MAX} operations", token.at)
        return token

    def _part(self, shape: _Shape, evaluate: ex.Evaluate, at: int, *operands: _Part) -> _Part:
        depth = 1 + max(operand.depth for operand in operands)
        if depth > DEPTH_MAX:
            raise InvalidFilter(f"nested more than {DEPTH_MAX} deep", at)
        return _Part(shape, evaluate, at, depth)

    # -- the grammar

    def selector(self) -> Expression:
        part = self._boolean(self._or())
        if self._token.kind != END:
            self._unexpected("AND, OR or the end")
        return Expression(part.evaluate, frozenset(self._properties))

    def _or(self) -> _Part:
        return self._joined("OR", self._and, ex.any_of)

    def _and(self) -> _Part:
        return self._joined("AND", self._equality, ex.all_of)

    def _joined(
        self, word: str, operand: Callable[[], _Part], join: Callable[[list[ex.Evaluate]], ex.Evaluate]
    ) -> _Part:
        first = operand()
        if self._token.kind != word:
            return first
        parts = [self._boolean(first)]
        while self._token.kind == word:
            self._operation()
            parts.append(self._boolean(operand()))
        return self._part(_Shape.BOOLEAN, join([part.evaluate for part in parts]), first.at, *parts)

    def _equality(self) -> _Part:
        left = self._comparison()
        while True:
            if self._token.kind in ("=", "<>"):
                inverted = self._operation().kind == "<>"
                left = self._equal(left, self._comparison(), inverted)
            elif self._token.kind == "IS":
                self._operation()
                inverted = self._peek("NOT")
                if inverted:
                    self._take()
                self._take("NULL")
                test = ex.equal(left.evaluate, ex.constant(None))
                left = self._part(_Shape.BOOLEAN, ex.not_(test) if inverted else test, left.at, left)
            else:
                return left

    def _equal(self, left: _Part, right: _Part, inverted: bool) -> _Part:
        for part in (left, right):
            if part.shape is _Shape.TRUTH and part.value is None:
                raise InvalidFilter("NULL cannot be compared; use IS NULL", part.at)
        if left.shape is _Shape.TRUTH and right.shape in (_Shape.NUMBER, _Shape.TEXT):
            raise InvalidFilter("a truth value cannot be compared with this", right.at)
        if left.shape is _Shape.PROPERTY and right.shape is _Shape.TEXT:
            test = ex.equals_text(str(left.value), str(right.value))
        else:
            test = ex.equal(left.evaluate, right.evaluate)
        return self._part(_Shape.BOOLEAN, ex.not_(test) if inverted else test, left.at, left, right)

    def _comparison(self) -> _Part:
        left = self._unary()
        while True:
            kind = self._token.kind
            if kind in ex.SIZES:
                self._operation()
                left = self._sized(left, kind, self._unary())
                continue
            inverted = kind == "NOT"
            if inverted:
                self._take()
                kind = self._token.kind
            if kind in ("CONTAINS", "STARTSWITH", "ENDSWITH"):
                self._operation()
                test = ex.text_test(left.evaluate, kind, _unquoted(self._take(TEXT)), inverted)
                left = self._part(_Shape.BOOLEAN, test, left.at, left)
            elif kind == "BETWEEN":
                left = self._between(left, inverted)
            elif kind == "IN":
                left = self._in(left, inverted)
            elif inverted:
                self._unexpected("CONTAINS, STARTSWITH, ENDSWITH, BETWEEN or IN")
            else:
                return left

    def _sized(self, left: _Part, sign: str, right: _Part) -> _Part:
        _check_size(left)
        _check_size(right)
        if _is_number(right.value):
            test = ex.sized_constant(left.evaluate, sign, right.value)
        else:
            test = ex.sized(left.evaluate, sign, right.evaluate)
        return self._part(_Shape.BOOLEAN, test, left.at, left, right)

    def _between(self, value: _Part, inverted: bool) -> _Part:
        self._operation()
        low = self._unary()
        self._take("AND")
        high = self._unary()
        for part in (value, low, high):
            _check_size(part)
        if _is_number(low.value) and _is_number(high.value):
            literals = low.shape is high.shape is _Shape.NUMBER
            if literals and not inverted and compare(high.value, low.value) < 0:
                raise InvalidFilter("the lower bound is above the upper one", low.at)
            test = ex.between_constants(value.evaluate, low.value, high.value, inverted)
        else:
            test = (ex.not_between if inverted else ex.between)(value.evaluate, low.evaluate, high.evaluate)
        return self._part(_Shape.BOOLEAN, test, value.at, value, low, high)

    def _in(self, left: _Part, inverted: bool) -> _Part:
        at = self._operation().at
        self._take("(")
        texts = [_unquoted(self._take(TEXT))]
        while self._token.kind == ",":
            self._take()
            texts.append(_unquoted(self._take(TEXT)))
        if self._token.kind != ")":
            self._unexpected("a comma or a closing bracket")
        self._take()
        if left.shape is not _Shape.PROPERTY:
            raise InvalidFilter("IN takes a property on its left", at)
        return self._part(_Shape.BOOLEAN, ex.in_list(str(left.value), texts, inverted), left.at, left)

    def _unary(self) -> _Part:
        signs = []
        while self._token.kind in ("+", "-", "NOT"):
            signs.append(self._operation())
        part = self._primary()
        for sign in reversed(signs):
            if sign.kind == "-":
                part = self._negated(part, sign.at)
            elif sign.kind == "NOT":
                part = self._boolean(part)
                part = self._part(_Shape.BOOLEAN, ex.not_(part.evaluate), sign.at, part)
        return part

    def _negated(self, part: _Part, at: int) -> _Part:
        if _is_number(part.value):
            value = ex.negated(part.value)
            return _Part(_Shape.NEGATED, ex.constant(value), at, part.depth, value)
        return self._part(_Shape.NEGATED, ex.negate(part.evaluate), at, part)

    def _primary(self) -> _Part:
        token = self._token
        if token.kind == "(":
            self._nesting += 1
            if self._nesting > DEPTH_MAX:
                raise InvalidFilter(f"nested more than {DEPTH_MAX} deep", token.at)
            self._take()
            part = self._or()
            if self._token.kind != ")":
                self._unexpected("a closing bracket")
            self._take()
            self._nesting -= 1
            return part
        if token.kind == NAME:
            self._properties.add(token.text)
            return _Part(_Shape.PROPERTY, ex.property_(token.text), self._take().at, value=token.text)
        if token.kind == TEXT:
            text = _unquoted(self._take())
            return _Part(_Shape.TEXT, ex.constant(text), token.at, value=text)
        if token.kind in (INTEGER, FLOAT):
            number = _number(self._take())
            return _Part(_Shape.NUMBER, ex.constant(number), token.at, value=number)
        if token.kind in _TRUTHS:
            truth = _TRUTHS[self._take().kind]
            return _Part(_Shape.TRUTH, ex.constant(truth), token.at, value=truth)
        self._unexpected("a property, a value or an opening bracket")

    def _boolean(self, part: _Part) -> _Part:
        """The part where a condition is asked for."""
        if part.shape in (_Shape.BOOLEAN, _Shape.TRUTH):
            return part
        if part.shape is _Shape.PROPERTY:
            return self._part(_Shape.BOOLEAN, ex.as_boolean(part.evaluate), part.at, part)
        raise InvalidFilter("a condition expected, this is a value", part.at)


def _is_number(value: Value | None) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_size(part: _Part) -> None:
    if part.shape in (_Shape.TEXT, _Shape.TRUTH, _Shape.BOOLEAN):
        raise InvalidFilter("<, <=, >, >= and BETWEEN take numbers and properties", part.at)


def _unquoted(token: Token) -> str:
    return token.text[1:-1].replace("''", "'")


def _number(token: Token) -> float:
    if token.kind == FLOAT:
        number = float(token.text)
        if not 0 < number < float("inf"):
            raise InvalidFilter("a floating-point number out of range (0.0 too; write 0)", token.at)
        return number
    digits = token.text.rstrip("lL")
    if len(digits) > _LONG_DIGITS_MAX or int(digits) > LONG_MAX:
        raise InvalidFilter(f"an integer above {LONG_MAX}", token.at)
    value = int(digits)
    return value if value <= INT_MAX else Long(value)
