"""Columns that stand in no file: computed of others, or several as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flops_fit.fitting.errors import FitError
from flops_fit.tables.cells import Cells, Row, content
from flops_fit.tables.columns import Named, names_of_runs, no_column
from flops_fit.tables.expressions import UnknownColumn, value_of
from flops_fit.tables.units import UNIT_NAMES
from flops_fit.tables.values import Value


def with_computed(
    cells: Cells, columns: Mapping[str, Named], is_asked: Sequence[bool]
) -> tuple[Cells, dict[str, str]]:
    """The table with a column for each expression in `columns`, and our names of the headers.

    A list of columns becomes one that tells their values. Rows that are not asked for have nothing
    there. Raises `FitError` for columns that aren't there and for cells that can't be computed.
    """
    headers, rows, names = list(cells.headers), [dict(row) for row in cells.rows], {}
    for ours, theirs in columns.items():
        if ours in UNIT_NAMES:
            continue
        if isinstance(theirs, str) and theirs in cells.headers:
            names[ours] = theirs
            continue
        header, compute = _column(cells, ours, theirs)
        names[ours] = header
        if header in headers:
            continue
        headers.append(header)
        for row, place, asked in zip(rows, cells.places, is_asked, strict=True):
            row[header] = _cell(compute, row, place, ours) if asked else ""
    return Cells(cells.name, tuple(headers), rows, cells.places), names


def is_list(theirs: Named) -> bool:
    """Whether several columns are named, `[sweep, lr]`."""
    text = theirs.strip() if isinstance(theirs, str) else "[]"
    return text.startswith("[") and text.endswith("]")


def listed_columns(theirs: Named) -> list[str]:
    parts = theirs.strip()[1:-1].split(",") if isinstance(theirs, str) else theirs
    return [str(part).strip().strip("'\"`") for part in parts]


def _column(cells: Cells, ours: str, theirs: Named) -> tuple[str, Callable[[Row], Value]]:
    """The header of a column that is not in the table, and what its cells are."""
    if is_list(theirs):
        parts = listed_columns(theirs)
        if ours != "id":
            raise FitError(f"columns.{ours} is a list", "name one column: lists are for columns.id")
        for part in parts:
            if part not in cells.headers:
                raise no_column(cells.name, cells.headers, part, ours)
        return f"[{', '.join(parts)}]", lambda row: "/".join(
            content(row.get(part, "")) for part in parts
        )
    if not isinstance(theirs, str):
        raise FitError(f"columns.{ours} is {theirs!r}", "give the name of a column")
    try:
        return theirs, value_of(theirs, cells, names_of_runs(cells.headers))
    except UnknownColumn as error:
        raise no_column(cells.name, cells.headers, error.name, ours) from error
    except FitError as error:
        raise FitError(f"columns.{ours}={theirs}: {error.reason}", error.next_step) from error


def _cell(compute: Callable[[Row], Value], row: Row, place: str, ours: str) -> str:
    try:
        value = compute(row)
    except FitError as error:
        raise FitError(f"{place}: {ours}: {error.reason}", error.next_step) from error
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
