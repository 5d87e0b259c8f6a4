"""Do the training curves of all sizes have one shape? If not, a rate may not suit them all.

Qiu et al. 2025 (arXiv 2507.02119): the curves of compute-optimal runs lie on one curve, as soon as
what is left of the loss is put in units of what is left at the end, if learning rates and schedules
suit every size. In their model of SGD noise a curve is

    L(x) - L(1) = R (S(x)^-b - 1) + R v h(x)

at the share x of the training: S(x) is the share of the summed learning rate that is spent, h(x)
the rate over its peak, R the reducible loss at the end, and v the noise that the rate keeps up, in
units of R: the noise share. At the rate that is best v is some number of its own, the same at all
sizes; it grows with the rate. R and v are fitted to each curve alone, so no irreducible loss is
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np

from flops_fit.files import plain
from flops_fit.fitting.noise import NORMAL_PER_MEDIAN
from flops_fit.laws import Array
from flops_fit.shown import short_flops

DESCENT = 0.5
"""b: exponent of the loss in the summed rate. 0.4 to 0.8 tell the same sweeps apart."""

FIRST_SHARE, WARM = 0.05, 0.95
"""A curve is looked at behind this share of the training, that of the shipped schedules' warm-up,
or behind a longer warm-up, up to `WARM` of the peak rate."""

WINDOW, GRID_POINTS = (0.2, 0.9), 15
"""Shares between which, and at how many of them, curves are compared with each other."""

FINE_POINTS = 4000
"""Shares, evenly spaced, at which the terms of the model are summed over a point's interval."""

FEWEST_POINTS = 8
"""Points that a curve must have behind `FIRST_SHARE`: four for each number that is fitted."""

FEWEST_STEPS = 400
"""Steps of a run below which its curve is mostly transient and noise."""

LEAST_DECAY = 0.5
"""Rate at the end over the peak from which noise and descent can't be told apart."""

LEAST_SHARE = 0.03
"""Noise share below which it is as good as none."""

LEAST_RANGE = 10.0
"""Largest budget over the smallest from which a trend with size is looked for."""

FEWEST_BUDGETS, FEWEST_FREEDOM = 3, 3
"""Degrees of freedom behind the scatter are curves less budgets."""

GROWTH = 0.25
"""d ln v / d ln C that a sweep with one well-chosen rate may show: with a fixed batch the noise
stays what it is while R falls. docs/collapse.md measures 0.2 to 0.3."""

MARGIN = 0.6
"""ln of the change of v from the smallest budget to the largest that is not worth a word."""

SURE = 0.80
"""Level at which a trend must differ from none."""

OFF = 6.0
"""Robust standard deviations from the others at which a single curve is off."""

LEAST_DEVIATION = 0.1
"""ln ratio to the others below which no single curve is off."""


@dataclass(frozen=True)
class Curve:
    """A run's training in k points: `share` of its tokens that is behind each, rising to 1, `loss`,
    its mean since the point before, and `rate`, the learning rate there; all (k,).

    `final` is its loss at the end in the same unit; `budget` in FLOPs.
    """

    id: str
    budget: float
    num_params: float
    share: Array
    loss: Array
    rate: Array
    final: float
    num_steps: int

    @property
    def is_usable(self) -> bool:
        """Whether it has steps and points enough, losses above 0, and a rate that decays."""
        late = int(np.sum(self.share > self.first_share))
        is_positive = self.final > 0 and bool(np.all(self.loss > 0))
        decays = bool(self.rate[-1] < LEAST_DECAY * self.rate.max())
        is_long = self.num_steps >= FEWEST_STEPS and late >= FEWEST_POINTS
        return is_long and is_positive and decays

    @property
    def first_share(self) -> float:
        """The share behind which the warm-up is over."""
        warm = self.share[np.argmax(self.rate >= WARM * self.rate.max())]
        return max(FIRST_SHARE, float(warm)) if warm > 2 * FIRST_SHARE else FIRST_SHARE


