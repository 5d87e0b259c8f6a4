"""Runs in and out of tables: anyone's CSV or JSON lines with named columns, and our runs.csv."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from flops_fit.cells import Cells, number_in, read_cells
from flops_fit.fitting.budgets import snapped_budgets
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import PLAUSIBLE
from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN, FlopRule
from flops_fit.runs import Run, StudyFolder

NATS = 1.0
"""Nats of a loss given in nats per token."""

BITS = math.log(2)
"""Nats of a loss given in bits per token."""

COMMON_NAMES: Mapping[str, tuple[str, ...]] = {
    "num_params": ("N", "params", "n_params", "parameters"),
    "num_tokens": ("D", "tokens", "n_tokens", "training_tokens"),
    "flops": ("C", "FLOPs", "compute"),
    "loss": ("final_loss", "val_loss", "eval_loss", "validation_loss"),
    "budget": (),
    "id": ("run_name", "run_id", "name"),
    "status": (),
    "seed": (),
    "loss_stderr": (),
    "num_params_total": ("total_params", "n_params_total"),
    "num_steps": (),
    "trunk": (),
}
"""Our names of columns, and others under which each is looked for where none was given: as they
are, else whatever their case and punctuation (`eval/loss`, `Final Loss`)."""

METRICS = "metrics."
"""How the columns of other metrics begin."""

CONSTANT_RULE = 0.01
"""Relative spread of C / (N D) below which a table's FLOP rule is one constant."""

SHOWN = 40
"""Characters of a cell shown in a message."""


def bits_per_byte(bytes_per_token: float) -> float:
    """Nats per token of a loss of one bit per byte."""
    return BITS * bytes_per_token


@dataclass(frozen=True)
class RunTable:
    """The runs of a table, notes on what was assumed, and the training curves where it has any.

    `checkpoints` has a row for every step of the runs, their ends included, under the runs' ids.
    """

    runs: list[Run]
    checkpoints: list[Run]
    notes: tuple[str, ...]


def read_table(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    nats_per_unit: float = NATS,
    flops_per_param_per_token: float = FLOPS_PER_PARAM_PER_TOKEN,
) -> RunTable:
    """The runs of a CSV (comma, semicolon, tab) or JSON-lines file.

    `columns` maps our names (num_params, num_tokens, flops: any two; loss; and optionally the other
    keys of `COMMON_NAMES`) to the file's. Names left out are looked for under their own and under
    common ones. The missing one of N, D and C follows from C = flops_per_param_per_token N D.
    Losses are multiplied by `nats_per_unit` (`NATS`, `BITS`, `bits_per_byte(...)`). Without a
    budget column, runs are gathered into budgets by their FLOPs. Where `columns` names num_steps,
    rows of one id and size are the training curve of one run. Raises `FitError` where the file or a
    cell can't be understood.
    """
    cells = read_cells(path)
    names = _column_names(cells.headers, columns or {}, path)
    notes = [
        f"{ours} is read from column {theirs!r}"
        for ours, theirs in names.items()
        if theirs != (columns or {}).get(ours, ours)
    ]
    found = []
    for number, row_cells in enumerate(cells.rows, start=1):
        row = _Row(number, _named(row_cells, names), cells)
        reason = _reason_to_leave_out(row, names)
        if reason:
            notes.append(f"row {number} {reason}: left out")
            continue
        found.append(_run(row, names, nats_per_unit, flops_per_param_per_token))
    if not found:
        raise FitError(f"{path} has no rows with data", "give a table with one run per row")
    runs, checkpoints = found, []
    if "num_steps" in (columns or {}):
        runs, checkpoints = _ends_of_curves(found), found
        notes.append(
            f"{len(found)} rows are the training curves of {len(runs)} runs (rows of one id and "
            "size): their ends are fitted, and fit=envelope looks at all of them"
        )
    if "budget" in names:
        return RunTable(runs, checkpoints, tuple(notes))
    runs, note = _in_budgets(runs)
    return RunTable(runs, checkpoints, (*notes, note))


def checkpoints_of(runs: Iterable[Run], folder: StudyFolder) -> list[Run]:
    """The training curves of a study's finished runs, for `EnvelopeFit`."""
    done = [run for run in runs if run.is_done]
    curves = (_curve(run, folder.run_folder(run.id) / "metrics.jsonl") for run in done)
    return [point for curve in curves for point in curve]


