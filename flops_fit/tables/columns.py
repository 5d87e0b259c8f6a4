"""Which column of a table holds what we look for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from flops_fit.fitting.errors import FitError
from flops_fit.signatures import did_you_mean
from flops_fit.tables.cells import FILE, quantity
from flops_fit.tables.units import UNIT_NAMES, without_unit

SHOWN = 40
"""Characters of a cell or a name shown in a message, and names shown."""

COMMON_NAMES: Mapping[str, tuple[str, ...]] = {
    "num_params": ("N", "params", "n_params", "parameters", "num_parameters", "model_size"),
    "num_tokens": ("D", "tokens", "n_tokens", "training_tokens", "train_tokens"),
    "flops": ("C", "FLOPs", "compute", "training_flops", "train_flops"),
    "loss": ("final_loss", "val_loss", "eval_loss", "validation_loss"),
    "budget": (),
    "id": ("run_name", "run_id", "name", "run"),
    "status": ("state", "run_status", "run_state"),
    "seed": (),
    "loss_stderr": (),
    "num_params_total": ("total_params", "n_params_total"),
    "unique_tokens": (),
    "num_steps": (),
    "trunk": (),
}
"""Our names of columns, and others under which each is looked for where none was given: as they
are, else whatever their case and punctuation (`eval/loss`, `Final Loss`)."""


Named = str | Sequence[str]
"""A column as it is named: as the file has it, by an expression, or several that make an id."""


def column_names(headers: Sequence[str], columns: Mapping[str, str], name: str) -> dict[str, str]:
    """Our name -> the file's, of all columns that are there. `name` is that of the file.

    `columns` has those that are named, which are there. Others are looked for. Raises `FitError`
    where too little is found.
    """
    names = {}
    for ours, common in COMMON_NAMES.items():
        found = [columns[ours]] if ours in columns else _found(headers, ours, common)
        if found:
            names[ours] = found[0]
    _check_columns(names, headers, name)
    return names


def check_named(columns: Mapping[str, Named]) -> None:
    """Raises `FitError` for a name that is none of ours."""
    known = [*COMMON_NAMES, *UNIT_NAMES]
    for ours, theirs in columns.items():
        if ours not in known:
            raise FitError(
                f"columns.{ours} names nothing that is read",
                f"{did_you_mean(ours, known)}use one of {', '.join(known)}",
            )
        if ours in UNIT_NAMES and not isinstance(theirs, str | float | int):
            raise FitError(f"columns.{ours} is {theirs!r}", "give one unit, such as M")


def names_of_runs(headers: Sequence[str]) -> tuple[str, ...]:
    """The columns that tell what a row is: its id, and its file."""
    found = _found(headers, "id", COMMON_NAMES["id"])[:1]
    return tuple(dict.fromkeys([*found, *(h for h in headers if h == FILE)]))


def others_that_may_be(ours: str, headers: Sequence[str], taken: str) -> list[str]:
    """Further columns that are called so; of names of runs, which often are several, none."""
    if ours == "id":
        return []
    found = _all_found(headers, ours, COMMON_NAMES[ours])
    return [header for header in found if header != taken]


def _found(headers: Sequence[str], ours: str, common: Sequence[str]) -> list[str]:
    """The headers that mean `ours`: its own name, else a common one, in that order. Units in a
    header, such as `tokens (B)`, don't matter."""
    exact = [name for name in (ours, *common) if name in headers]
    return exact or _all_found(headers, ours, common)


def _all_found(headers: Sequence[str], ours: str, common: Sequence[str]) -> list[str]:
    """Those of such names, whatever their case and punctuation."""
    meant = [_plain(name) for name in (ours, *common)]
    by_name = {header: _plain(without_unit(ours, header)) for header in headers}
    alike = [header for header in headers if by_name[header] in meant]
    return sorted(alike, key=lambda header: meant.index(by_name[header]))


def _plain(name: str) -> str:
    """A header without its case and punctuation."""
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _check_columns(names: Mapping[str, str], headers: Sequence[str], name: str) -> None:
    sizes = sizes_given(names)
    if len(sizes) < 2:
        figures = [h for h in headers if quantity(h.rpartition("=")[2]) is not None]
        pivot = "; a table of sizes by budgets is read with pivot=num_params,flops"
        raise FitError(
            f"{name} gives {' and '.join(sizes) or 'none'} of num_params, num_tokens and flops",
            f"name two with columns.num_params=... and so on, among {listed(headers)}"
            + (pivot if len(figures) > 1 else ""),
        )
    if "loss" not in names:
        raise FitError(
            f"{name} has no column for the loss",
            f"name it with columns.loss=..., among {listed(headers)}",
        )
    for ours, theirs in names.items():
        if headers.count(theirs) > 1:
            raise FitError(
                f"{name} has {headers.count(theirs)} columns {theirs!r}, one was expected "
                f"for {ours}",
                "rename all but one",
            )


def no_column(table: str, headers: Sequence[str], named: str, ours: str) -> FitError:
    """For a column that was named and isn't there."""
    return FitError(
        f"{table} has no column {named!r} for {ours}", f"its columns are {listed(headers)}"
    )


def listed(headers: Sequence[str]) -> str:
    shown = [repr(h[:SHOWN]) for h in headers[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(headers) > SHOWN else "")


def sizes_given(names: Mapping[str, str]) -> list[str]:
    return [name for name in ("num_params", "num_tokens", "flops") if name in names]
