"""The best loss of each budget as a function of compute: L(C) = L0 + K / C^gamma."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.laws import Array

GAMMA_GRID = np.geomspace(5e-3, 1.0, 60)
"""Exponents tried before the polish. Published L(C) fall with exponents of 0.05 to 0.2."""

GOLDEN = (np.sqrt(5.0) - 1) / 2
POLISH_STEPS = 60
"""Golden-section steps: 0.618^60 of a bracket of 20% is far below double precision of gamma."""

FEWEST_BUDGETS_FOR_ASYMPTOTE = 4
"""Below it three numbers would run exactly through the optima: L0 is then unknown."""

UNKNOWN_SHARE = 0.5
"""Share of the lowest loss that is taken for L0 where it is unknown: the middle of what it may be.
(0, the usual choice, is the one value that no published surface has, and puts the loss too low
everywhere beyond.)"""


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
        asymptote, drop, gamma = (np.array(data[k]) for k in ("asymptote", "drop", "gamma"))
        return cls(asymptote, drop, gamma, data["scale"])


def fit_loss_trend(
    flops: Array, loss: Array, asymptote: float | None, unknown_share: ArrayLike = UNKNOWN_SHARE
) -> LossTrend:
    """Least squares of relative error through (budgets,) or (budgets, draws) losses.

    `asymptote` pins L0; None fits it where there are at least 4 budgets. Below, L0 is
    `unknown_share` (from 0 to 1, one or one per draw) of the lowest loss.
    """
    scale = float(np.exp(np.mean(np.log(flops))))
    log_c = np.log(flops / scale)
    losses = loss.reshape(len(flops), -1)
    pinned = None if asymptote is None else np.asarray(asymptote)
    if pinned is None and len(flops) < FEWEST_BUDGETS_FOR_ASYMPTOTE:
        pinned = unknown_share * losses.min(axis=0)
    errors = np.stack([_projected(log_c, losses, np.array(g), pinned)[2] for g in GAMMA_GRID])
    best = np.clip(np.argmin(errors, axis=0), 1, len(GAMMA_GRID) - 2)
    gamma = _golden_section(
        lambda g: _projected(log_c, losses, g, pinned)[2],
        GAMMA_GRID[best - 1],
        GAMMA_GRID[best + 1],
    )
    level, drop, _ = _projected(log_c, losses, gamma, pinned)
    shape = loss.shape[1:]
    return LossTrend(level.reshape(shape), drop.reshape(shape), gamma.reshape(shape), scale)


def _projected(
    log_c: Array, losses: Array, gamma: Array, asymptote: Array | None
) -> tuple[Array, Array, Array]:
    """L0, K >= 0 of least relative error for given exponents, and that error; all (draws,)."""
    shape = losses.shape[1:]
    decay = np.exp(-np.broadcast_to(gamma, shape) * log_c[:, None]) / losses  # (budgets, draws)
    level, one = 1.0 / losses, np.ones_like(losses)
    if asymptote is None:
        s_ll, s_ld, s_dd = (
            np.sum(u * v, axis=0) for u, v in ((level, level), (level, decay), (decay, decay))
        )
        determinant = s_ll * s_dd - s_ld**2
        fitted = (s_dd * level.sum(axis=0) - s_ld * decay.sum(axis=0)) / determinant
        floor = np.maximum(fitted, 0.0)
    else:
        floor = np.broadcast_to(asymptote, shape)
    rest = one - floor * level
    drop = np.maximum(np.sum(rest * decay, axis=0) / np.sum(decay**2, axis=0), 0.0)
    return floor, drop, np.sum((rest - drop * decay) ** 2, axis=0)


def _golden_section(error: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """argmin of `error` between `low` and `high`, for every draw at once."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    for _ in range(POLISH_STEPS):
        go_left = error(left) < error(right)
        low, high = np.where(go_left, low, left), np.where(go_left, right, high)
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    return (low + high) / 2
