"""Which of several runs of one (N, D) enter a fit: repeated seeds all, learning rates the best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Dropped, Points, replicate_groups

CONFLICT = 0.05
"""Relative spread of the losses of one (N, D) beyond which they are no repeated seeds: published
sweeps show 0.1 to 1% between seeds."""


class Selection(Protocol):
    """Takes points, returns those that enter the fit and those left out."""

    def __call__(self, points: Points) -> tuple[Points, tuple[Dropped, ...]]: ...


@dataclass(frozen=True)
class EveryRun:
    """All runs: those of one (N, D) are repeated seeds, and tell the noise.

    Raises `FitError` where the losses of one (N, D) span more than the share `conflict` of their
    mean: those are no seeds.
    """

    conflict: float = CONFLICT

    def __post_init__(self) -> None:
        if not self.conflict > 0:
            raise FitError(
                f"select.conflict is {self.conflict}",
                f"give the spread that seeds may have, over their mean, such as {CONFLICT:g}",
            )

    def __call__(self, points: Points) -> tuple[Points, tuple[Dropped, ...]]:
        for rows in replicate_groups(points):
            losses = points.loss[rows]
            if np.ptp(losses) > self.conflict * losses.mean():
                raise FitError(
                    f"runs {', '.join(points.ids[i] for i in rows[:4])} have one N and D but "
                    f"losses from {losses.min():.4g} to {losses.max():.4g}, further apart than "
                    f"select.conflict = {self.conflict:g} of their mean",
                    "keep one of them, select the lowest loss of each (select=best_lr), or let "
                    f"all enter (select=all){_of_other_data(points)}",
                )
        return points, ()


def _of_other_data(points: Points) -> str:
    """Another way out where nobody said how many tokens are different."""
    if points.unique_tokens is not None:
        return ""
    return "; where they differ in how often they repeat their data, name columns.unique_tokens="


@dataclass(frozen=True)
class AllRuns:
    """All runs, however far those of one (N, D) are apart: seeds and learning rates together.

    What they scatter by is then no noise of repeated seeds, and isn't taken for it.
    """

    def __call__(self, points: Points) -> tuple[Points, tuple[Dropped, ...]]:
        return replace(points, repeats_are_seeds=False), ()


@dataclass(frozen=True)
class LowestLoss:
    """The best run of each (N, D): for sweeps that tried several learning rates at each."""

    def __call__(self, points: Points) -> tuple[Points, tuple[Dropped, ...]]:
        keep = np.ones(len(points), dtype=bool)
        dropped = []
        for rows in replicate_groups(points):
            best = rows[np.argmin(points.loss[rows])]
            for row in rows[rows != best]:
                keep[row] = False
                reason = f"the same N and D as {points.ids[best]}, which has a lower loss"
                dropped.append(Dropped(points.ids[row], reason))
        return points.where(keep), tuple(dropped)
