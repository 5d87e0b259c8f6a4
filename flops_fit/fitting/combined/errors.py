"""How far the combination may err, as a function of compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.files import plain
from flops_fit.fitting.combined.backtests import Targets
from flops_fit.fitting.isoflop.loss_trend import TrendPosterior
from flops_fit.laws import Array
from flops_fit.records import read_as

SIZE_FLOOR, SIZE_GROWTH = 0.05, 0.05
"""Standard deviation of ln N of published optima about a straight line, and per e-fold beyond."""

LOSS_FLOOR, LOSS_GROWTH = 0.0025, 0.006
"""The same of ln loss where there are no optima to draw a curve through."""


@dataclass(frozen=True)
class LineErrors:
    """Of ln of a forecast: those of a straight line through optima, and what grows with distance.

    `noise` is the standard deviation of one optimum by the noise of its runs, `count` how many
    there are, `centre` and `spread` the mean and the summed squares of their ln C, `newest` FLOPs.
    `floor` and `growth` (per e-fold beyond the newest) are what published optima keep from a line.
    """

    noise: float
    count: int
    centre: float
    spread: float
    newest: float
    floor: float
    growth: float

    def variance(self, flops: ArrayLike) -> Array:
        """At `flops` (n,), beside the spread of the candidates."""
        beyond = np.maximum(np.log(np.asarray(flops, dtype=float) / self.newest), 0.0)
        grown = self.floor**2 + (self.growth * beyond) ** 2
        return np.asarray(grown + self.noise_variance(flops))

    def noise_variance(self, flops: ArrayLike) -> Array:
        """The part of it that comes of the noise of the runs."""
        off = np.log(np.asarray(flops, dtype=float)) - self.centre
        leverage = 1 / self.count + (off**2 / self.spread if self.spread else 0.0 * off)
        return np.asarray(self.noise**2 * leverage)


def size_errors(targets: Targets) -> LineErrors:
    """Of ln N_opt."""
    return _line(targets, targets.size_noise, SIZE_FLOOR, SIZE_GROWTH)


def loss_errors(targets: Targets) -> TrendPosterior | LineErrors:
    """Of ln loss: by the curve through optima, or for single rows as published tables show it."""
    if targets.num_tokens is not None:
        return _line(targets, targets.loss_noise, LOSS_FLOOR, LOSS_GROWTH)
    noise = float(np.sqrt(np.mean(targets.loss_noise**2)))
    return TrendPosterior(targets.flops, np.exp(targets.log_loss), noise=noise)


def _line(targets: Targets, noise: Array, floor: float, growth: float) -> LineErrors:
    log_c = np.log(targets.flops)
    return LineErrors(
        noise=float(np.sqrt(np.mean(noise**2))),
        count=len(targets),
        centre=float(log_c.mean()),
        spread=float(((log_c - log_c.mean()) ** 2).sum()),
        newest=float(targets.flops.max()),
        floor=floor,
        growth=growth,
    )


def errors_to_json(errors: TrendPosterior | LineErrors) -> dict[str, Any]:
    return errors.to_json() if isinstance(errors, TrendPosterior) else plain(vars(errors))


def errors_from_json(data: Mapping[str, Any]) -> TrendPosterior | LineErrors:
    return TrendPosterior.from_json(data) if "loss" in data else read_as(LineErrors, data)
