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

Array = NDArray[np.float64]

FLOPS_PER_PARAM_PER_TOKEN = 6.0
"""FLOPs to train one weight on one token: a multiply and an add forward (2), and twice that
backward (4), once for the gradient of the input and once for the gradient of the weight
(Kaplan et al. 2020, section 2.1)."""


@dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent."""

    coefficient: float
    exponent: float

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
        return n * np.exp(np.interp(np.log(n), np.log(knots), log_per_param))

    def tokens(self, flops: ArrayLike, num_params: ArrayLike) -> Array:
        """D that spends `flops` at N."""
        return np.asarray(flops, dtype=float) / self(num_params)


class Law(Protocol):
    """What every fitted law answers. All in FLOPs, parameters, tokens and nats per token."""

    @property
    def flop_rule(self) -> FlopRule: ...

    def N_opt(self, flops: ArrayLike) -> Array: ...

    def D_opt(self, flops: ArrayLike) -> Array: ...

    def loss_opt(self, flops: ArrayLike) -> Array: ...


@dataclass(frozen=True)
class LossSurface:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, section 3.3)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        n, d = np.asarray(num_params, dtype=float), np.asarray(num_tokens, dtype=float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    @property
    def a(self) -> float:
        """Exponent of N_opt in C where C = constant * N * D."""
        return self.beta / (self.alpha + self.beta)

    @property
    def b(self) -> float:
        """Exponent of D_opt in C where C = constant * N * D."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def G(self) -> float:
        """N_opt = G (C/constant)^a and D_opt = (C/constant)^b / G."""
        ratio = (self.alpha * self.A) / (self.beta * self.B)
        return float(ratio ** (1.0 / (self.alpha + self.beta)))
