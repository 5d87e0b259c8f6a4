"""runs.csv: the runs of a study as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from flops_fit.plan.run import Run
from flops_fit.tables.formats import DEFUSED
from flops_fit.tables.rows import METRICS


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """runs.csv, one row per run, which `read_table` reads back with its default names.

    Texts that a spreadsheet would run, such as =1+1, stand behind a mark that says they are text.
    """
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
            writer.writerow([_harmless(v) for v in (*values, *size, *measured)])


def _harmless(value: object) -> object:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and DEFUSED.match(f"'{value}") else value
