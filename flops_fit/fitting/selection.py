"""Which of several runs of one (N, D) enter a fit: repeated seeds all, learning rates the best."""

from __future__ import annotations

from dataclasses import dataclass
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

    Raises `FitError` where they differ by more than 5%: those are no seeds.
    """

    def __call__(self, points: Points) -> tuple[Points, tuple[Dropped, ...]]:
        for rows in replicate_groups(points):
            losses = points.loss[rows]
            if np.ptp(losses) > CONFLICT * losses.mean():
                raise FitError(
                    f"runs {', '.join(points.ids[i] for i in rows[:4])} have one N and D but "
                    f"losses from {losses.min():.4g} to {losses.max():.4g}",
                    "keep one of them, or select the lowest loss of each (select=best_lr)",
                )
        return points, ()


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
