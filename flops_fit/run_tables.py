"""Runs in and out of tables: anyone's CSV or JSON lines with named columns, and our runs.csv."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.fitting.budgets import snapped_budgets
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import PLAUSIBLE
from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN, FlopRule
from flops_fit.runs import Run

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
    "num_params_total": (),
}
"""Our names of columns, and others under which each is looked for where none was given."""

DELIMITERS = (",", ";", "\t", "|")

SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
"""Of counts as people write them: 125M, 1.3B."""

CONSTANT_RULE = 0.01
"""Relative spread of C / (N D) below which a table's FLOP rule is one constant."""

SHOWN = 40
"""Characters of a cell shown in a message."""

Row = Mapping[str, str]


def bits_per_byte(bytes_per_token: float) -> float:
    """Nats per token of a loss of one bit per byte."""
    return BITS * bytes_per_token


def read_runs(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    nats_per_unit: float = NATS,
    flops_per_param_per_token: float = FLOPS_PER_PARAM_PER_TOKEN,
) -> tuple[list[Run], tuple[str, ...]]:
    """The runs of a CSV (comma, semicolon, tab) or JSON-lines file, and notes on what was assumed.

    `columns` maps our names (num_params, num_tokens, flops: any two; loss; and optionally budget,
    id, status, seed, loss_stderr, num_params_total) to the file's. Names left out are looked for
    under their own and under common ones. The missing one of N, D and C follows from
    C = flops_per_param_per_token N D. Losses are multiplied by `nats_per_unit` (`NATS`, `BITS`,
    `bits_per_byte(...)`). Without a budget column, runs are gathered into budgets by their FLOPs.
    Raises `FitError` where the file or a cell can't be understood.
    """
    rows = _rows(path)
    names = _column_names(rows.headers, columns or {}, path)
    notes = [
        f"{ours} is read from column {theirs!r}"
        for ours, theirs in names.items()
        if theirs != (columns or {}).get(ours, ours)
    ]
    runs = []
    for number, cells in enumerate(rows.rows, start=1):
        row = _Row(number, {ours: cells.get(theirs, "") for ours, theirs in names.items()}, rows)
        missing = [n for n in _sizes_given(names) if not row.cells[n].strip()]
        if missing:
            notes.append(f"row {number} has no {' and no '.join(missing)}: left out")
            continue
        runs.append(_run(row, names, nats_per_unit, flops_per_param_per_token))
    if not runs:
        raise FitError(f"{path} has no rows with data", "give a table with one run per row")
    if "budget" in names:
        return runs, tuple(notes)
    runs, note = _in_budgets(runs)
    return runs, (*notes, note)


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
    """runs.csv, one row per run, which `read_runs` reads back with its default names."""
    names = [f.name for f in fields(Run) if f.name not in ("size", "versions")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "size_name", "size_value"])
        for run in runs:
            values = [getattr(run, name) for name in names]
            size = ["", ""] if run.size is None else [run.size.name, run.size.label]
            writer.writerow(["" if v is None else v for v in values] + size)


@dataclass(frozen=True)
class _Table:
    """Cells as text under their headers. `decimal_comma` where 3,14 means 3.14."""

    path: Path
    headers: tuple[str, ...]
    rows: list[Row]
    decimal_comma: bool


@dataclass(frozen=True)
class _Row:
    """The cells of one run under our names. `number` counts rows from 1."""

    number: int
    cells: Mapping[str, str]
    table: _Table

    def value(self, name: str) -> float | None:
        """The cell as a number; None where it is empty or not there."""
        cell = self.cells.get(name, "").strip()
        if not cell:
            return None
        number = _number(cell, decimal_comma=self.table.decimal_comma)
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


def _rows(path: Path) -> _Table:
    text = _text(path).lstrip("\ufeff")
    if not text.strip():
        raise FitError(f"{path} is empty", "give a table with a header and one run per row")
    if text.lstrip()[0] in "{[":
        return _json_table(path, text)
    return _csv_table(path, text)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FitError(f"{path} does not exist", "give the path of a CSV or JSON file") from error
    except OSError as error:
        raise FitError(f"{path} can't be read ({error.strerror})", "check the path") from error
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise FitError(f"{path} is not UTF-8 text ({error.reason})", "save it as UTF-8") from error
    if "\0" in text:
        raise FitError(f"{path} holds binary data", "give a table as CSV or JSON lines")
    return text


def _csv_table(path: Path, text: str) -> _Table:
    first_line = text.lstrip("\r\n").splitlines()[0]
    delimiter = max(DELIMITERS, key=first_line.count)
    try:
        lines = [cells for cells in csv.reader(io.StringIO(text), delimiter=delimiter) if cells]
    except csv.Error as error:
        raise FitError(
            f"{path} is not a table that can be read ({error})",
            "check its quotes, and that no cell is longer than 131,072 characters",
        ) from error
    headers = tuple(cell.strip() for cell in lines[0])
    rows: list[Row] = [dict(zip(headers, cells, strict=False)) for cells in lines[1:]]
    return _Table(path, headers, rows, decimal_comma=delimiter != ",")


def _json_table(path: Path, text: str) -> _Table:
    """One object per line, or one list of objects; inner objects become dotted names."""
    try:
        if text.lstrip().startswith("["):
            entries = json.loads(text)
        else:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise FitError(
            f"{path} is not readable JSON ({error})", "write one object per line"
        ) from error
    if not all(isinstance(entry, dict) for entry in entries):
        raise FitError(f"{path} holds JSON that is no object", "write one object per run")
    rows: list[Row] = [_flat(entry) for entry in entries]
    headers = tuple(dict.fromkeys(name for row in rows for name in row))
    return _Table(path, headers, rows, decimal_comma=False)


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    cells: dict[str, str] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            cells |= _flat(value, f"{prefix}{key}.")
        else:
            cells[f"{prefix}{key}"] = "" if value is None else str(value)
    return cells


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
    return [name for name in (ours, *common) if name in headers]


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


def _run(row: _Row, names: Mapping[str, str], nats: float, constant: float) -> Run:
    n, d, c = _size(row, names, constant)
    loss, status = row.value("loss"), row.cells.get("status", "").strip() or "done"
    if loss is not None and not math.isfinite(loss):
        loss, status = None, "diverged"
    budget, seed = row.value("budget"), row.value("seed")
    stderr = row.value("loss_stderr")
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
        seed=int(seed) if seed is not None and math.isfinite(seed) else None,
    )


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


def _number(cell: str, *, decimal_comma: bool) -> float | None:
    """The number of a cell such as 1.5e9, "1,234,567", 125M or, with `decimal_comma`, 3,14."""
    if decimal_comma:
        cell = re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", cell)
    elif re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", cell):
        cell = cell.replace(",", "")
    scale = SUFFIXES.get(cell[-1:].lower(), 1.0)
    try:
        return float(cell if scale == 1.0 else cell[:-1]) * scale
    except ValueError:
        return None


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
