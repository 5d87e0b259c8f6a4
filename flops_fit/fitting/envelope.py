"""Approach 1: the lower envelope of training curves (Hoffmann et al. 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Points, usable_points
from flops_fit.laws import Array, FlopRule, PowerLaw
from flops_fit.runs import Run

CLOSING = 2.0
"""The hull is closed at (2 C_max, 2 L_max) so that its lower right end is a side of it."""

FEWEST_HULL_POINTS = 3


@dataclass(frozen=True)
class EnvelopeLaw:
    """N_opt and loss as power laws of C through the envelope's points; D_opt by the FLOP rule.

    `points` are the checkpoints on the envelope, `num_final` how many of them end their run: far
    fewer than all means that runs with unfinished schedules decide the law.
    """

    line: PowerLaw
    loss_line: PowerLaw
    points: Points
    num_final: int
    flop_rule: FlopRule

    @property
    def a(self) -> float:
        return self.line.exponent

    def N_opt(self, flops: ArrayLike) -> Array:
        return self.line(flops)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return self.loss_line(flops)


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
