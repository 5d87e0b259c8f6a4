"""Anyone's CSV or JSON lines, with named columns, as runs."""

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
from flops_fit.tables.budgets import snapped_budgets
from flops_fit.tables.cells import read_cells
from flops_fit.tables.columns import column_names
from flops_fit.tables.conditions import unasked
from flops_fit.tables.rows import NATS, TableRow, named_cells, reason_to_leave_out, run_of

MANY_EPOCHS = 4.0
"""D over unique tokens up to which repeats are nearly as good as new data (Muennighoff et al. 2023,
arXiv 2305.16264)."""


@dataclass(frozen=True)
class RunTable:
    """The runs of a table, notes on what was assumed, and the training curves where it has any.

    `checkpoints` has a row for every step of the runs, their ends included, under the runs' ids.
    `columns` has our names of the columns read, and the file's; `dropped` the rows that are no
    runs or were not asked for.
    """

    runs: list[Run]
    checkpoints: list[Run]
    notes: tuple[str, ...]
    columns: Mapping[str, str]
    dropped: tuple[Dropped, ...]


def read_table(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    where: str = "",
    nats_per_unit: float = NATS,
    flops_per_param_per_token: float = FLOPS_PER_PARAM_PER_TOKEN,
) -> RunTable:
    """The runs of a CSV (comma, semicolon, tab) or JSON-lines file.

    `columns` maps our names (num_params, num_tokens, flops: any two; loss; and optionally the other
    keys of `COMMON_NAMES`) to the file's. Names left out are looked for under their own and under
    common ones. `where` says which rows to read, by the file's own columns:
    "sweep = base and step > 0". The missing one of N, D and C follows from
    C = flops_per_param_per_token N D. Losses are multiplied by `nats_per_unit` (`NATS`, `BITS`,
    `bits_per_byte(...)`). Without a budget column, runs are gathered into budgets by their FLOPs.
    Where `columns` names num_steps, rows of one id and size are the training curve of one run.
    Raises `FitError` where the file, a condition or a cell can't be understood.
    """
    cells = read_cells(path)
    names = column_names(cells.headers, columns or {}, path)
    notes = [
        f"{ours} is read from column {theirs!r}"
        for ours, theirs in names.items()
        if theirs != (columns or {}).get(ours, ours)
    ]
    found, dropped = [], []
    reason_against = unasked(cells, where)
    for number, row_cells in enumerate(cells.rows, start=1):
        row = TableRow(number, named_cells(row_cells, names), cells)
        reason = reason_against(row_cells) or reason_to_leave_out(row, names)
        if reason is None:
            found.append(run_of(row, names, nats_per_unit, flops_per_param_per_token))
        else:
            dropped.append(Dropped(row.id, reason))
    if not found:
        raise _no_rows(path, dropped)
    runs, checkpoints = found, []
    if "num_steps" in (columns or {}):
        runs, checkpoints = _ends_of_curves(found), found
        notes.append(
            f"{len(found)} rows are the training curves of {len(runs)} runs (rows of one id and "
            "size): their ends are fitted, and fit=envelope looks at all of them"
        )
    notes.extend(_notes_on_repeats(runs))
    if "budget" not in names:
        runs, note = _in_budgets(runs)
        notes.append(note)
    return RunTable(runs, checkpoints, tuple(notes), names, tuple(dropped))


def _no_rows(path: Path, dropped: Sequence[Dropped]) -> FitError:
    if not dropped:
        return FitError(f"{path} has no rows with data", "give a table with one run per row")
    reasons = Counter(row.reason for row in dropped).most_common(3)
    listed = ", ".join(f"{count} are {reason!r}" for reason, count in reasons)
    return FitError(f"none of the {len(dropped)} rows of {path} is a run", f"{listed}")


def _ends_of_curves(rows: Sequence[Run]) -> list[Run]:
    """The last step of each run, in the order of the rows."""
    last: dict[tuple[str, float], Run] = {}
    for row in rows:
        key = (row.id, row.num_params)
        if (row.num_steps or 0) >= (last.get(key, row).num_steps or 0):
            last[key] = row
    return list(last.values())


def _notes_on_repeats(runs: Sequence[Run]) -> list[str]:
    """What most methods don't know of the data of these runs."""
    epochs = [run.num_tokens / run.unique_tokens for run in runs if run.unique_tokens]
    if not epochs or max(epochs) <= MANY_EPOCHS:
        return []
    return [
        f"runs see their data up to {max(epochs):.3g} times: fit=repeated knows what that costs"
    ]


def _in_budgets(runs: list[Run]) -> tuple[list[Run], str]:
    """The runs with the budgets that their FLOPs tell, and a note on them."""
    budgets = snapped_budgets(np.array([run.flops for run in runs]))
    values, counts = np.unique(budgets, return_counts=True)
    shared = values[counts > 1]
    alone = int(np.sum(counts == 1))
    gathered = [replace(run, budget=float(b)) for run, b in zip(runs, budgets, strict=True)]
    listed = ", ".join(f"{value:.3g}" for value in shared) or "none"
    note = f"no budget column: budgets told from FLOPs are {listed}"
    return gathered, note + (f"; {alone} of the runs lie on none" if alone else "")
