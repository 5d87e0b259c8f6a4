"""Which rows of a table are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flops_fit.fitting.errors import FitError
from flops_fit.tables.cells import Cells, Row
from flops_fit.tables.columns import listed
from flops_fit.tables.expressions import UnknownColumn, conditions_of


def unasked(cells: Cells, where: str, names: Sequence[str]) -> Callable[[Row], str | None]:
    """Why a row of the table is not asked for, None where it is.

    `names` are the columns in which `regex(pattern)` looks. Raises `FitError` for what is no
    condition, and for columns that the table does not have.
    """
    try:
        conditions = conditions_of(where, cells, names) if where.strip() else []
    except UnknownColumn as error:
        raise FitError(
            f"where names the column {error.name!r}, which {cells.name} does not have",
            f"its columns are {listed(cells.headers)}",
        ) from error

    def reason(row: Row) -> str | None:
        for condition in conditions:
            if not condition(row):
                return f"not {condition.text}"
        return None

    return reason
