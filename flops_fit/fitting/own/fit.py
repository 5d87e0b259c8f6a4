"""Anyone's own method of fitting, tried on points like ours: its law as a table, its draws too."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import UserError
from flops_fit.fitting.bootstrap import resample_weights
from flops_fit.fitting.contract import FitSettings, Fitted
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Points
from flops_fit.fitting.provenance import recorded_settings
from flops_fit.fitting.tabulated import TabulatedDraws, TabulatedLaw

MOST_DRAWS = 500
"""Resamples on which a method is called again: each is a whole fit, and 100 ms a fit is a minute.
The 2.5% tail then holds 12 draws."""

FEWEST_PLACES = 3
"""Different (N, D) in a resample: fewer determine no law of any kind."""

FEWEST_KEPT = 0.5
"""Share of the resamples that must give a law, or the draws tell nothing."""

UNLUCKY = (UserError, ArithmeticError, ValueError, RuntimeError)
"""What a method may raise on some of the runs from which it can't tell a law."""


@dataclass(frozen=True)
class OwnFit:
    """A user's settings, called with the runs and the FLOP rule."""

    settings: FitSettings

    def __post_init__(self) -> None:
        if not is_dataclass(self.settings) or isinstance(self.settings, type):
            raise FitError(
                f"{self.settings!r} is no dataclass instance",
                "make your fit a frozen dataclass of its settings: law.json records them",
            )

    @property
    def method(self) -> str:
        return type(self.settings).__name__

    def law(self, points: Points) -> TabulatedLaw:
        budgets = (float(points.budget.min()), points.largest_budget)
        if budgets[0] == budgets[1]:
            raise FitError("one budget", "an exponent needs at least two: train another")
        answer = self.settings(points.runs, points.flop_rule)
        return TabulatedLaw.of(answer, self.method, budgets, points.flop_rule)

    def fitted(self, points: Points, draws: int, seed: int) -> Fitted:
        """Draws are laws of resampled runs, a run drawn twice given twice; at most 500."""
        law = self.law(points)
        weights = resample_weights(points, min(draws, MOST_DRAWS), seed, FEWEST_PLACES)
        return Fitted(law, self._draws(points, weights))

    def recorded(self) -> dict[str, Any]:
        return recorded_settings(self.settings)

    def _draws(self, points: Points, weights: NDArray[np.uint8]) -> TabulatedDraws | None:
        with warnings.catch_warnings(action="ignore"):  # of resamples that a fit finds too poor
            laws = [
                law
                for counts in weights
                if (law := self._resampled(points, np.repeat(np.arange(len(points)), counts)))
            ]
        if not laws or len(laws) < FEWEST_KEPT * len(weights):
            return None
        return TabulatedDraws.stacked(laws)

    def _resampled(self, points: Points, rows: NDArray[np.int64]) -> TabulatedLaw | None:
        """The law of resampled rows, None where they tell none."""
        budgets = (float(points.budget.min()), points.largest_budget)
        try:
            answer = self.settings(points.rows(rows).runs, points.flop_rule)
            return TabulatedLaw.of(answer, self.method, budgets, points.flop_rule)
        except UNLUCKY:
            return None


def refit(fit: OwnFit, points: Points) -> TabulatedLaw:
    """The law of some of the points. Raises `FitError` where they tell none, however it is said."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of parts that a fit finds too poor
            return fit.law(points)
    except UNLUCKY as error:
        raise FitError(f"{fit.method} fails ({error!r})", "give it more runs") from error
