"""The combination as it may as well be: other candidates, noise, and what grows with distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.fitting.combined.law import CombinedLaw, tokens_to_reach
from flops_fit.fitting.isoflop.loss_trend import LossTrend, TrendPosterior
from flops_fit.laws import Array, FlopRule, exponent_between

TREND = "trend:"
"""Prefix of the columns of the curves through the optima."""


@dataclass(frozen=True)
class CombinedDraws:
    """Answers of the combination, one per draw: each departs from those of `law` in two ways.

    By the candidate that is taken in place of all, whose number stands in `size_by` and `loss_by`;
    and by errors as large as the law says: standard normals `size_errors` and `loss_errors`, for
    the loss rather the curves `trends` over the law's own and the ln by which an optimum departs
    from its curve, where optima tell such curves. All are (draws,).
    """

    law: CombinedLaw
    size_by: NDArray[np.int64]
    loss_by: NDArray[np.int64]
    size_errors: Array
    loss_errors: Array
    trends: LossTrend | None

    @classmethod
    def of(cls, law: CombinedLaw, count: int, seed: int) -> CombinedDraws:
        generator = np.random.default_rng(seed)
        size_by = _picked(law.size_weights, count, generator)
        loss_by = _picked(law.loss_weights, count, generator)
        size_errors, loss_errors = generator.standard_normal((2, count))
        trends = None
        if isinstance(law.loss.errors, TrendPosterior):
            trends, loss_errors = law.loss.errors.draws(count, generator)
        return cls(law, size_by, loss_by, size_errors, loss_errors, trends)

    @property
    def flop_rule(self) -> FlopRule:
        return self.law.flop_rule

    @property
    def num_draws(self) -> int:
        return len(self.size_by)

    def N_opt(self, flops: ArrayLike) -> Array:
        width = self.law.size
        errors = np.sqrt(width.errors.variance(flops)) * self.size_errors
        spread = _taken(self.law.sizes(flops), self.size_by) / self.law.N_opt(flops)
        beyond = np.sqrt(width.factor) * (np.log(spread) + errors)
        return np.asarray(self.law.N_opt(flops) * np.exp(beyond))

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        width = self.law.loss
        spread = _taken(self.law.losses(flops), self.loss_by) / self.law.loss_opt(flops)
        beyond = np.sqrt(width.factor) * (np.log(spread) + self._loss_errors(flops))
        return np.asarray(self.law.loss_opt(flops) * np.exp(beyond))

    def _loss_errors(self, flops: ArrayLike) -> Array:
        errors = self.law.loss.errors
        if self.trends is None or not isinstance(errors, TrendPosterior):
            return np.asarray(np.sqrt(errors.variance(flops)) * self.loss_errors)
        return np.asarray(np.log(self.trends(flops) / errors.trend(flops)) + self.loss_errors)

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        """Loss of any size and length: each draw has its own height and its own optimum."""
        n = np.asarray(num_params, dtype=float)
        flops = self.flop_rule(n) * np.asarray(num_tokens, dtype=float)
        moved = n * self.law.N_opt(flops) / self.N_opt(flops)
        height = self.loss_opt(flops) / self.law.loss_opt(flops)
        return np.asarray(self.law(moved, self.flop_rule.tokens(flops, moved)) * height)

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""
        return tokens_to_reach(self, np.asarray(loss, dtype=float), num_params)

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""
        return {"a": exponent_between(self, *self.law.trained)}

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back with `from_columns`, beside the law."""
        names = ("size_by", "loss_by", "size_errors", "loss_errors")
        found: dict[str, Array] = {name: getattr(self, name) for name in names}
        trends = {} if self.trends is None else vars(self.trends)
        return found | {f"{TREND}{name}": np.asarray(v) for name, v in trends.items()}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], law: CombinedLaw) -> CombinedDraws:
        return cls(
            law=law,
            size_by=columns["size_by"].astype(np.int64),
            loss_by=columns["loss_by"].astype(np.int64),
            size_errors=columns["size_errors"],
            loss_errors=columns["loss_errors"],
            trends=_trends(columns),
        )


def _trends(columns: Mapping[str, Array]) -> LossTrend | None:
    """The curves through the optima, where there are such columns."""
    if f"{TREND}scale" not in columns:
        return None
    asymptote, drop, gamma, scale = (
        columns[f"{TREND}{name}"] for name in ("asymptote", "drop", "gamma", "scale")
    )
    return LossTrend(asymptote, drop, gamma, float(scale))


def _taken(said: Array, by: NDArray[np.int64]) -> Array:
    """What the candidate that each draw takes says, (draws,), of (candidates,) or one per draw."""
    return np.asarray(said[by] if said.ndim == 1 else said[by, np.arange(len(by))])


def _picked(weights: Array, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """A candidate's number for each draw, (count,), by their weights."""
    return generator.choice(len(weights), size=count, p=weights / sum(weights))
