"""The loss of runs that see their data more than once (Muennighoff et al. 2023, arXiv 2305.16264).

L = E + A / N'^alpha + B / D'^beta, where D' is what D tokens are worth of which only U are
different, and N' what N parameters are worth beyond the U_N that suit U tokens: each further time
counts less, by a factor of e per R* times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.laws import Array, FlopRule, finite_exp
from flops_fit.laws.prediction import last_where

LARGEST_LOG_SIZE = 42.0
"""ln N (1e18) up to which the best size is looked for, from 1 on."""

GRID = np.linspace(0.0, 1.0, 49)
"""Sizes tried between two, evenly spaced in logs; then again between the neighbours of the best."""

LARGEST_LOG_TOKENS = 70.0
"""ln D (1e30) up to which the tokens to reach a loss are looked for."""

NEARLY_WHOLE = -20.0
"""ln of the missing part of N' or D' below which its loss is linear in it, to rounding."""


def worth(amount: ArrayLike, unique: ArrayLike, reach: ArrayLike) -> Array:
    """What `amount` is worth of which `unique` are different: at most unique * (1 + reach)."""
    amount = np.asarray(amount, dtype=float)
    fresh = np.minimum(unique, amount)
    repeats = amount / fresh - 1
    return np.asarray(fresh * (1 - reach * np.expm1(-repeats / reach)))


def log_missing(amount: ArrayLike, unique: ArrayLike, whole: ArrayLike, reach: Array) -> Array:
    """ln of the share by which `worth` falls short of what `whole` different ones can be worth.

    Exact far beyond where `worth` no longer tells two amounts apart.
    """
    fresh = np.minimum(unique, amount)
    share = np.minimum(fresh / np.asarray(whole), 1.0)
    fading = np.log(reach / (1 + reach)) - (np.asarray(amount) / fresh - 1) / reach
    with np.errstate(divide="ignore"):
        return np.asarray(np.logaddexp(np.log1p(-share), np.log(share) + fading))


@dataclass(frozen=True)
class RepeatedSurface:
    """Its seven numbers, each one or a column (draws,)."""

    E: Array
    log_A: Array
    log_B: Array
    alpha: Array
    beta: Array
    R_D_star: Array
    R_N_star: Array

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike, unique: ArrayLike) -> Array:
        """Loss at N and D of which `unique` are different, nats per token."""
        unique = np.minimum(unique, num_tokens)
        sizes = worth(num_params, self.suited(unique), self.R_N_star)
        tokens = worth(num_tokens, unique, self.R_D_star)
        capacity = finite_exp(self.log_A - self.alpha * np.log(sizes))
        return np.asarray(self.E + capacity + finite_exp(self.log_B - self.beta * np.log(tokens)))

    def suited(self, unique: ArrayLike) -> Array:
        """U_N: the N that is compute-optimal where D = `unique`, none of it repeated, C ~ ND."""
        log_ratio = np.log(self.alpha / self.beta) + self.log_A - self.log_B
        return finite_exp((log_ratio + self.beta * np.log(unique)) / self.alpha)

    def log_excess(self, num_params: Array, num_tokens: Array, unique: float) -> Array:
        """ln of the loss above the least that `unique` tokens allow at any compute."""
        suited = self.suited(np.minimum(unique, num_tokens)), self.suited(unique)
        of_size = log_missing(num_params, *suited, self.R_N_star)
        of_data = log_missing(num_tokens, unique, unique, self.R_D_star)
        limits = self._limits(unique)
        return np.asarray(
            np.logaddexp(
                limits[0] + _log_rise(self.alpha, of_size),
                limits[1] + _log_rise(self.beta, of_data),
            )
        )

    def _limits(self, unique: float) -> tuple[Array, Array]:
        """ln of the terms of N and of D that are left at any compute."""
        largest = np.log(self.suited(unique)) + np.log1p(self.R_N_star)
        longest = np.log(unique) + np.log1p(self.R_D_star)
        return self.log_A - self.alpha * largest, self.log_B - self.beta * longest

    def best_size(self, flops: ArrayLike, unique: float, rule: FlopRule, zooms: int) -> Array:
        """N of the least loss at `flops`: one each, or one per draw."""
        flops = np.asarray(flops, dtype=float)

        def excess(log_n: Array) -> Array:
            sizes = np.exp(log_n)
            return self.log_excess(sizes, rule.tokens(flops, sizes), unique)

        shape = np.broadcast_shapes(flops.shape, np.shape(self.E))
        return np.asarray(np.exp(_lowest(excess, shape, zooms)))

    def tokens_to_reach(self, loss: ArrayLike, num_params: float, unique: float) -> Array:
        """D at which a model of N reaches `loss`; inf where no number of repeats gets it there."""

        loss = np.asarray(loss, dtype=float)

        def is_above(log_d: Array) -> NDArray[np.bool_]:
            return np.asarray(self(num_params, np.exp(log_d), unique) > loss)

        last = np.full(np.broadcast_shapes(loss.shape, np.shape(self.E)), LARGEST_LOG_TOKENS)
        found = np.exp(last_where(is_above, np.zeros(last.shape), last))
        return np.asarray(np.where(is_above(last), np.inf, found))


def log_loss_jacobian(
    surface: RepeatedSurface, num_params: Array, num_tokens: Array, unique: Array
) -> Array:
    """d ln loss / d (ln E, ln A, ln B, ln alpha, ln beta, ln R_D*, ln R_N*), (n, 7)."""
    s, unique = surface, np.minimum(unique, num_tokens)
    suited = s.suited(unique)
    sizes, by_suited, by_reach_n = _worth_and_slopes(num_params, suited, s.R_N_star)
    tokens, _, by_reach_d = _worth_and_slopes(num_tokens, unique, s.R_D_star)
    capacity = finite_exp(s.log_A - s.alpha * np.log(sizes))
    data = finite_exp(s.log_B - s.beta * np.log(tokens))
    through = capacity * by_suited  # what moves the loss by way of U_N
    columns = [
        s.E * np.ones_like(capacity),
        capacity - through,
        data + through,
        -s.alpha * capacity * np.log(sizes) - through * (1 - s.alpha * np.log(suited)),
        -s.beta * data * np.log(tokens) + through * (1 - s.beta * np.log(unique)),
        -s.beta * data * by_reach_d,
        -s.alpha * capacity * by_reach_n,
    ]
    return np.asarray(np.stack(columns, axis=1) / (s.E + capacity + data)[:, None])


def _worth_and_slopes(amount: Array, unique: Array, reach: Array) -> tuple[Array, Array, Array]:
    """`worth`, and d ln of it / d ln unique and / d ln reach; 0 where nothing is repeated."""
    fresh = np.minimum(unique, amount)
    repeats = (amount / fresh - 1) / reach
    value, left = fresh * (1 - reach * np.expm1(-repeats)), np.exp(-repeats)
    return value, 1 - left * amount / value, fresh * reach * (1 - left * (1 + repeats)) / value


def _log_rise(exponent: Array, missing: Array) -> Array:
    """ln of (1 - m)^-exponent - 1, where `missing` is ln m."""
    with np.errstate(divide="ignore", over="ignore"):
        rise = np.log(np.expm1(-exponent * np.log1p(-np.exp(missing))))
    return np.asarray(np.where(missing < NEARLY_WHOLE, np.log(exponent) + missing, rise))


def _lowest(value: Callable[[Array], Array], shape: tuple[int, ...], zooms: int) -> Array:
    """ln N of the least `value`, of this shape, to 42 / 24^zooms."""
    low, high = np.zeros(shape), np.full(shape, LARGEST_LOG_SIZE)
    grid = GRID.reshape(-1, *(1,) * len(shape))
    for _ in range(zooms):
        tried = low + (high - low) * grid
        best = np.take_along_axis(tried, value(tried).argmin(axis=0)[None], axis=0)[0]
        step = (high - low) * GRID[1]
        low, high = np.maximum(best - step, low), np.minimum(best + step, high)
    return np.asarray((low + high) / 2)
