"""Approach 1: the lower envelope of training curves (Hoffmann et al. 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.bootstrap import resample_weights
from flops_fit.fitting.contract import Fitted
from flops_fit.fitting.envelope.law import EnvelopeLaw
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.provenance import recorded_settings
from flops_fit.fitting.tabulated import TabulatedDraws, TabulatedLaw
from flops_fit.laws import Array, FlopRule, PowerLaw
from flops_fit.plan.run import Run

CLOSING = 2.0
"""The hull is closed at (2 C_max, 2 L_max) so that its lower right end is a side of it."""

FEWEST_HULL_POINTS = 3

SHORTEST = 2.0
"""Factor of compute over which an envelope must reach."""

FEWEST_CURVES = 3
"""Training curves in a resample: fewer have no envelope but their own."""

MOST_DRAWS = 1000
"""Resamples of the curves; each takes a hull of its own."""


@dataclass(frozen=True)
class EnvelopeFit:
    """Approach 1 on checkpoints: rows of one id are the training curve of one run.

    The envelope is the lower convex hull of (ln C, ln L) without the points where the loss rises;
    least squares of ln N on ln C goes through its points.
    """

    method: ClassVar[str] = "envelope"

    def __call__(self, runs: Sequence[Run], flop_rule: FlopRule | None = None) -> EnvelopeLaw:
        points, _ = usable_points(runs, flop_rule or FlopRule.constant())
        return self.law(points)

    def law(self, points: Points) -> EnvelopeLaw:
        """Raises `FitError` where too few checkpoints lie on the envelope."""
        on_hull = lower_hull(np.log(points.flops), np.log(points.loss))
        if len(on_hull) < FEWEST_HULL_POINTS:
            raise FitError(
                f"{len(on_hull)} checkpoints lie on the envelope, a line needs "
                f"{FEWEST_HULL_POINTS}",
                "give more checkpoints of more sizes",
            )
        hull = points.where(np.isin(np.arange(len(points)), on_hull))
        if np.ptp(np.log(hull.flops)) < np.log(SHORTEST):
            raise FitError(
                f"the envelope reaches from {hull.flops.min():.4g} to {hull.flops.max():.4g} FLOPs",
                f"an exponent needs at least a factor of {SHORTEST:g}: give longer curves",
            )
        if np.ptp(np.log(hull.num_params)) == 0:
            raise FitError(
                f"one size, N = {hull.num_params[0]:.4g}, is best at every C",
                "train smaller and larger models",
            )
        return EnvelopeLaw(
            line=PowerLaw.through(hull.flops, hull.num_params),
            loss_line=PowerLaw.through(hull.flops, hull.loss),
            points=hull,
            num_final=sum(_is_final(points, name, d) for name, d in _rows(hull)),
            flop_rule=points.flop_rule,
        )


@dataclass(frozen=True)
class EnvelopeOfCurves:
    """Approach 1 on the training curves of the runs that are fitted.

    `curves` has the checkpoints of all runs, several rows of one id.
    """

    fit: EnvelopeFit
    curves: Points

    @property
    def method(self) -> str:
        return self.fit.method

    def law(self, points: Points) -> EnvelopeLaw:
        return self._law_of(points.ids)

    def fitted(self, points: Points, draws: int, seed: int) -> Fitted:
        """Draws are envelopes of resampled curves. How often a curve is drawn makes no difference
        to a hull, so these intervals are narrow where one curve holds most of it."""
        law = self.law(points)
        weights = resample_weights(points, min(draws, MOST_DRAWS), seed, FEWEST_CURVES)
        budgets = (float(points.budget.min()), points.largest_budget)
        laws = []
        for drawn in weights > 0:
            try:
                resampled = self._law_of(np.array(points.ids)[drawn])
                laws.append(TabulatedLaw.of(resampled, self.method, budgets, points.flop_rule))
            except FitError:
                continue
        return Fitted(law, TabulatedDraws.stacked(laws) if laws else None)

    def recorded(self) -> dict[str, Any]:
        return {**recorded_settings(self.fit), "curves_sha256": self.curves.sha256}

    def _law_of(self, ids: Iterable[str]) -> EnvelopeLaw:
        if not len(self.curves):
            raise FitError(
                "there are no training curves",
                "approach 1 needs checkpoints: a study's metrics.jsonl, or a table with a column "
                "for the step (columns.num_steps=...) and several rows of each id",
            )
        return self.fit.law(self.curves.where(np.isin(self.curves.ids, list(ids))))


def lower_hull(log_flops: Array, log_loss: Array) -> NDArray[np.int64]:
    """Indices of the lower convex hull by rising C, up to the first point where the loss rises."""
    far = (np.log(CLOSING) + log_flops.max(), np.log(CLOSING) + log_loss.max())
    x, y = np.append(log_flops, far[0]), np.append(log_loss, far[1])
    hull: list[int] = []
    for i in np.lexsort((y, x)).tolist():
        while len(hull) > 1 and _turns_right(x, y, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    falling = [hull[0]]
    for i in hull[1:]:
        if y[i] <= y[falling[-1]]:
            falling.append(i)
    return np.array([i for i in falling if i < len(log_flops)])


def _turns_right(x: Array, y: Array, first: int, second: int, third: int) -> bool:
    """Whether the middle point lies on or above the line through its neighbours."""
    cross = (x[second] - x[first]) * (y[third] - y[first]) - (y[second] - y[first]) * (
        x[third] - x[first]
    )
    return bool(cross <= 0)


def _rows(points: Points) -> list[tuple[str, float]]:
    return list(zip(points.ids, points.num_tokens.tolist(), strict=True))


def _is_final(points: Points, name: str, num_tokens: float) -> bool:
    """Whether no checkpoint of this run has seen more tokens."""
    return num_tokens >= max(d for other, d in _rows(points) if other == name)
