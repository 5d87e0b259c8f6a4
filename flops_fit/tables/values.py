"""What expressions over the columns of a table come to at a row of it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flops_fit.fitting.errors import FitError
from flops_fit.tables.cells import Row, content, number_in

Value = float | str | bool | None
"""Of an expression at a row: None where the cells it needs hold nothing."""

Node = Callable[[Row], Value]

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
"""What may stand between two values; longer signs first, for the search."""

DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
"""As computers write dates, which as texts stand in their order."""

OF_TEXT = frozenset({"==", "=", "!="})

FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "log": math.log,
    "ln": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "abs": abs,
    "min": min,
    "max": max,
}
"""Of numbers. `regex(column, pattern)` takes a text out of a cell."""

SEVERAL = frozenset({"min", "max"})
"""Functions of two values and more."""

BINARY: Mapping[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def number(value: Value) -> float | None:
    return number_in(value) if isinstance(value, str) else value


def same(value: Value, text: str) -> bool:
    """As numbers where both are, else as text; nothing is an empty text."""
    numbers = (number(value), number_in(text))
    if None not in numbers:
        return numbers[0] == numbers[1]
    return ("" if value is None else str(value)) == text


def compares(left: Node, sign: str, right: Node, row: Row) -> bool:
    """What is no number is neither above nor below any, but for dates."""
    a, b = left(row), right(row)
    numbers = (number(a), number(b))
    if numbers[0] is not None and numbers[1] is not None:
        return COMPARISONS[sign](numbers[0], numbers[1])
    texts = ["" if value is None else str(value) for value in (a, b)]
    if all(map(DATE.fullmatch, texts)):
        return COMPARISONS[sign](*texts)
    if {"true", "false"} & {text.casefold() for text in texts}:
        texts = [text.casefold() for text in texts]
    return sign in OF_TEXT and (texts[0] == texts[1]) == (sign != "!=")


def contains(left: Node, text: str, row: Row) -> bool:
    value = left(row)
    return value is not None and text in str(value)


def computed(function: Callable[..., float], arguments: Sequence[Node], row: Row) -> Value:
    """Of numbers; nothing where an argument is nothing. Raises `FitError` for text."""
    numbers = []
    for argument in arguments:
        value = argument(row)
        if value is None:
            return None
        figure = number(value)
        if figure is None:
            raise FitError(f"{str(value)[:40]!r} is no number", "compute with numbers")
        numbers.append(figure)
    try:
        return function(*numbers)
    except (ArithmeticError, ValueError) as error:
        shown = ", ".join(f"{figure:g}" for figure in numbers)
        raise FitError(f"can't compute with {shown} ({error})", "correct the cells") from error


def searched(pattern: re.Pattern[str], column: str, row: Row) -> Value:
    text = content(row.get(column, ""))
    if not text:
        return None
    found = pattern.search(text)
    if found is None:
        raise FitError(
            f"{pattern.pattern!r} finds nothing in {text[:40]!r} ({column})",
            "widen the pattern, or leave such rows out with where=",
        )
    return found[1] if pattern.groups else found[0]
