"""Scaling laws as values: power laws, loss surfaces, and the rule that turns compute into tokens.

Letters follow Hoffmann et al. 2022 ("Chinchilla"): N parameters, D training tokens,
C training FLOPs, L loss in nats per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.settings.sweep import FLOPS_PER_PARAM_PER_TOKEN

Array = NDArray[np.float64]

FORWARD_SHARE = 1 / 3
"""The forward pass's share of the FLOPs to train on a token: 2 of 6."""

LARGEST_LOG = 300.0
"""ln of what is as good as infinite (1e130): an exponent of nearly 0 sends an optimum there, and
products of such numbers must stay finite."""


def finite_exp(log: ArrayLike) -> Array:
    """e^log, kept between e^-300 and e^300."""
    return np.asarray(np.exp(np.clip(log, -LARGEST_LOG, LARGEST_LOG)))


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent."""

    coefficient: float
    exponent: float

    @classmethod
    def through(cls, x: ArrayLike, y: ArrayLike) -> PowerLaw:
        """Ordinary least squares of ln y on ln x."""
        exponent, log_coefficient = np.polyfit(np.log(x), np.log(y), 1)
        return cls(float(np.exp(log_coefficient)), float(exponent))

    def __call__(self, x: ArrayLike) -> Array:
        return self.coefficient * np.asarray(x, dtype=float) ** self.exponent


@dataclass(frozen=True)
class FlopRule:
    """FLOPs per training token as a function of N, linear in (ln N, ln FLOPs) between knots.

    Beyond the outermost knots the FLOPs per parameter and token stay what they are there, so a
    rule with one knot is the usual constant: C = constant * N * D.
    """

    num_params: tuple[float, ...]
    flops_per_token: tuple[float, ...]

    def __post_init__(self) -> None:
        n, f = self.num_params, self.flops_per_token
        if not n or len(n) != len(f):
            raise ValueError(f"a FLOP rule needs as many N as FLOPs: got {len(n)} and {len(f)}")
        if any(b <= a for a, b in pairwise(n)):
            raise ValueError(f"the N of a FLOP rule must rise: got {n}")
        if not all(np.isfinite(x) and x > 0 for x in (*n, *f)):
            raise ValueError(f"N and FLOPs of a FLOP rule must be finite and positive: {n}, {f}")

    @classmethod
    def constant(cls, flops_per_param_per_token: float = FLOPS_PER_PARAM_PER_TOKEN) -> FlopRule:
        return cls((1.0,), (float(flops_per_param_per_token),))

    @property
    def is_constant(self) -> bool:
        return len(self.num_params) == 1

    @property
    def flops_per_param_per_token(self) -> float:
        """The constant of a constant rule, else its value at the largest N known."""
        return self.flops_per_token[-1] / self.num_params[-1]

    def __call__(self, num_params: ArrayLike) -> Array:
        """FLOPs per token, forward and backward, at each N."""
        n = np.asarray(num_params, dtype=float)
        knots = np.asarray(self.num_params)
        log_per_param = np.log(np.asarray(self.flops_per_token) / knots)
        per_param = np.exp(np.interp(np.log(n), np.log(knots), log_per_param))
        return np.asarray(n * per_param)

    def tokens(self, flops: ArrayLike, num_params: ArrayLike) -> Array:
        """D that spends `flops` at N."""
        return np.asarray(flops, dtype=float) / self(num_params)

    @property
    def segments(self) -> tuple[FlopSegment, ...]:
        """The power laws that make up the rule, from small to large N."""
        log_n, log_f = np.log(self.num_params), np.log(self.flops_per_token)
        edges = np.concatenate([[-np.inf], log_n, [np.inf]])
        slopes = np.concatenate([[1.0], np.diff(log_f) / np.diff(log_n), [1.0]])
        anchors = np.concatenate([[0], np.arange(len(log_n))])
        return tuple(
            FlopSegment(float(low), float(high), float(slope), float(log_f[k] - slope * log_n[k]))
            for low, high, slope, k in zip(edges, edges[1:], slopes, anchors, strict=False)
        )


@dataclass(frozen=True)
class FlopSegment:
    """ln FLOPs per token = log_coefficient + slope * ln N, for ln N from log_low to log_high."""

    log_low: float
    log_high: float
    slope: float
    log_coefficient: float


class Law(Protocol):
    """What every fitted law answers. All in FLOPs, parameters, tokens and nats per token."""

    @property
    def flop_rule(self) -> FlopRule: ...

    def N_opt(self, flops: ArrayLike) -> Array: ...

    def D_opt(self, flops: ArrayLike) -> Array: ...

    def loss_opt(self, flops: ArrayLike) -> Array: ...


class LawDraws(Protocol):
    """Many laws, each what a fit might as well have found: every answer has one number per draw.

    Answers are (draws,) for one C, or for as many C as there are draws.
    """

    @property
    def flop_rule(self) -> FlopRule: ...

    @property
    def num_draws(self) -> int: ...

    def N_opt(self, flops: ArrayLike) -> Array: ...

    def D_opt(self, flops: ArrayLike) -> Array: ...

    def loss_opt(self, flops: ArrayLike) -> Array: ...


def exponent_between(law: Law | LawDraws, low: float, high: float) -> Array:
    """d ln N_opt / d ln C between two budgets: one number, or one per draw."""
    return np.asarray(np.log(law.N_opt(high) / law.N_opt(low)) / np.log(high / low))


@dataclass(frozen=True)
class LossSurface:
    """L(N, D) = E + A / N^alpha + B N^kappa / D^beta (Hoffmann et al. 2022, section 3.3).

    Theirs has kappa = 0. Above it, larger models make less of the same data, which is what the 404
    runs of Farseer (Li et al. 2025, arXiv 2506.10972) show.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    kappa: float = 0.0

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        n, d = np.asarray(num_params, dtype=float), np.asarray(num_tokens, dtype=float)
        return self.E + self.A * n**-self.alpha + self.B * n**self.kappa * d**-self.beta

    @property
    def a(self) -> float:
        """Exponent of N_opt in C where C = constant * N * D."""
        return self.beta / (self.alpha + self.beta + self.kappa)

    @property
    def b(self) -> float:
        """Exponent of D_opt in C where C = constant * N * D."""
        return (self.alpha + self.kappa) / (self.alpha + self.beta + self.kappa)

    @property
    def G(self) -> float:
        """N_opt = G (C/constant)^a and D_opt = (C/constant)^b / G."""
        data_exponent = self.beta + self.kappa
        log_ratio = np.log(self.alpha / data_exponent) + np.log(self.A) - np.log(self.B)
        return float(finite_exp(log_ratio / (self.alpha + data_exponent)))

    def N_opt(self, flops: ArrayLike, rule: FlopRule) -> Array:
        """The N of least loss among all (N, D) that spend `flops` under `rule`."""
        log_a, log_b = np.log(self.A), np.log(self.B)
        return optimal_num_params(log_a, log_b, self.alpha, self.beta, flops, rule, self.kappa)

    def loss_opt(self, flops: ArrayLike, rule: FlopRule) -> Array:
        """The least loss that `flops` can buy under `rule`."""
        num_params = self.N_opt(flops, rule)
        return self(num_params, rule.tokens(flops, num_params))

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""
        left_for_data = np.asarray(loss) - self.E - self.A * num_params**-self.alpha
        with np.errstate(divide="ignore"):
            per_token = self.B * num_params**self.kappa
            tokens = (np.maximum(left_for_data, 0.0) / per_token) ** (-1.0 / self.beta)
        return np.asarray(tokens)


