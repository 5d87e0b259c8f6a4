"""The line through the budgets' minima as a law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from flops_fit.fitting.isoflop.loss_trend import LossTrend
from flops_fit.fitting.isoflop.optima import BudgetOptimum, budgets_from_json
from flops_fit.laws import Array, FlopRule, PowerLaw
from flops_fit.records import numbers_in, of_type


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
        """All but the budgets and the FLOP rule, which stand for themselves in law.json."""
        return {
            "a": self.a,
            "b": self.b,
            "N_coefficient": self.N_coefficient,
            "trend": self.trend.to_json(),
            "noise": self.noise,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], rule: FlopRule) -> IsoflopLaw:
        """The law of a section of law.json, which has the budgets too."""
        numbers = numbers_in(data, "N_coefficient", "a", "b")
        return cls(
            line=PowerLaw(numbers["N_coefficient"], numbers["a"]),
            b=numbers["b"],
            trend=LossTrend.from_json(data["trend"]),
            budgets=budgets_from_json(data),
            flop_rule=rule,
            noise=of_type(float | None, data["noise"], "noise"),
        )
