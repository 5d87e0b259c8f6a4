"""A fitted loss surface as a law, and the surfaces of its bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.fitting.objectives import Objective, objective_named
from flops_fit.laws import Array, FlopRule, LossSurface, finite_exp, optimal_num_params


@dataclass(frozen=True)
class SurfaceLaw:
    """The optimum of a fitted surface under a FLOP rule, and how the fit ended.

    `value` is the summed (never averaged) objective at the optimum.
    """

    surface: LossSurface
    flop_rule: FlopRule
    objective: Objective
    value: float
    start_agreement: float  # share of polished starts that ended at this optimum
    promised_decrease: float  # of one more Newton step, relative to `value`
    at_bounds: tuple[str, ...] = ()  # which of E, A, B, alpha, beta ended at a limit

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        return self.surface(num_params, num_tokens)

    def tokens_to_reach(self, loss: float, num_params: float) -> float:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""
        num_tokens = self.surface.tokens_to_reach(loss, num_params)
        return np.inf if num_tokens is None else num_tokens

    @property
    def a(self) -> float:
        return self.surface.a

    def N_opt(self, flops: ArrayLike) -> Array:
        return self.surface.N_opt(flops, self.flop_rule)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return self.surface.loss_opt(flops, self.flop_rule)

    def to_json(self) -> dict[str, Any]:
        """All but the FLOP rule, which stands for itself in law.json."""
        surface = self.surface
        return {
            "objective": self.objective.name,
            "delta": self.objective.delta,
            "value": self.value,
            **surface.__dict__,
            "a": surface.a,
            "b": surface.b,
            "G": surface.G,
            "start_agreement": self.start_agreement,
            "promised_decrease": self.promised_decrease,
            "at_bounds": list(self.at_bounds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], rule: FlopRule) -> SurfaceLaw:
        return cls(
            surface=LossSurface(**{k: data[k] for k in ("E", "A", "B", "alpha", "beta")}),
            flop_rule=rule,
            objective=objective_named(data["objective"], data["delta"]),
            value=data["value"],
            start_agreement=data["start_agreement"],
            promised_decrease=data["promised_decrease"],
            at_bounds=tuple(data["at_bounds"]),
        )


@dataclass(frozen=True)
class SurfaceDraws:
    """The surfaces of many bootstrap refits as columns (draws,): one answer per draw."""

    E: Array
    log_A: Array
    log_B: Array
    alpha: Array
    beta: Array
    flop_rule: FlopRule

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        """Loss at N and D, one number per draw."""
        log_n, log_d = (np.log(np.asarray(v, dtype=float)) for v in (num_params, num_tokens))
        capacity = finite_exp(self.log_A - self.alpha * log_n)
        return np.asarray(self.E + capacity + finite_exp(self.log_B - self.beta * log_d))

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""
        capacity = finite_exp(self.log_A - self.alpha * np.log(num_params))
        left = np.asarray(loss) - self.E - capacity
        log_d = (self.log_B - np.log(np.where(left > 0, left, 1.0))) / self.beta
        return np.where(left > 0, finite_exp(log_d), np.inf)

    @property
    def a(self) -> Array:
        return self.beta / (self.alpha + self.beta)

    @property
    def b(self) -> Array:
        return self.alpha / (self.alpha + self.beta)

    def N_opt(self, flops: ArrayLike) -> Array:
        return optimal_num_params(
            self.log_A, self.log_B, self.alpha, self.beta, flops, self.flop_rule
        )

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        num_params = self.N_opt(flops)
        return self(num_params, self.flop_rule.tokens(flops, num_params))

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""
        log_ratio = np.log(self.alpha / self.beta) + self.log_A - self.log_B
        return {
            "E": self.E,
            "A": finite_exp(self.log_A),
            "B": finite_exp(self.log_B),
            "alpha": self.alpha,
            "beta": self.beta,
            "a": self.a,
            "b": self.b,
            "G": finite_exp(log_ratio / (self.alpha + self.beta)),
        }

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back with `from_columns`."""
        return {name: getattr(self, name) for name in ("E", "log_A", "log_B", "alpha", "beta")}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], rule: FlopRule) -> SurfaceDraws:
        return cls(**columns, flop_rule=rule)
