"""A row of a table as a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import PLAUSIBLE
from flops_fit.plan.run import Run, Status
from flops_fit.tables.cells import Cells, number_in
from flops_fit.tables.columns import SHOWN, sizes_given

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
    """The cells of one run under our names. `number` counts rows from 1."""

    number: int
    cells: Mapping[str, str]
    table: Cells

    @property
    def id(self) -> str:
        return self.cells.get("id", "").strip() or f"row {self.number}"

    def value(self, name: str) -> float | None:
        """The cell as a number; None where it is empty or not there."""
        cell = self.cells.get(name, "").strip()
        if not cell:
            return None
        number = number_in(cell, decimal_comma=self.table.decimal_comma)
        if number is None:
            raise self.trouble(name, "a number was expected")
        return number

    def trouble(self, name: str, expected: str) -> FitError:
        cell = self.cells[name].strip()
        shown = cell if len(cell) <= SHOWN else cell[:SHOWN] + "..."
        return FitError(
            f"{self.table.path}, row {self.number}: {name} is {shown!r}",
            f"{expected}; correct the cell, or name another column with columns.{name}=...",
        )


def named_cells(cells: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The cells under our names, and those of other metrics under theirs."""
    ours = {name: cells.get(theirs, "") for name, theirs in names.items()}
    return ours | {name: cell for name, cell in cells.items() if name.startswith(METRICS)}


def reason_to_leave_out(row: TableRow, names: Mapping[str, str]) -> str | None:
    """Why a row is no run at all; None where it is one."""
    missing = [name for name in sizes_given(names) if not row.cells[name].strip()]
    if missing:
        return f"has no {' and no '.join(missing)}"
    if row.value("num_steps") == 0:
        return "is of step 0"
    return None


def run_of(row: TableRow, names: Mapping[str, str], nats: float, constant: float) -> Run:
    n, d, c = _size(row, names, constant)
    loss, status = row.value("loss"), row.cells.get("status", "").strip() or Status.COMPLETED
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


def _size(row: TableRow, names: Mapping[str, str], constant: float) -> tuple[float, float, float]:
    """N, D and C, the one that is not there from C = constant N D."""
    given = {}
    for name in sizes_given(names):
        value = row.value(name)
        low, high = PLAUSIBLE["budget" if name == "flops" else name]
        if value is None or not low <= value <= high:
            raise row.trouble(name, f"a number between {low:g} and {high:g} was expected")
        given[name] = value
    n, d, c = (given.get(name, 0.0) for name in ("num_params", "num_tokens", "flops"))
    n = n or c / (constant * d)
    d = d or c / (constant * n)
    return n, d, c or constant * n * d
