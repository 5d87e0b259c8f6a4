"""The best loss of each budget as a function of compute: L(C) = L0 + K / C^gamma.

Where it is heading lies in L0, and a sweep over one or two decades hardly tells it: a curve through
the optima that is free to choose errs to either side, by 14% at ten times the largest budget in
one of ten published sweeps. What published laws have in common is the share of L0 in the least loss
that was measured. So L0 has a prior; so has the distance that optima keep from any such curve, and
that distance grows with age: recipes are tuned at the largest budgets, and small ones have few
steps. All figures: docs/forecasts.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.fitting.errors import FitError
from flops_fit.laws import Array
from flops_fit.records import read_as

SHARES = np.linspace(0.02, 0.98, 49)
"""L0 over the least loss, tried."""

SHARE, SHARE_SPREAD = 0.73, 0.08
"""Mean and standard deviation of that share. Of the surfaces of Hoffmann et al. 2022, Besiroglu et
al. 2024 and Muennighoff et al. 2023 it is 0.57 to 0.63 at 1e19 FLOPs, 0.76 to 0.83 at 3e21."""

OTHER_KIND = 0.05
"""Prior probability that this is a loss of another kind (an error rate, a squared error), of whose
L0 nothing is known."""

DEPARTURE, DEPARTURE_FREEDOM = 0.0025, 4.0
"""Relative standard deviation of a newest optimum from the curve, and on how many degrees of
freedom that rests."""

AGE = 0.7
"""ln C: optima older than the newest by that much (a factor of 2) depart twice as far, by twice
that much three times as far."""

SLOWEST = 1e-3
"""Least gamma of a draw: a loss that doesn't fall with compute is no trend."""


@dataclass(frozen=True)
class LossTrend:
    """L(C) = asymptote + drop * (C / scale)^-gamma. Numbers, or columns (draws,) of many fits."""

    asymptote: Array
    drop: Array
    gamma: Array
    scale: float

    def __call__(self, flops: ArrayLike) -> Array:
        return self.asymptote + self.drop * (np.asarray(flops, dtype=float) / self.scale) ** -(
            self.gamma
        )

    def to_json(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.__dict__.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, float]) -> LossTrend:
        return read_as(cls, data)