@dataclass(frozen=True)
class Shape:
    """What the model says of a curve: its reducible loss at the end, and its noise share."""

    reducible: float
    noise_share: float


@dataclass(frozen=True)
class OfRun:
    """One curve: its noise share; the mean over the window of ln(loss / loss at the end) less the
    median of the others; and that, less its trend with size, in robust standard deviations."""

    id: str
    budget: float
    num_params: float
    noise_share: float
    deviation: float
    score: float

    @property
    def is_off(self) -> bool:
        return abs(self.score) > OFF and abs(self.deviation) > LEAST_DEVIATION


@dataclass(frozen=True)
class Collapse:
    """How well training curves fall on one.

    `drift` is the change of ln(noise share) from the smallest budget to the largest, `stderr` its
    standard error on `freedom` degrees of freedom, and `allowed` the drifts that well-chosen rates
    show.
    """

    drift: float
    stderr: float
    freedom: int
    allowed: tuple[float, float]
    runs: tuple[OfRun, ...]

    @property
    def drifts(self) -> bool:
        """Whether the noise share changes more than with rates that suit all sizes."""
        from scipy.special import stdtrit  # a sixth of a second, for those who only read a law

        low, high = self.allowed
        bound = float(stdtrit(self.freedom, (1 + SURE) / 2)) * self.stderr
        return not low <= self.drift <= high and abs(self.drift) > bound

    @property
    def off(self) -> tuple[OfRun, ...]:
        """Single curves apart from all others."""
        return tuple(run for run in self.runs if run.is_off)

    @property
    def finding(self) -> str | None:
        """A sentence where curves don't fall on one, else None."""
        if self.drifts:
            return self._drift_in_words()
        if not self.off:
            return None
        names = ", ".join(f"{run.id} ({np.expm1(run.deviation):+.0%})" for run in self.off)
        return f"the training curves have one shape, but for {names}: look at metrics.jsonl there"

    def _drift_in_words(self) -> str:
        budgets = sorted({run.budget for run in self.runs})
        first, last = (
            max(float(np.mean([r.noise_share for r in self.runs if r.budget == c])), LEAST_SHARE)
            for c in (budgets[0], budgets[-1])
        )
        way, other = ("high", "half") if self.drift > 0 else ("low", "twice")
        return (
            f"the training curves don't have one shape: the noise that the learning rate keeps up "
            f"is {first:.2g} of the reducible loss at {short_flops(budgets[0])} FLOPs and "
            f"{last:.2g} at {short_flops(budgets[-1])}; the rate may be too {way} for the large "
            f"sizes: try {other} that there"
        )

    def to_json(self) -> dict[str, Any]:
        found = {"drifts": self.drifts, "off": [run.id for run in self.off]}
        return {**plain(vars(self)), **found, "finding": self.finding}


def collapse(curves: Sequence[Curve]) -> Collapse | None:
    """How well `curves` of runs near their budgets' optima fall on one.

    None where fewer than 3 budgets over a decade, or 3 curves more than budgets, can be used:
    curves of 400 steps or more whose learning rate at least halves towards the end and whose loss
    falls.
    """
    usable = [(curve, shape) for curve in curves if curve.is_usable and (shape := shape_of(curve))]
    budgets = np.array([curve.budget for curve, _ in usable])
    freedom = len(usable) - len(set(budgets))
    if len(set(budgets)) < FEWEST_BUDGETS or freedom < FEWEST_FREEDOM:
        return None
    if budgets.max() < LEAST_RANGE * budgets.min():
        return None
    shares = np.array([shape.noise_share for _, shape in usable])
    drift, stderr = _drift(budgets, shares)
    heights = np.stack([_height(curve) for curve, _ in usable])
    apart = _less_trend(np.log(budgets), heights.mean(axis=1))
    spread = NORMAL_PER_MEDIAN * float(np.median(np.abs(apart)))
    allowed = (-MARGIN, GROWTH * log(budgets.max() / budgets.min()) + MARGIN)
    runs = tuple(
        OfRun(
            c.id,
            c.budget,
            c.num_params,
            s.noise_share,
            float(d),
            float(r / spread) if spread else 0.0,
        )
        for (c, s), d, r in zip(usable, _from_the_others(heights), apart, strict=True)
    )
    return Collapse(drift, stderr, freedom, allowed, runs)