def optimal_num_params(
    log_A: ArrayLike,
    log_B: ArrayLike,
    alpha: ArrayLike,
    beta: ArrayLike,
    flops: ArrayLike,
    rule: FlopRule,
    kappa: ArrayLike = 0.0,
) -> Array:
    """argmin over N of A / N^alpha + B N^kappa / D^beta along rule(N) D = flops.

    Arguments broadcast.
    On a segment where rule(N) = c N^s the minimum has a closed form, with t = s beta + kappa
    N^(alpha + t) = (alpha A / t B) (C/c)^beta; the answer is the best of the segments' minima, each
    kept inside its segment. For a constant rule this is G (C/constant)^a.
    """
    log_a, log_b, alpha, beta = (np.asarray(v, dtype=float) for v in (log_A, log_B, alpha, beta))
    log_c = np.log(np.asarray(flops, dtype=float))
    minima, losses = [], []
    for segment in rule.segments:
        data_exponent = segment.slope * beta + kappa
        log_data = log_b - beta * (log_c - segment.log_coefficient)  # of B / D^beta at N = 1
        # Where FLOPs per token fall with N, larger is better up to the segment's end.
        rising = data_exponent > 0
        safe = np.where(rising, data_exponent, 1.0)
        free = (np.log(alpha / safe) + log_a - log_data) / (alpha + safe)
        log_n = np.clip(np.where(rising, free, np.inf), segment.log_low, segment.log_high)
        log_n = np.clip(log_n, -LARGEST_LOG, LARGEST_LOG)
        minima.append(log_n)
        losses.append(np.logaddexp(log_a - alpha * log_n, log_data + data_exponent * log_n))
    best = np.argmin(np.stack(losses), axis=0)
    return np.asarray(np.exp(np.take_along_axis(np.stack(minima), best[None], axis=0)[0]))
