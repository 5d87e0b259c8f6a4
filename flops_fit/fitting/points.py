"""The rows that enter a fit, checked, and the rows that don't, each with its reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.errors import FitError
from flops_fit.laws import Array, FlopRule
from flops_fit.laws.prediction import PLAUSIBLE_D, PLAUSIBLE_N
from flops_fit.plan.run import Run, Status

INCONSISTENT_FLOPS = 5.0
"""A C that differs from the FLOP rule by this factor is of the wrong column or unit."""

PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    "num_params": PLAUSIBLE_N,
    "num_params_total": PLAUSIBLE_N,
    "num_tokens": PLAUSIBLE_D,
    "unique_tokens": PLAUSIBLE_D,
    "loss": (1e-12, 1e12),
    "budget": (1.0, 1e42),
}
"""Parameters, tokens, nats per token and FLOPs beyond which a number is no run's: a million times
the largest models, and losses of any scale in use."""

SAME_POINT = 1e-9
"""Relative difference of N and D below which two rows are the same point."""


@dataclass(frozen=True)
class Dropped:
    """A run left out of the fit, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Points:
    """Rows of a fit as columns of length n. `budget` is the asked FLOPs that groups the rows.

    `runs` are those behind the rows, (n,), or none for points made of bare numbers.
    `repeats_are_seeds` says whether rows of one (N, D) differ by their seeds alone.
    """

    ids: tuple[str, ...]
    num_params: Array
    num_tokens: Array
    loss: Array
    budget: Array
    flop_rule: FlopRule
    runs: tuple[Run, ...] = ()
    repeats_are_seeds: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def flops(self) -> Array:
        """FLOPs of each row by the FLOP rule."""
        return self.flop_rule(self.num_params) * self.num_tokens

    @property
    def flops_range(self) -> tuple[float, float]:
        """FLOPs of the cheapest row and of the dearest."""
        return float(self.flops.min()), float(self.flops.max())

    @property
    def budgets(self) -> tuple[float, ...]:
        """The budgets that at least two rows share, from small to large."""
        values, counts = np.unique(self.budget, return_counts=True)
        return tuple(map(float, values[counts > 1]))

    @property
    def largest_budget(self) -> float:
        """FLOPs where extrapolation begins."""
        return float(self.budget.max())

    @property
    def trunks(self) -> tuple[str | None, ...]:
        """The trunk that each row's run branched from, (n,)."""
        return tuple(run.trunk for run in self.runs) or (None,) * len(self)

    @property
    def num_params_total(self) -> Array | None:
        """Parameters counted in full, (n,); None unless every run tells."""
        return self._told("num_params_total")

    @property
    def unique_tokens(self) -> Array | None:
        """How many different tokens each run's data has, (n,); None unless every run tells."""
        return self._told("unique_tokens")

    def untold(self, name: str) -> int:
        """How many rows have nothing of this name."""
        return len(self) - sum(getattr(run, name) is not None for run in self.runs)

    def _told(self, name: str) -> Array | None:
        """What all runs say under this name, (n,)."""
        if not self.runs or self.untold(name):
            return None
        return np.array([getattr(run, name) for run in self.runs], dtype=float)

    def where(self, keep: NDArray[np.bool_]) -> Points:
        """The rows that a mask (n,) picks."""
        return self.rows(np.flatnonzero(keep))

    def rows(self, chosen: NDArray[np.int64]) -> Points:
        """The rows with these numbers, in this order, as often as they are named."""
        numbers = chosen.tolist()
        return Points(
            ids=tuple(map(self.ids.__getitem__, numbers)),
            num_params=self.num_params[chosen],
            num_tokens=self.num_tokens[chosen],
            loss=self.loss[chosen],
            budget=self.budget[chosen],
            flop_rule=self.flop_rule,
            runs=tuple(map(self.runs.__getitem__, numbers)) if self.runs else (),
            repeats_are_seeds=self.repeats_are_seeds,
        )

    def at_budget(self, budget: float) -> Points:
        return self.where(self.budget == budget)

    def with_loss(self, loss: Array) -> Points:
        runs = (replace(run, loss=float(y)) for run, y in zip(self.runs, loss, strict=False))
        return replace(self, loss=loss, runs=tuple(runs))

    @property
    def sha256(self) -> str:
        """Digest of ids, trunks, N, D, loss and budget in order, and of unique tokens where they
        differ: equal for equal inputs."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        digest.update("\n".join(trunk or "" for trunk in self.trunks).encode())
        for column in (self.num_params, self.num_tokens, self.loss, self.budget):
            digest.update(np.ascontiguousarray(column, dtype="<f8").tobytes())
        if self.unique_tokens is not None and np.ptp(self.unique_tokens) > 0:
            digest.update(np.ascontiguousarray(self.unique_tokens, dtype="<f8").tobytes())
        return digest.hexdigest()


def usable_points(runs: Sequence[Run], flop_rule: FlopRule) -> tuple[Points, tuple[Dropped, ...]]:
    """The runs that a fit can use, and the others by name.

    Runs that did not finish, diverged or have no loss are left out, and exact repetitions counted
    once. Raises `FitError` for numbers that can't be: NaN, infinite, negative or absurd values,
    and FLOPs that contradict N and D.
    """
    dropped: list[Dropped] = []
    kept: dict[tuple[float | None, ...], Run] = {}
    for run in runs:
        reason = _reason_to_leave_out(run)
        if reason is None:
            _check_numbers(run)
            key = (run.num_params, run.num_tokens, run.unique_tokens, run.loss, run.seed)
            if kept.setdefault(key, run) is not run:
                reason = f"the same row as {kept[key].id}"
        if reason is not None:
            dropped.append(Dropped(run.id, reason))
    points = _as_points(list(kept.values()), flop_rule)
    _check_flops(list(kept.values()), points)
    return points, tuple(dropped)


def _reason_to_leave_out(run: Run) -> str | None:
    if run.status == Status.DIVERGED:
        return "diverged"
    if run.status != Status.COMPLETED:
        return f"status is {run.status}"
    if run.loss is None:
        return "has no loss"
    return None


def _check_numbers(run: Run) -> None:
    """Refuse numbers that no run can have."""
    named = {
        "num_params": run.num_params,
        "num_tokens": run.num_tokens,
        "loss": run.loss,
        "budget": run.budget,
    }
    for name in ("num_params_total", "unique_tokens"):
        if getattr(run, name) is not None:
            named[name] = getattr(run, name)
    for name, value in named.items():
        low, high = PLAUSIBLE[name]
        if value is None or not low <= value <= high:
            raise FitError(
                f"run {run.id} has {name} = {value}",
                f"correct or remove this row: {name} must lie between {low:g} and {high:g}",
            )


def _as_points(runs: Sequence[Run], flop_rule: FlopRule) -> Points:
    def column(name: str) -> Array:
        return np.array([getattr(run, name) for run in runs], dtype=float)

    return Points(
        ids=tuple(run.id for run in runs),
        num_params=column("num_params"),
        num_tokens=column("num_tokens"),
        loss=column("loss"),
        budget=column("budget"),
        flop_rule=flop_rule,
        runs=tuple(runs),
    )


def _check_flops(runs: Sequence[Run], points: Points) -> None:
    """Refuse FLOPs that are another order of magnitude than the rule's for the row's N and D."""
    for run, expected in zip(runs, points.flops, strict=True):
        ratio = run.flops / expected
        if not 1 / INCONSISTENT_FLOPS < ratio < INCONSISTENT_FLOPS:
            raise FitError(
                f"run {run.id} has C = {run.flops:.3g}, {ratio:.3g} times the {expected:.3g} that "
                f"the FLOP rule gives for N = {run.num_params:.4g} and D = {run.num_tokens:.4g}",
                "check the units of these columns, or give the FLOP rule that holds",
            )


def places(points: Points) -> NDArray[np.int64]:
    """A number for each row, (n,), equal where N and D are."""
    columns = np.log(np.stack([points.num_params, points.num_tokens])) / SAME_POINT
    return _groups(*np.round(columns).astype(np.int64))


def _groups(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.int64]:
    """A number for each row, (n,), equal where both columns are, rising with the first of them.

    `np.unique` of columns at once takes ten times as long.
    """
    _, ones = np.unique(first, return_inverse=True)
    different, others = np.unique(second, return_inverse=True)
    _, group = np.unique(ones.ravel() * len(different) + others.ravel(), return_inverse=True)
    return np.asarray(group.ravel(), dtype=np.int64)


def near_best(points: Points, factor: float) -> NDArray[np.bool_]:
    """Which rows are within `factor` of N from the row of least loss of their budget, (n,)."""
    _, group = np.unique(points.budget, return_inverse=True)
    order = np.lexsort((points.loss, group))
    best = order[np.unique(group[order], return_index=True)[1]]  # a row for each budget
    distance = np.abs(np.log(points.num_params / points.num_params[best][group]))
    return np.asarray(distance <= np.log(factor) + SAME_POINT)


def replicate_groups(points: Points) -> list[NDArray[np.int64]]:
    """Indices of the rows that share N, D and unique tokens, an array for each with several."""
    group = places(points)
    if points.unique_tokens is not None:
        group = _groups(group, points.unique_tokens)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))
    return [rows for rows in np.split(order, ends[:-1]) if len(rows) > 1]


def blocks(points: Points) -> NDArray[np.int64]:
    """A number for each row, (n,), equal where runs branched from one trunk."""
    numbers: dict[object, int] = {}
    keys = (row if trunk is None else trunk for row, trunk in enumerate(points.trunks))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
