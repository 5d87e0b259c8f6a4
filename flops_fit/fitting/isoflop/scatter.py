"""How far the losses of a budget lie from its curve, and the noise of a loss that this tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.fitting.isoflop.curves import CurveFamily
from flops_fit.fitting.isoflop.optima import num_sizes
from flops_fit.fitting.points import Points

MOST_NOISE = 1.0
"""Relative noise of a loss beyond which more would change nothing: such curves are flat."""

MEDIAN_EFFICIENCY = 2 / np.pi
"""Share of the degrees of freedom that count where a median pools them (normal limit)."""


@dataclass(frozen=True)
class Scatter:
    """Sum of the squared relative residuals of one budget, and their degrees of freedom."""

    squares: float
    freedom: int


@dataclass(frozen=True)
class CurveNoise:
    """Relative standard deviation of one loss, and the degrees of freedom that it rests on."""

    value: float
    freedom: float


def scatter_about(family: CurveFamily, group: Points) -> Scatter | None:
    """Of one budget about its curve of least squares; None where the curve passes through all."""
    if num_sizes(group) <= family.parameters:
        return None
    fitted = family.curve(np.log(group.num_params), group.loss)(group.num_params)
    squares = float(np.sum((fitted / group.loss - 1) ** 2))
    return Scatter(squares, len(group) - family.parameters)


def pooled(scatters: Sequence[Scatter | None]) -> CurveNoise | None:
    """The median over budgets of unbiased estimates; None where there is none.

    One budget with a bad run, or of another shape, must not set the noise of all.
    """
    known = [s for s in scatters if s is not None]
    if not known:
        return None
    from scipy.special import gammaincinv  # a sixth of a second, for those who only read a law

    freedom = np.array([s.freedom for s in known])
    medians = 2 * gammaincinv(freedom / 2, 0.5)  # of chi squared
    value = float(np.sqrt(np.median([s.squares for s in known] / medians)))
    counting = float(freedom.sum()) * (MEDIAN_EFFICIENCY if len(known) > 1 else 1.0)
    return CurveNoise(min(value, MOST_NOISE), counting)


def pooled_without_each(scatters: Sequence[Scatter | None]) -> list[CurveNoise | None]:
    """For each budget the noise that all the others tell."""
    return [pooled([*scatters[:i], *scatters[i + 1 :]]) for i in range(len(scatters))]