@dataclass(frozen=True)
class TrendPosterior:
    """What optima (budgets,) at FLOPs (budgets,) say of L(C), given what published sweeps say.

    `asymptote` pins L0, None leaves it to the prior and the data. `noise` is the relative standard
    deviation of one optimum's loss by the noise of its runs. For each L0 the line of ln(L - L0) on
    ln C is a linear problem; its errors are those of ln L, in which the prior of the line is flat.
    """

    flops: Array
    loss: Array
    asymptote: float | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.asymptote is not None and not self.asymptote < self.loss.min():
            raise FitError(
                f"the asymptote is pinned at {self.asymptote:g}, and a loss of "
                f"{self.loss.min():.4g} was reached",
                "pin it below every loss, or leave it to the fit (asymptote=null)",
            )

    @cached_property
    def floors(self) -> Array:
        """The values of L0 that are tried, (G,)."""
        if self.asymptote is not None:
            return np.array([self.asymptote])
        return np.asarray(SHARES * self.loss.min())

    @property
    def scale(self) -> float:
        """FLOPs of the newest optimum."""
        return float(self.flops.max())

    @property
    def freedom(self) -> float:
        return DEPARTURE_FREEDOM + max(len(self.flops) - 2, 0)

    @cached_property
    def lines(self) -> Lines:
        return Lines.through(np.log(self.flops / self.scale), self.loss, self.floors)

    @cached_property
    def departures(self) -> Array:
        """Squared relative departure of a newest optimum, for each L0 (G,)."""
        prior = DEPARTURE_FREEDOM * (DEPARTURE**2 + self.noise**2)
        return np.asarray((prior + self.lines.misfit) / self.freedom)

    @cached_property
    def weights(self) -> Array:
        """Posterior probability of each L0, (G,)."""
        log_prior = np.log(_prior(self.floors / self.loss.min()))
        log_weight = log_prior - self.freedom / 2 * np.log(self.departures)
        weight = np.exp(log_weight - log_weight.max())
        return np.asarray(weight / weight.sum())

    @cached_property
    def trend(self) -> LossTrend:
        """The curve at the mean L0."""
        floor = float(self.weights @ self.floors)
        lines = Lines.through(np.log(self.flops / self.scale), self.loss, np.array([floor]))
        gamma = max(float(-lines.slope[0]), 0.0)
        return LossTrend(np.array(floor), np.exp(lines.level[0]), np.array(gamma), self.scale)

    def variance(self, flops: ArrayLike) -> Array:
        """Of ln of the loss that an optimum at `flops` (n,) will show."""
        log_c, line = self._lines_at(flops)
        loss = self.floors[:, None] + np.exp(line)
        spread = self.departures[:, None] * self.freedom / (self.freedom - 2)
        within = spread * ((np.exp(line) / loss) ** 2 * self.lines.variance(log_c) + 1)
        between = np.log(loss) - self.weights @ np.log(loss)
        return np.asarray(self.weights @ (within + between**2))

    def noise_variance(self, flops: ArrayLike) -> Array:
        """The part of it that the noise of the runs makes, through the height of the curve."""
        log_c, line = self._lines_at(flops)
        share = np.exp(line) / (self.floors[:, None] + np.exp(line))
        return np.asarray(self.weights @ (self.noise**2 * share**2 * self.lines.variance(log_c)))

    def _lines_at(self, flops: ArrayLike) -> tuple[Array, Array]:
        """ln C (n,) over the newest, and ln(L - L0) there by each line, (G, n)."""
        log_c = np.log(np.atleast_1d(np.asarray(flops, dtype=float)) / self.scale)
        return log_c, self.lines.level[:, None] + self.lines.slope[:, None] * log_c

    def to_json(self) -> dict[str, Any]:
        """What it follows from."""
        return {
            "flops": self.flops.tolist(),
            "loss": self.loss.tolist(),
            "asymptote": self.asymptote,
            "noise": self.noise,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrendPosterior:
        return read_as(cls, data)

    def draws(self, count: int, generator: np.random.Generator) -> tuple[LossTrend, Array]:
        """Curves as they may as well be, (count,), and the ln by which an optimum departs."""
        chosen = generator.choice(len(self.floors), size=count, p=self.weights)
        squares = generator.chisquare(self.freedom, count) / self.freedom
        spread = np.sqrt(self.departures[chosen] / squares)
        level, slope = self.lines.scattered(chosen, spread, generator)
        trend = LossTrend(
            self.floors[chosen], np.exp(level), np.maximum(-slope, SLOWEST), self.scale
        )
        return trend, spread * generator.standard_normal(count)


@dataclass(frozen=True)
class Lines:
    """ln(L - L0) = level + slope * ln(C / newest) by least squares for each L0, (G,) each.

    A squared error is that of ln L over the relative variance of an optimum of its age; `misfit`
    is their sum. `information` are the entries (level, both, slope) of the inverse covariance.
    """

    level: Array
    slope: Array
    misfit: Array
    information: tuple[Array, Array, Array]

    @classmethod
    def through(cls, log_c: Array, loss: Array, floors: Array) -> Lines:
        """`log_c` and `loss` are (budgets,), `log_c` less that of the newest; `floors` (G,)."""
        aged = 1 - log_c / AGE
        rest = loss - floors[:, None]  # (G, budgets)
        y, share = np.log(rest), rest / loss
        weight = (share / aged) ** 2
        ones, sums, squares = weight.sum(axis=1), weight @ log_c, weight @ log_c**2
        right, tilted = (weight * y).sum(axis=1), (weight * y) @ log_c
        determinant = ones * squares - sums**2
        level = (squares * right - sums * tilted) / determinant
        slope = (ones * tilted - sums * right) / determinant
        residual = y - level[:, None] - slope[:, None] * log_c
        misfit = (weight * residual**2).sum(axis=1)
        return cls(level, slope, misfit, (ones, sums, squares))

    @property
    def determinant(self) -> Array:
        ones, sums, squares = self.information
        return np.asarray(ones * squares - sums**2)

    def variance(self, log_c: Array) -> Array:
        """Of the line's height at ln C (n,) over the newest, in units of an error's, (G, n)."""
        ones, sums, squares = (entry[:, None] for entry in self.information)
        return np.asarray(
            (squares - 2 * sums * log_c + ones * log_c**2) / self.determinant[:, None]
        )

    def scattered(
        self, chosen: NDArray[np.int64], spread: Array, generator: np.random.Generator
    ) -> tuple[Array, Array]:
        """Levels and slopes of the `chosen` lines as errors of size `spread` let them be."""
        ones, sums, _ = (entry[chosen] for entry in self.information)
        first, second = spread * generator.standard_normal((2, len(chosen)))
        tilt = second * np.sqrt(ones / self.determinant[chosen])
        return (
            self.level[chosen] + first / np.sqrt(ones) - tilt * sums / ones,
            self.slope[chosen] + tilt,
        )


def _prior(share: Array) -> Array:
    """Of each share, up to a factor."""
    common = np.exp(-0.5 * ((share - SHARE) / SHARE_SPREAD) ** 2) / SHARE_SPREAD
    return np.asarray((1 - OTHER_KIND) * common / np.sqrt(2 * np.pi) + OTHER_KIND)