def _curve(run: Run, path: Path) -> list[Run]:
    """The checkpoints of a run from its metrics.jsonl, by their training loss; none without one.

    The training loss of a point is the mean over the steps since the last one: that of thousands of
    samples, where the held-out loss along the way is measured on a few, and an envelope picks the
    luckiest.
    """
    if not path.exists():
        return []
    try:
        points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            replace(
                run,
                num_tokens=point["num_tokens"],
                flops=point["flops"],
                num_steps=point["step"],
                loss=point["train_loss"],
                loss_stderr=None,
            )
            for point in points
            if point["train_loss"] is not None
        ]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise FitError(f"{path} is no training curve ({error!r})", "delete it") from error


def table_flop_rule(runs: Sequence[Run]) -> FlopRule:
    """The FLOP rule that the runs' own C, N and D obey: a constant, or a table over N.

    A table where N explains most of the spread of C / (N D), as it does where C was counted; a
    spread for other reasons is rounding, and its median the constant.
    """
    num_params = np.array([run.num_params for run in runs])
    per_param = np.array([run.flops / run.num_tokens for run in runs]) / num_params
    sizes, group = np.unique(num_params, return_inverse=True)
    mean = np.bincount(group, np.log(per_param)) / np.bincount(group)
    unexplained = np.std(np.log(per_param) - mean[group])
    varies = np.ptp(per_param) > CONSTANT_RULE * per_param.mean()
    if varies and len(sizes) < len(runs) and unexplained < CONSTANT_RULE:
        return FlopRule(tuple(map(float, sizes)), tuple(map(float, sizes * np.exp(mean))))
    constant = float(np.median(per_param))
    if math.isclose(constant, FLOPS_PER_PARAM_PER_TOKEN, rel_tol=CONSTANT_RULE):
        return FlopRule.constant()
    return FlopRule.constant(constant)


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """runs.csv, one row per run, which `read_table` reads back with its default names."""
    names = [f.name for f in fields(Run) if f.name not in ("size", "versions", "metrics")]
    metrics = sorted({name for run in runs for name in run.metrics})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        metric_columns = [f"{METRICS}{name}" for name in metrics]
        writer.writerow([*names, "size_name", "size_value", *metric_columns])
        for run in runs:
            values = [getattr(run, name) for name in names]
            measured = [run.metrics.get(name) for name in metrics]
            size = ["", ""] if run.size is None else [run.size.name, run.size.label]
            writer.writerow(["" if v is None else v for v in (*values, *size, *measured)])


@dataclass(frozen=True)
class _Row:
    """The cells of one run under our names. `number` counts rows from 1."""

    number: int
    cells: Mapping[str, str]
    table: Cells

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


