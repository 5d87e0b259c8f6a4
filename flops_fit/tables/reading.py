"""Anyone's table, with named columns, as runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Dropped
from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN
from flops_fit.plan.run import Run
from flops_fit.shown import short_flops
from flops_fit.tables.budgets import snapped_budgets
from flops_fit.tables.cells import Cells
from flops_fit.tables.columns import Named, check_named, column_names, names_of_runs, sizes_given
from flops_fit.tables.computed import is_list, listed_columns, with_computed
from flops_fit.tables.conditions import unasked
from flops_fit.tables.curves import CurveRow, IdColumns, curves_of
from flops_fit.tables.files import Asked, table_files
from flops_fit.tables.formats import read_cells
from flops_fit.tables.pivot import unpivoted
from flops_fit.tables.plausible import (
    Sizes,
    check_constant,
    check_kinds,
    check_no_logarithms,
    is_inconsistent,
)
from flops_fit.tables.rows import (
    NATS,
    TableRow,
    named_cells,
    reason_to_leave_out,
    run_of,
    sizes_of,
)
from flops_fit.tables.units import UNIT_NAMES, given_factor, header_unit
from flops_fit.tables.words import notes_on_columns, notes_on_loss, notes_on_repeats

AS_WRITTEN: Mapping[str, Named] = dict.fromkeys(
    ("num_params_unit", "num_tokens_unit", "flops_unit"), "1"
)
"""Units of a table that we wrote: single parameters, tokens and FLOPs, whatever their size."""

OUR_COLUMN = "size_name"
"""Of runs.csv as we write it, whose sizes are what they say, however small."""

MEASURED = ("num_params", "num_tokens", "flops", "loss", "loss_stderr", "num_steps", "status")


@dataclass(frozen=True)
class RunTable:
    """The runs of a table, notes on what was assumed, and the training curves where it has any.

    `checkpoints` has a row for every step of the runs, their ends included, under the runs' ids.
    `columns` has our names of the columns read, and the file's; `units` what those in a unit were
    multiplied by; `dropped` the rows that are no runs or were not asked for.
    """

    runs: list[Run]
    checkpoints: list[Run]
    notes: tuple[str, ...]
    columns: Mapping[str, str]
    dropped: tuple[Dropped, ...]
    units: Mapping[str, float]
    files: tuple[Path, ...]


def read_table(
    asked: Asked,
    columns: Mapping[str, Named] | None = None,
    *,
    where: str = "",
    pivot: str = "",
    nats_per_unit: float = NATS,
    flops_per_param_per_token: float = FLOPS_PER_PARAM_PER_TOKEN,
) -> RunTable:
    """The runs of a table, or of several files that are one: CSV, JSON, Markdown, Parquet, Excel.

    `columns` maps our names (num_params, num_tokens, flops: any two; loss; and optionally the other
    keys of `COMMON_NAMES`) to the file's, or to expressions of these: "steps * 5e5". Names left out
    are looked for under their own and under common ones. `where` says which rows to read, by the
    file's own columns: "sweep = base and step > 0"; `pivot` what the two axes of a table of losses
    are: "num_params,flops". The missing one of N, D and C follows from
    C = flops_per_param_per_token N D. Units are read from cells, headers and num_params_unit and
    so on in `columns`. Losses are multiplied by `nats_per_unit` (`NATS`, `BITS`,
    `bits_per_byte(...)`). Without a budget column, runs are gathered into budgets by their FLOPs.
    Where `columns` names num_steps, rows of one id and size are the training curve of one run.
    Raises `FitError` where the file, a condition or a cell can't be understood, or can't be true.
    """
    check_constant(flops_per_param_per_token)
    files = table_files(asked)
    cells = read_cells(files)
    columns = {ours: theirs for ours, theirs in (columns or {}).items() if theirs}
    check_named(columns)
    if pivot:
        melted = unpivoted(cells, pivot, columns)
        cells, columns = melted.cells, melted.columns
    in_file, found = cells.headers, _found_rows(cells, columns, where)
    sizes = _sizes(found, columns, flops_per_param_per_token)
    check_kinds({n: h for n, h in found.names.items() if h in in_file and n not in found.units})
    check_no_logarithms(found.names, sizes.given)
    sizes.check()
    runs = [
        CurveRow(run_of(row, (float(n), float(d), float(c)), nats_per_unit), number)
        for row, number, n, d, c in zip(found.rows, found.numbers, *sizes.all(), strict=True)
    ]
    notes = [
        *notes_on_columns(cells.headers, found.names, columns, found.units),
        *notes_on_loss(found.names["loss"], nats_per_unit),
    ]
    dropped = list(found.dropped)
    ends, checkpoints = [row.run for row in runs], []
    if "num_steps" in columns:
        curves = curves_of(runs, found.cells, found.measured, _id_columns(found.names, columns))
        ends, checkpoints = curves.ends, curves.checkpoints
        dropped += curves.dropped
        notes.append(
            f"{len(checkpoints)} rows are the training curves of {len(ends)} runs (rows of one id "
            "and size): their ends are fitted, and fit=envelope looks at all of them"
        )
    notes.extend(notes_on_repeats(runs, ends, found.cells, found.measured))
    ends, note = _with_budgets(ends, found.names, is_named="budget" in columns)
    notes.extend(note)
    return RunTable(
        ends, checkpoints, tuple(notes), found.names, tuple(dropped), found.units, tuple(files)
    )


@dataclass(frozen=True)
class _Found:
    """The rows of a table that are runs, with their numbers in it."""

    cells: Cells
    names: Mapping[str, str]
    units: Mapping[str, float]
    rows: list[TableRow]
    numbers: list[int]
    dropped: list[Dropped]

    @property
    def measured(self) -> set[str]:
        """The columns that say how far a run was and how it did, not which it is."""
        return {self.names[name] for name in MEASURED if name in self.names}


def _found_rows(cells: Cells, columns: Mapping[str, Named], where: str) -> _Found:
    reason_against = unasked(cells, where, names_of_runs(cells.headers))
    reasons = [reason_against(row) for row in cells.rows]
    in_file = cells.headers
    cells, named = with_computed(cells, columns, [reason is None for reason in reasons])
    names = column_names(cells.headers, named, cells.name)
    units = _units(names, columns, in_file)
    found = _Found(cells, names, units, [], [], [])
    for number, (cells_of_row, place) in enumerate(zip(cells.rows, cells.places, strict=True)):
        called = place.removeprefix(f"{cells.name}, ")
        row = TableRow(called, place, named_cells(cells_of_row, names), units)
        reason = reasons[number] or reason_to_leave_out(row, names)
        if reason is not None:
            found.dropped.append(Dropped(row.id, reason))
            continue
        found.rows.append(row)
        found.numbers.append(number)
    if not found.rows:
        raise _no_rows(cells.name, found.dropped)
    return found


def _units(
    names: Mapping[str, str], columns: Mapping[str, Named], in_file: Sequence[str]
) -> dict[str, float]:
    """What the cells of columns are multiplied by, of those that are in a unit. Expressions, which
    are not in the file, tell none."""
    units = {}
    for setting, ours in UNIT_NAMES.items():
        if setting in columns and ours not in names:
            raise FitError(
                f"columns.{setting} is the unit of a column that the table does not have",
                f"name it with columns.{ours}=...",
            )
        if setting in columns:
            units[ours] = given_factor(ours, str(columns[setting]))
        elif names.get(ours) in in_file and (told := header_unit(ours, names[ours])) is not None:
            units[ours] = told[0]
    return units


def _sizes(found: _Found, columns: Mapping[str, Named], constant: float) -> Sizes:
    """N, D and C of the rows, those that the table gives."""
    given = [sizes_of(row, found.names) for row in found.rows]
    named = sizes_given(found.names)
    is_ours = OUR_COLUMN in found.cells.headers
    return Sizes(
        given={name: np.array([row[name] for row in given]) for name in named},
        units=found.units,
        said=frozenset(n for n in named if is_ours or f"{n}_unit" in columns),
        constant=constant,
        places=[row.place for row in found.rows],
    )


def _id_columns(names: Mapping[str, str], columns: Mapping[str, Named]) -> IdColumns:
    named = columns.get("id", "")
    if named and is_list(named):
        return IdColumns(listed_columns(named), is_said=True)
    return IdColumns([names["id"]] if "id" in names else [], is_said=False)


def _no_rows(name: str, dropped: Sequence[Dropped]) -> FitError:
    if not dropped:
        return FitError(f"{name} has no rows with data", "give a table with one run per row")
    reasons = Counter(row.reason for row in dropped).most_common(3)
    listed = ", ".join(f"{count} are {reason!r}" for reason, count in reasons)
    return FitError(f"none of the {len(dropped)} rows of {name} is a run", f"{listed}")


def _with_budgets(
    runs: list[Run], names: Mapping[str, str], *, is_named: bool
) -> tuple[list[Run], list[str]]:
    """The runs with the budgets of their column, or those that their FLOPs tell, and notes."""
    notes = []
    if "budget" in names:
        budgets, flops = (np.array([getattr(r, n) for r in runs]) for n in ("budget", "flops"))
        if not is_inconsistent(budgets, flops):
            return runs, []
        ratio = float(np.median(budgets / flops))
        if is_named:
            raise FitError(
                f"budgets in {names['budget']!r} are {ratio:.3g} times the FLOPs that were spent",
                "give their unit with columns.budget_unit=..., or another column",
            )
        notes.append(
            f"column {names['budget']!r} is {ratio:.3g} times the FLOPs that were spent: it is not "
            "read for the budget (columns.budget_unit= says otherwise)"
        )
    budgets = snapped_budgets(np.array([run.flops for run in runs]))
    values, counts = np.unique(budgets, return_counts=True)
    shared = values[counts > 1]
    alone = int(np.sum(counts == 1))
    gathered = [replace(run, budget=float(b)) for run, b in zip(runs, budgets, strict=True)]
    listed = ", ".join(map(short_flops, shared)) or "none"
    note = f"no budget column: budgets told from FLOPs are {listed}"
    return gathered, [*notes, note + (f"; {alone} of the runs lie on none" if alone else "")]
