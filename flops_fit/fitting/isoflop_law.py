"""A line through the budgets' minima as a law, and the lines of its bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.fitting.loss_trend import LossTrend
from flops_fit.fitting.optima import BudgetOptimum
from flops_fit.laws import Array, FlopRule, PowerLaw, finite_exp


@dataclass(frozen=True)
class IsoflopLaw:
    """N_opt = N_coefficient * C^a through the bracketed optima; D_opt by the FLOP rule.

    `b` is the exponent of those D_opt, 1 - a under a constant rule. `noise` is the relative
    standard deviation of one loss, None where nothing tells it.
    """

    line: PowerLaw
    b: float
    trend: LossTrend
    budgets: tuple[BudgetOptimum, ...]
    flop_rule: FlopRule
    noise: float | None

    @property
    def a(self) -> float:
        return self.line.exponent

    @property
    def N_coefficient(self) -> float:
        return self.line.coefficient

    def N_opt(self, flops: ArrayLike) -> Array:
        return self.line(flops)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return self.trend(flops)

    def to_json(self) -> dict[str, Any]:
        """All but budgets and FLOP rule, which stand for themselves in law.json."""
        return {
            "a": self.a,
            "b": self.b,
            "N_coefficient": self.N_coefficient,
            "trend": self.trend.to_json(),
            "noise": self.noise,
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], budgets: tuple[BudgetOptimum, ...], rule: FlopRule
    ) -> IsoflopLaw:
        return cls(
            line=PowerLaw(data["N_coefficient"], data["a"]),
            b=data["b"],
            trend=LossTrend.from_json(data["trend"]),
            budgets=budgets,
            flop_rule=rule,
            noise=data["noise"],
        )


@dataclass(frozen=True)
class IsoflopDraws:
    """Lines and trends of many noise draws as columns (draws,): one answer per draw.

    `scatter` (1 or more) is how much wider the optima scatter about the line than the noise of
    their curves explains; the draws are widened by it (Birge's ratio).
    """

    log_coefficient: Array
    a: Array
    b: Array
    trend: LossTrend
    flop_rule: FlopRule
    scatter: float

    def N_opt(self, flops: ArrayLike) -> Array:
        log_c = np.log(np.asarray(flops, dtype=float))
        return finite_exp(self.log_coefficient + self.a * log_c)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return self.trend(flops)

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""
        return {"a": self.a, "b": self.b, "N_coefficient": finite_exp(self.log_coefficient)}

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back with `from_columns`."""
        return {
            "log_coefficient": self.log_coefficient,
            "a": self.a,
            "b": self.b,
            "scatter": np.array(self.scatter),
            **{f"trend_{name}": np.asarray(v) for name, v in self.trend.__dict__.items()},
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], rule: FlopRule) -> IsoflopDraws:
        c = columns
        trend = LossTrend(
            c["trend_asymptote"], c["trend_drop"], c["trend_gamma"], float(c["trend_scale"])
        )
        return cls(c["log_coefficient"], c["a"], c["b"], trend, rule, float(c["scatter"]))
