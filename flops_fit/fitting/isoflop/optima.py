"""The optimum of one budget, and the verdict on whether it can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flops_fit.fitting.isoflop.curves import SAME_SIZE, IsoflopCurve, Parabola, size_groups
from flops_fit.fitting.points import Points
from flops_fit.records import read_as
from flops_fit.shown import short_number, span

OK, EDGE, FLAT, CONCAVE, FEW, NEGATIVE = "ok", "edge", "flat", "concave", "few", "negative"
MISFIT = "misfit"
"""Verdicts on a budget: only `ok` ones, whose minimum is bracketed, enter the line."""

SIGNIFICANT = 2.0
"""Standard errors by which a curvature must differ from 0 to be believed."""

ON_EDGE = 1e-9
"""ln N from the outermost size within which a minimum is the size itself."""


@dataclass(frozen=True)
class BudgetOptimum:
    """What one budget says. `flops` is the geometric mean really spent, `reason` a sentence.

    `N_opt`, `D_opt`, `loss` and `curve` are None where there are too few sizes for a curve.
    """

    budget: float
    flops: float
    num_sizes: int
    verdict: str
    reason: str
    N_opt: float | None = None
    D_opt: float | None = None
    loss: float | None = None
    curve: IsoflopCurve | None = None

    @property
    def is_bracketed(self) -> bool:
        return self.verdict == OK

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "curve": None if self.curve is None else self.curve.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BudgetOptimum:
        curve = None if data["curve"] is None else IsoflopCurve.from_json(data["curve"])
        return read_as(cls, {**data, "curve": curve})


def budgets_from_json(section: Mapping[str, Any]) -> tuple[BudgetOptimum, ...]:
    """The optima of the section of approach 2, which are there even where it has no law."""
    return tuple(BudgetOptimum.from_json(entry) for entry in section["budgets"])


def num_sizes(points: Points) -> int:
    """Different sizes among the points."""
    return int(size_groups(np.log(points.num_params)).max()) + 1


def near_minimum(group: Points, factor: float, fewest: int) -> Points:
    """The sizes within `factor` of the minimum, and in any case the `fewest` nearest.

    The minimum is that of a parabola through the sizes near the one of least loss.
    """
    least = float(np.log(group.num_params[np.argmin(group.loss)]))
    first = _within(group, least, factor, fewest)
    if num_sizes(first) < Parabola.fewest_sizes:
        return first
    parabola = Parabola().curve(np.log(first.num_params), first.loss)
    return _within(group, float(parabola.lowest()[0]), factor, fewest)


def _within(group: Points, centre: float, factor: float, fewest: int) -> Points:
    """The sizes within `factor` of ln N = centre, and in any case the `fewest` nearest."""
    distance = np.abs(np.log(group.num_params) - centre)
    _, first_rows = np.unique(size_groups(np.log(group.num_params)), return_index=True)
    nearest = np.sort(distance[first_rows])[:fewest]
    reach = max(float(np.log(factor)), float(nearest[-1]) + SAME_SIZE)
    return group.where(distance <= reach * (1 + 1e-9))


def verdict_on(
    group: Points, everything: Points, log_n: float, noise: float | None
) -> tuple[str, str]:
    """Whether the minimum at `log_n` of a budget's curve can be believed, and why."""
    curvature, error = _curvature(group, noise)
    smallest, largest = everything.num_params.min(), everything.num_params.max()
    if curvature < 0 and -curvature >= SIGNIFICANT * error:
        return CONCAVE, (
            "the loss bends downward over ln N: look for diverged or badly tuned runs among "
            f"N = {span(smallest, largest)}"
        )
    if curvature < SIGNIFICANT * error:
        return FLAT, (
            f"the curvature is {curvature:.2g} +- {error:.2g}, no different from 0: train sizes "
            f"further apart than N = {span(smallest, largest)}, or repeat seeds"
        )
    if log_n <= np.log(smallest) + ON_EDGE:
        return EDGE, (
            f"the loss is least at the smallest size, N = {short_number(smallest)}: "
            f"train {short_number(smallest / 2)} and {short_number(smallest / 4)} too"
        )
    if log_n >= np.log(largest) - ON_EDGE:
        return EDGE, (
            f"the loss is least at the largest size, N = {short_number(largest)}: "
            f"train {short_number(largest * 2)} and {short_number(largest * 4)} too"
        )
    return OK, f"a minimum between N = {short_number(smallest)} and {short_number(largest)}"


def _curvature(group: Points, noise: float | None) -> tuple[float, float]:
    """d2 loss / 2 d(ln N)2 by a parabola, and its standard error (0 where the noise is unknown)."""
    log_n = np.log(group.num_params)
    powers = np.vander(log_n - log_n.mean(), 3)
    weights = np.linalg.pinv(powers)[0]  # of each loss in the curvature
    error = (noise or 0.0) * group.loss.min() * np.linalg.norm(weights)
    return float(weights @ group.loss), float(error)
