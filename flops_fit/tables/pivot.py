"""Tables of losses over two axes, as rows of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flops_fit.fitting.errors import FitError
from flops_fit.tables.cells import FILE, Cells, Row, quantity
from flops_fit.tables.columns import COMMON_NAMES, Named, listed, no_column
from flops_fit.tables.units import factor

AXES = ("num_params", "num_tokens", "flops")

FEWEST = 2
"""Headers that are values, for them to be an axis."""

SAY = (
    "say pivot=num_params,flops for sizes down and budgets across, of num_params, num_tokens, flops"
)


@dataclass(frozen=True)
class Unpivoted:
    """The table with a row for each cell, and our names of its columns."""

    cells: Cells
    columns: dict[str, Named]


def unpivoted(cells: Cells, pivot: str, columns: Mapping[str, Named]) -> Unpivoted:
    """Losses that stand under headers which are values, each as a row of its own.

    `pivot` says what goes down and what across: `num_params,flops`. The first column, or the one
    that `columns` names, has the values that go down; headers that are no values are columns of
    all rows. Raises `FitError` where the table has no such axes.
    """
    down, across = _axes(pivot)
    for name in (across, "loss"):
        if name in columns:
            raise FitError(
                f"columns.{name} names a column of a table read with pivot={pivot}",
                f"leave it out: {name} stands in its {'cells' if name == 'loss' else 'headers'}",
            )
    down_column = str(columns.get(down) or next(iter(cells.headers), ""))
    if down_column not in cells.headers:
        raise no_column(cells.name, cells.headers, down_column, down)
    values = {
        header: value
        for header in cells.headers
        if header not in (down_column, FILE) and (value := _axis_value(across, header)) is not None
    }
    if len(values) < FEWEST:
        raise FitError(
            f"{cells.name} has {len(values)} headers that are values of {across}",
            f"its headers are {listed(cells.headers)}; {SAY}",
        )
    for header in values:
        if cells.headers.count(header) > 1:
            raise FitError(f"{cells.name} has two columns {header!r}", "rename or remove one")
    kept = [header for header in cells.headers if header not in values]
    loss, other = _new("loss", kept), _new(across, kept)
    name = _new("cell", kept)
    rows: list[Row] = []
    places = []
    for row, place in zip(cells.rows, cells.places, strict=True):
        rest = {header: row.get(header, "") for header in kept}
        for header, value in values.items():
            cell = {
                other: value,
                loss: row.get(header, ""),
                name: f"{row.get(down_column)} x {header}",
            }
            rows.append({**rest, **cell})
            places.append(f"{place}, {header}")
    found = {"id": name, **columns, down: down_column, across: other, "loss": loss}
    return Unpivoted(Cells(cells.name, (*kept, other, loss, name), rows, places), found)


def _axes(pivot: str) -> tuple[str, str]:
    called = {n.casefold(): ours for ours in AXES for n in (ours, *COMMON_NAMES[ours])}
    called |= {"budget": "flops", "budgets": "flops", "sizes": "num_params", "size": "num_params"}
    words = [word.casefold() for word in re.split(r"[\s,×\[\]]+|\bx\b|\bby\b", pivot) if word]
    named = [called.get(word) for word in words]
    if len(named) != FEWEST or None in named or named[0] == named[1]:
        raise FitError(f"pivot is {pivot!r}", SAY)
    return str(named[0]), str(named[1])


def _axis_value(name: str, header: str) -> str | None:
    """The value in a header such as 1e18, "C = 1e18" or "70M params"; None in any other."""
    text = re.sub(r"^[^=:]*[=:]", "", header).strip()
    found = quantity(text)
    is_value = found is not None and factor(name, found.unit) is not None and found.number > 0
    return text if is_value else None


def _new(name: str, taken: list[str]) -> str:
    """A header that is not there yet."""
    while name in taken:
        name = f"{name} of the pivot"
    return name
