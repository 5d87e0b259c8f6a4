"""Which column of a table holds what we look for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from flops_fit.fitting.errors import FitError

SHOWN = 40
"""Characters of a cell or a name shown in a message, and names shown."""

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
    "unique_tokens": (),
    "num_steps": (),
    "trunk": (),
}
"""Our names of columns, and others under which each is looked for where none was given: as they
are, else whatever their case and punctuation (`eval/loss`, `Final Loss`)."""


def column_names(headers: Sequence[str], columns: Mapping[str, str], path: Path) -> dict[str, str]:
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
                f"{path} has no column {asked!r} for {ours}", f"its columns are {listed(headers)}"
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


def _check_columns(names: Mapping[str, str], headers: Sequence[str], path: Path) -> None:
    sizes = sizes_given(names)
    if len(sizes) < 2:
        raise FitError(
            f"{path} gives {' and '.join(sizes) or 'none'} of num_params, num_tokens and flops",
            f"name two with columns.num_params=... and so on, among {listed(headers)}",
        )
    if "loss" not in names:
        raise FitError(
            f"{path} has no column for the loss",
            f"name it with columns.loss=..., among {listed(headers)}",
        )
    for ours, theirs in names.items():
        if headers.count(theirs) > 1:
            raise FitError(
                f"{path} has {headers.count(theirs)} columns {theirs!r}, one was expected "
                f"for {ours}",
                "rename all but one",
            )


def listed(headers: Sequence[str]) -> str:
    shown = [repr(h[:SHOWN]) for h in headers[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(headers) > SHOWN else "")


def sizes_given(names: Mapping[str, str]) -> list[str]:
    return [name for name in ("num_params", "num_tokens", "flops") if name in names]