def _column_names(headers: Sequence[str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
    """Our name -> the file's, of all columns that are there."""
    unknown = sorted(set(columns) - set(COMMON_NAMES))
    if unknown:
        raise FitError(
            f"columns.{unknown[0]} names nothing that is read",
            f"use one of {', '.join(COMMON_NAMES)}",
        )
    names = {}
    for ours, common in COMMON_NAMES.items():
        asked = columns.get(ours)
        found = [h for h in (asked,) if h in headers] if asked else _found(headers, ours, common)
        if asked and not found:
            raise FitError(
                f"{path} has no column {asked!r} for {ours}", f"its columns are {_listed(headers)}"
            )
        if found:
            names[ours] = str(found[0])
    _check_columns(names, headers, path)
    return names


def _found(headers: Sequence[str], ours: str, common: Sequence[str]) -> list[str]:
    """The headers that mean `ours`: its own name, else a common one, in that order."""
    meant = [_plain(name) for name in (ours, *common)]
    alike = [header for header in headers if _plain(header) in meant]
    exact = [name for name in (ours, *common) if name in headers]
    return exact or sorted(alike, key=lambda header: meant.index(_plain(header)))


def _plain(name: str) -> str:
    """A header without its case and punctuation."""
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _named(cells: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The cells under our names, and those of other metrics under theirs."""
    ours = {name: cells.get(theirs, "") for name, theirs in names.items()}
    return ours | {name: cell for name, cell in cells.items() if name.startswith(METRICS)}


def _check_columns(names: Mapping[str, str], headers: Sequence[str], path: Path) -> None:
    sizes = _sizes_given(names)
    if len(sizes) < 2:
        raise FitError(
            f"{path} gives {' and '.join(sizes) or 'none'} of num_params, num_tokens and flops",
            f"name two with columns.num_params=... and so on, among {_listed(headers)}",
        )
    if "loss" not in names:
        raise FitError(
            f"{path} has no column for the loss",
            f"name it with columns.loss=..., among {_listed(headers)}",
        )
    for ours, theirs in names.items():
        if headers.count(theirs) > 1:
            raise FitError(
                f"{path} has {headers.count(theirs)} columns {theirs!r}, one was expected "
                f"for {ours}",
                "rename all but one",
            )


def _listed(headers: Sequence[str]) -> str:
    shown = [repr(h[:SHOWN]) for h in headers[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(headers) > SHOWN else "")


def _sizes_given(names: Mapping[str, str]) -> list[str]:
    return [name for name in ("num_params", "num_tokens", "flops") if name in names]


def _reason_to_leave_out(row: _Row, names: Mapping[str, str]) -> str | None:
    """Why a row is no run at all; None where it is one."""
    missing = [name for name in _sizes_given(names) if not row.cells[name].strip()]
    if missing:
        return f"has no {' and no '.join(missing)}"
    if row.value("num_steps") == 0:
        return "is of step 0"
    return None


def _run(row: _Row, names: Mapping[str, str], nats: float, constant: float) -> Run:
    n, d, c = _size(row, names, constant)
    loss, status = row.value("loss"), row.cells.get("status", "").strip() or "done"
    if loss is not None and not math.isfinite(loss):
        loss, status = None, "diverged"
    budget, stderr = row.value("budget"), row.value("loss_stderr")
    metrics = {k.removeprefix(METRICS): row.value(k) for k in row.cells if k.startswith(METRICS)}
    return Run(
        id=row.cells.get("id", "").strip() or f"row {row.number}",
        status=status,
        num_params=n,
        num_tokens=d,
        flops=c,
        loss=None if loss is None else loss * nats,
        budget=c if budget is None else budget,
        num_params_total=row.value("num_params_total"),
        loss_stderr=None if stderr is None else stderr * nats,
        seed=_whole(row.value("seed")),
        num_steps=_whole(row.value("num_steps")),
        trunk=row.cells.get("trunk", "").strip() or None,
        metrics={name: value for name, value in metrics.items() if value is not None},
    )


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None


def _size(row: _Row, names: Mapping[str, str], constant: float) -> tuple[float, float, float]:
    """N, D and C, the one that is not there from C = constant N D."""
    given = {}
    for name in _sizes_given(names):
        value = row.value(name)
        low, high = PLAUSIBLE["budget" if name == "flops" else name]
        if value is None or not low <= value <= high:
            raise row.trouble(name, f"a number between {low:g} and {high:g} was expected")
        given[name] = value
    n, d, c = (given.get(name, 0.0) for name in ("num_params", "num_tokens", "flops"))
    n = n or c / (constant * d)
    d = d or c / (constant * n)
    return n, d, c or constant * n * d


def _ends_of_curves(rows: Sequence[Run]) -> list[Run]:
    """The last step of each run, in the order of the rows."""
    last: dict[tuple[str, float], Run] = {}
    for row in rows:
        key = (row.id, row.num_params)
        if (row.num_steps or 0) >= (last.get(key, row).num_steps or 0):
            last[key] = row
    return list(last.values())


def _in_budgets(runs: list[Run]) -> tuple[list[Run], str]:
    """The runs with the budgets that their FLOPs tell, and a note on them."""
    budgets = snapped_budgets(np.array([run.flops for run in runs]))
    values, counts = np.unique(budgets, return_counts=True)
    shared = values[counts > 1]
    alone = int(np.sum(counts == 1))
    gathered = [replace(run, budget=float(b)) for run, b in zip(runs, budgets, strict=True)]
    listed = ", ".join(f"{value:.3g}" for value in shared) or "none"
    note = f"no budget column: budgets told from FLOPs are {listed}"
    return gathered, note + (f"; {alone} runs lie on none" if alone else "")
