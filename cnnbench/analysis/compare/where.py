"""``--where "data=fashion_mnist and num_params<1e6"``: a condition on the rows of a table."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from typing import Any

from cnnbench.errors import UsageError, expected_names
from cnnbench.rendering.text import setting_text

Condition = Callable[[Mapping[str, Any]], bool]

_TOKEN = re.compile(r"""\s*(?:(==|!=|<=|>=|[<>=()])|"([^"]*)"|'([^']*)'|([^\s()<>=!'"]+))""")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_WORDS = ("and", "or", "not")
_MAX_DEPTH = 50


def parse_where(text: str, columns: Collection[str]) -> Condition:
    """Read a condition.

    Args:
        text: comparisons ``COLUMN OP VALUE`` with OP one of = != < <= > >=, joined by and, or,
            not and parentheses. ``null`` is an absent value; quotes hold a value with spaces.
        columns: the known ones.

    Returns:
        A function from a row, values by column, to whether it fulfils the condition.

    Raises:
        UsageError: the text is no condition, or names an unknown column.
    """
    parser = _Parser(text, columns)
    condition = parser.alternatives(0)
    if parser.here is not None:
        raise parser.error("expected 'and', 'or' or the end")
    return condition


class _Parser:
    """Reads from left to right; ``here`` is the token it stands at, None at the end."""

    def __init__(self, text: str, columns: Collection[str]) -> None:
        self.text, self.columns = text, columns
        self.tokens: list[tuple[str, bool]] = []
        start = 0
        while text[start:].strip():
            match = _TOKEN.match(text, start)
            if match is None:
                raise UsageError(f"--where {text!r}: cannot be read from '{text[start:].strip()}'")
            sign, double, single, word = match.groups()
            quoted = double if double is not None else single
            self.tokens.append((quoted, True) if quoted is not None else (sign or word, False))
            start = match.end()
        self.position = 0

    @property
    def here(self) -> str | None:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else None

    @property
    def is_quoted(self) -> bool:
        return self.tokens[self.position][1]

    def error(self, expected: str) -> UsageError:
        token = "the end" if self.here is None else f"'{self.here}'"
        return UsageError(f"--where {self.text!r}: {expected}, came to {token}")

    def takes(self, token: str) -> bool:
        """Step over a token if it is the next."""
        if self.here == token and not self.is_quoted:
            self.position += 1
            return True
        return False

    def alternatives(self, depth: int) -> Condition:
        parts = [self.conjunction(depth)]
        while self.takes("or"):
            parts.append(self.conjunction(depth))
        return lambda row: any(part(row) for part in parts)

    def conjunction(self, depth: int) -> Condition:
        parts = [self.term(depth)]
        while self.takes("and"):
            parts.append(self.term(depth))
        return lambda row: all(part(row) for part in parts)

    def term(self, depth: int) -> Condition:
        if depth > _MAX_DEPTH:
            raise UsageError(f"--where: more than {_MAX_DEPTH} parentheses in one another")
        if self.takes("not"):
            inner = self.term(depth + 1)
            return lambda row: not inner(row)
        if self.takes("("):
            inner = self.alternatives(depth + 1)
            if not self.takes(")"):
                raise self.error("expected ')'")
            return inner
        return self.comparison()

    def comparison(self) -> Condition:
        column = self.here
        if column is None or column in (*_OPERATORS, *_WORDS, ")"):
            raise self.error("expected a column")
        if column not in self.columns:
            known = sorted(self.columns)
            raise UsageError(f"--where: unknown column '{column}'{expected_names(column, known)}")
        self.position += 1
        sign = self.here
        if sign not in _OPERATORS or self.is_quoted:
            raise self.error(f"expected one of {' '.join(_OPERATORS)} after '{column}'")
        self.position += 1
        value = self.here
        if value is None or (value in (*_OPERATORS, *_WORDS, "(", ")") and not self.is_quoted):
            raise self.error(f"expected a value after '{column}{sign}'")
        is_quoted = self.is_quoted
        self.position += 1
        return _comparison(column, sign, value, None if is_quoted else _number(value))


def _comparison(column: str, sign: str, value: str, number: float | None) -> Condition:
    compare = _OPERATORS[sign]
    is_order = sign not in ("=", "==", "!=")

    def holds(row: Mapping[str, Any]) -> bool:
        actual = row.get(column)
        if actual is None:
            return not is_order and compare(value, "null")
        is_number = isinstance(actual, (int, float)) and not isinstance(actual, bool)
        if is_number and number is not None:
            return compare(actual, number)
        if is_order:
            raise UsageError(
                f"--where: {column}{sign}{value} has no order: {column} is {setting_text(actual)} "
                "in a row; use = or !="
            )
        return compare(setting_text(actual), value)

    return holds


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(Fraction(text))
    except (ValueError, ArithmeticError):
        return None