def shape_of(curve: Curve) -> Shape | None:
    """Least squares of the model on a curve behind its warm-up; None where it did not learn.

    A point's weight is one over the standard deviation of a mean over as many samples as it has.
    """
    start, end = np.concatenate([[0.0], curve.share[:-1]]), curve.share
    descent, rate = _terms(curve)
    late = end > curve.first_share
    columns = np.stack([_means(descent, start, end), _means(rate, start, end)], axis=1)[late]
    weights = (np.sqrt(end - start) / curve.loss)[late]
    left = (curve.loss - curve.final)[late]
    (reducible, noise), *_ = np.linalg.lstsq(columns * weights[:, None], left * weights, rcond=None)
    if reducible <= 0:
        return None
    return Shape(float(reducible), float(noise / reducible))


def _terms(curve: Curve) -> tuple[Array, Array]:
    """S^-b - 1 and h of the model at `FINE_POINTS` shares."""
    shares = (np.arange(FINE_POINTS) + 0.5) / FINE_POINTS
    rate = np.interp(shares, curve.share, curve.rate)
    spent = np.cumsum(rate) / rate.sum()
    return spent**-DESCENT - 1, rate / rate.max()


def _means(values: Array, start: Array, end: Array) -> Array:
    """Mean of `values` (FINE_POINTS,) over each interval of shares, (k,)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.minimum(np.floor(start * FINE_POINTS).astype(int), FINE_POINTS - 1)
    high = np.maximum(np.floor(end * FINE_POINTS).astype(int), low + 1)
    return np.asarray((sums[high] - sums[low]) / (high - low))


def _height(curve: Curve) -> Array:
    """ln(loss / loss at the end) at shares in the window, (GRID_POINTS,)."""
    middle = (np.concatenate([[0.0], curve.share[:-1]]) + curve.share) / 2
    ratio = np.log(curve.loss / curve.final)
    return np.interp(np.linspace(*WINDOW, GRID_POINTS), middle, ratio)


def _from_the_others(heights: Array) -> Array:
    """Mean over the window of each curve (n, k) less the median of all others, (n,)."""
    others = (np.median(np.delete(heights, i, axis=0), axis=0) for i in range(len(heights)))
    return np.array([float(np.mean(own - rest)) for own, rest in zip(heights, others, strict=True)])


def _drift(budgets: Array, shares: Array) -> tuple[float, float]:
    """Change of ln(mean noise share) along a line through the budgets, and its standard error.

    A single curve tells little of its noise share, and may say that there is none: means are taken
    before logarithms, and the scatter relative to them is one for all budgets.
    """
    distinct = np.unique(budgets)
    groups = [shares[budgets == budget] for budget in distinct]
    means = np.array([max(float(group.mean()), LEAST_SHARE) for group in groups])
    squares = sum(
        float(np.sum((group - group.mean()) ** 2)) / mean**2
        for group, mean in zip(groups, means, strict=True)
    )
    variance = squares / (len(shares) - len(groups))
    centred = np.log(distinct) - np.log(distinct).mean()
    weights = np.ptp(centred) * centred / float(centred @ centred)
    counts = np.array([len(group) for group in groups])
    return float(weights @ np.log(means)), float(np.sqrt(variance * np.sum(weights**2 / counts)))


def _less_trend(x: Array, y: Array) -> Array:
    """Residuals of the least-squares line, (n,)."""
    return np.asarray(y - np.polyval(np.polyfit(x, y, 1), x))
