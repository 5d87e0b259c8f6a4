"""The surfaces of many refits: one answer per draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.fitting.surface.solver import SHALLOWEST
from flops_fit.laws import Array, FlopRule, Law, finite_exp, optimal_num_params


@dataclass(frozen=True)
class SurfaceDraws:
    """The surfaces of many bootstrap refits as columns (draws,): one answer per draw."""

    E: Array
    log_A: Array
    log_B: Array
    alpha: Array
    beta: Array
    kappa: Array
    flop_rule: FlopRule

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        """Loss at N and D, one number per draw."""
        log_n, log_d = (np.log(np.asarray(v, dtype=float)) for v in (num_params, num_tokens))
        capacity = finite_exp(self.log_A - self.alpha * log_n)
        data = finite_exp(self.log_B + self.kappa * log_n - self.beta * log_d)
        return np.asarray(self.E + capacity + data)

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""
        capacity = finite_exp(self.log_A - self.alpha * np.log(num_params))
        left = np.asarray(loss) - self.E - capacity
        log_b = self.log_B + self.kappa * np.log(num_params)
        log_d = (log_b - np.log(np.where(left > 0, left, 1.0))) / self.beta
        return np.where(left > 0, finite_exp(log_d), np.inf)

    @property
    def data_exponent(self) -> Array:
        """beta + kappa, of a draw without a best size the least that has one."""
        return np.maximum(self.beta + self.kappa, SHALLOWEST)

    @property
    def a(self) -> Array:
        return self.beta / (self.alpha + self.data_exponent)

    @property
    def b(self) -> Array:
        return 1 - self.a

    @property
    def num_draws(self) -> int:
        return len(self.alpha)

    def N_opt(self, flops: ArrayLike) -> Array:
        return optimal_num_params(
            self.log_A, self.log_B, self.alpha, self.beta, flops, self.flop_rule, self.kappa
        )

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        num_params = self.N_opt(flops)
        return self(num_params, self.flop_rule.tokens(flops, num_params))

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""
        log_ratio = np.log(self.alpha / self.data_exponent) + self.log_A - self.log_B
        return {
            "E": self.E,
            "A": finite_exp(self.log_A),
            "B": finite_exp(self.log_B),
            "alpha": self.alpha,
            "beta": self.beta,
            "kappa": self.kappa,
            "a": self.a,
            "b": self.b,
            "G": finite_exp(log_ratio / (self.alpha + self.data_exponent)),
        }

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back with `from_columns`."""
        names = ("E", "log_A", "log_B", "alpha", "beta", "kappa")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], law: Law) -> SurfaceDraws:
        kappa = np.zeros(len(columns["alpha"]))  # of earlier versions
        return cls(**{"kappa": kappa, **columns}, flop_rule=law.flop_rule)
