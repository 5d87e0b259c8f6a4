"""The lines and loss trends of many noise draws: one answer per draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.fitting.isoflop.loss_trend import LossTrend
from flops_fit.laws import Array, FlopRule, Law, finite_exp


@dataclass(frozen=True)
class IsoflopDraws:
    """Lines and trends of many noise draws as columns (draws,): one answer per draw.

    `departure` is the ln by which the loss of a measured optimum departs from the trend.
    `scatter` (1 or more) is how much wider the optima scatter about the line than the noise of
    their curves explains; the draws are widened by it (Birge's ratio).
    """

    log_coefficient: Array
    a: Array
    b: Array
    trend: LossTrend
    departure: Array
    flop_rule: FlopRule
    scatter: float

    @property
    def num_draws(self) -> int:
        return len(self.a)

    def N_opt(self, flops: ArrayLike) -> Array:
        log_c = np.log(np.asarray(flops, dtype=float))
        return finite_exp(self.log_coefficient + self.a * log_c)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return np.asarray(self.trend(flops) * np.exp(self.departure))

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""
        return {"a": self.a, "b": self.b, "N_coefficient": finite_exp(self.log_coefficient)}

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back with `from_columns`."""
        return {
            "log_coefficient": self.log_coefficient,
            "a": self.a,
            "b": self.b,
            "departure": self.departure,
            "scatter": np.array(self.scatter),
            **{f"trend_{name}": np.asarray(v) for name, v in self.trend.__dict__.items()},
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], law: Law) -> IsoflopDraws:
        c = columns
        trend = LossTrend(
            c["trend_asymptote"], c["trend_drop"], c["trend_gamma"], float(c["trend_scale"])
        )
        departure = c.get("departure", np.zeros(1))  # earlier versions had none
        return cls(
            c["log_coefficient"],
            c["a"],
            c["b"],
            trend,
            departure,
            law.flop_rule,
            float(c["scatter"]),
        )
