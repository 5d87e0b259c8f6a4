"""Runs in and out of tables: anyone's CSV or JSON lines with named columns, and our runs.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flops_fit.runs import Run


def read_runs(path: Path, columns: Mapping[str, str]) -> tuple[list[Run], tuple[str, ...]]:
    """The runs of a CSV (comma, semicolon, tab) or JSON-lines file, and notes on what was assumed.

    `columns` maps num_params, num_tokens, flops (any two), loss, and if there are any budget, id,
    seed, loss_stderr, num_params_total to the file's column names; names left out are looked for
    under their own.
    """
    raise NotImplementedError


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """runs.csv, which `read_runs` reads back with its default names."""
    raise NotImplementedError
