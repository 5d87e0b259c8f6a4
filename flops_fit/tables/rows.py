"""A row of a table as a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import PLAUSIBLE
from flops_fit.plan.run import Run, Status
from flops_fit.tables.cells import content, number_in, quantity
from flops_fit.tables.columns import SHOWN, sizes_given
from flops_fit.tables.units import COMPUTE, COUNTS, factor

NATS = 1.0
"""Nats of a loss given in nats per token."""

BITS = math.log(2)
"""Nats of a loss given in bits per token."""

METRICS = "metrics."
"""How the columns of other metrics begin."""


def bits_per_byte(bytes_per_token: float) -> float:
    """Nats per token of a loss of one bit per byte."""
    return BITS * bytes_per_token


@dataclass(frozen=True)
class TableRow:
    """The cells of one run under our names. `place` says where it stands, `name` what it is called
    unless it has an id; `units` are the factors of columns whose cells give none."""

    name: str
    place: str
    cells: Mapping[str, str]
    units: Mapping[str, float]

    @property
    def id(self) -> str:
        return self.cells.get("id", "").strip() or self.name

    def value(self, name: str) -> float | None:
        """The cell as a number; None where it is empty or not there."""
        cell = content(self.cells.get(name, ""))
        if not cell:
            return None
        number = self._counted(name, cell) if name in (*COUNTS, *COMPUTE) else number_in(cell)
        if number is None:
            raise self.trouble(name, "a number was expected")
        return number

    def _counted(self, name: str, cell: str) -> float | None:
        """In single parameters, tokens or FLOPs; a unit in the cell goes before the column's."""
        found = quantity(cell)
        if found is None:
            return None
        unit = factor(name, found.unit) if found.unit else self.units.get(name, 1.0)
        return None if unit is None else found.number * unit

    def trouble(self, name: str, expected: str) -> FitError:
        cell = self.cells[name].strip()
        shown = cell if len(cell) <= SHOWN else cell[:SHOWN] + "..."
        return FitError(
            f"{self.place}: {name} is {shown!r}",
            f"{expected}; correct the cell, or name another column with columns.{name}=...",
        )


def named_cells(cells: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The cells under our names, and those of other metrics under theirs."""
    ours = {name: cells.get(theirs, "") for name, theirs in names.items()}
    return ours | {name: cell for name, cell in cells.items() if name.startswith(METRICS)}


def reason_to_leave_out(row: TableRow, names: Mapping[str, str]) -> str | None:
    """Why a row is no run at all; None where it is one."""
    missing = [name for name in sizes_given(names) if not content(row.cells[name])]
    if missing:
        return f"has no {' and no '.join(missing)}"
    if row.value("num_steps") == 0:
        return "is of step 0"
    return None


def sizes_of(row: TableRow, names: Mapping[str, str]) -> dict[str, float]:
    """What the row gives of N, D and C, in single parameters, tokens and FLOPs."""
    given = {}
    for name in sizes_given(names):
        value = row.value(name)
        _, high = PLAUSIBLE["budget" if name == "flops" else name]
        if value is None or not 0 < value <= high:
            low = PLAUSIBLE["budget" if name == "flops" else name][0]
            raise row.trouble(name, f"a number between {low:g} and {high:g} was expected")
        given[name] = value
    return given


def run_of(row: TableRow, size: tuple[float, float, float], nats: float) -> Run:
    """The run of a row, of size N, D and C."""
    n, d, c = size
    loss, status = row.value("loss"), row.cells.get("status", "").strip() or Status.COMPLETED
    if loss is not None and "," in row.cells["loss"]:
        raise row.trouble("loss", "a comma may be that of decimals or of thousands: write a point")
    if loss is not None and not math.isfinite(loss):
        loss, status = None, Status.DIVERGED
    budget, stderr = row.value("budget"), row.value("loss_stderr")
    metrics = {k.removeprefix(METRICS): row.value(k) for k in row.cells if k.startswith(METRICS)}
    return Run(
        id=row.id,
        status=status,
        num_params=n,
        num_tokens=d,
        flops=c,
        loss=None if loss is None else loss * nats,
        budget=c if budget is None else budget,
        num_params_total=row.value("num_params_total"),
        loss_stderr=None if stderr is None else stderr * nats,
        unique_tokens=_whole(row.value("unique_tokens")),
        seed=_whole(row.value("seed")),
        num_steps=_whole(row.value("num_steps")),
        trunk=row.cells.get("trunk", "").strip() or None,
        metrics={name: value for name, value in metrics.items() if value is not None},
    )


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None
