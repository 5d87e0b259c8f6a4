"""Conditions on the rows of a table: `config = base and step > 0`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.fitting.errors import FitError
from flops_fit.tables.cells import Cells, Row, number_in
from flops_fit.tables.columns import listed

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
"""What may stand between a column and a value; longer signs first, for the search."""

OF_TEXT = frozenset({"==", "=", "!="})


@dataclass(frozen=True)
class Condition:
    """A column's cell compared with a value: as numbers where both are, else as text."""

    column: str
    sign: str
    value: str

    def __str__(self) -> str:
        return f"{self.column} {self.sign} {self.value}"

    def holds(self, row: Row, *, decimal_comma: bool) -> bool:
        """Whether the row meets it. A cell that is no number is neither above nor below any."""
        cell = row.get(self.column, "").strip()
        numbers = [number_in(text, decimal_comma=decimal_comma) for text in (cell, self.value)]
        if None not in numbers:
            return COMPARISONS[self.sign](*numbers)
        return self.sign in OF_TEXT and COMPARISONS[self.sign](cell, self.value)


def unasked(cells: Cells, where: str) -> Callable[[Row], str | None]:
    """Why a row of the table is not asked for, None where it is.

    `where` holds conditions joined by `and`. Raises `FitError` for anything else, and for columns
    that the table does not have.
    """
    parts = re.split(r"\s+and\s+", where.strip()) if where.strip() else []
    conditions = tuple(map(_condition, parts))
    for condition in conditions:
        if condition.column not in cells.headers:
            raise FitError(
                f"where names the column {condition.column!r}, which {cells.path} does not have",
                f"its columns are {listed(cells.headers)}",
            )

    def reason(row: Row) -> str | None:
        for condition in conditions:
            if not condition.holds(row, decimal_comma=cells.decimal_comma):
                return f"not {condition}"
        return None

    return reason


def _condition(text: str) -> Condition:
    signs = "|".join(map(re.escape, COMPARISONS))
    match = re.fullmatch(rf"(.+?)\s*({signs})\s*(.*)", text, flags=re.DOTALL)
    if match is None:
        raise FitError(
            f"where holds {text!r}",
            f"write COLUMN SIGN VALUE with one of {', '.join(COMPARISONS)}, joined by `and`, such "
            "as 'where=config = base and step > 0'",
        )
    column, sign, value = match.groups()
    condition = Condition(column.strip(), sign, value.strip())
    if sign not in OF_TEXT and number_in(condition.value, decimal_comma=False) is None:
        raise FitError(f"where asks for {condition}", f"{sign} compares with a number")
    return condition
