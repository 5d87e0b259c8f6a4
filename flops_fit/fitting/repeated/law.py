"""A fitted surface of repeated data as a law: what it says where so many tokens are different."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from flops_fit.fitting.repeated.surface import RepeatedSurface
from flops_fit.laws import Array, FlopRule, exponent_between, finite_exp
from flops_fit.records import numbers_in, of_type, read_as

NUMBERS = ("E", "log_A", "log_B", "alpha", "beta", "R_D_star", "R_N_star")
"""Of a surface, in the order of its fields."""


@dataclass(frozen=True)
class AtUnique:
    """The answers of a surface, or of many, to who has `unique_tokens` different tokens.

    `trained` are the smallest and the largest trained FLOPs.
    """

    surface: RepeatedSurface
    unique_tokens: float
    trained: tuple[float, float]
    flop_rule: FlopRule

    zooms: ClassVar[int]

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        return self.surface(num_params, num_tokens, self.unique_tokens)

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`; inf where no number of repeats gets it there."""
        return self.surface.tokens_to_reach(loss, num_params, self.unique_tokens)

    def N_opt(self, flops: ArrayLike) -> Array:
        return self.surface.best_size(flops, self.unique_tokens, self.flop_rule, self.zooms)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        num_params = self.N_opt(flops)
        return self(num_params, self.flop_rule.tokens(flops, num_params))


@dataclass(frozen=True)
class RepeatedLaw(AtUnique):
    """The optimum of a fit, which ended at the summed Huber penalty `value`.

    `loss(N, D, U)` is that of any run. a changes with C, as repeats set in; `a` is that between
    the smallest and the largest trained FLOPs.
    """

    delta: float
    value: float
    start_agreement: float  # share of the starts that ended at this optimum
    at_bounds: tuple[str, ...] = ()  # which numbers ended at a limit

    zooms: ClassVar[int] = 7  # to 1e-8 of ln N

    @property
    def a(self) -> float:
        return float(exponent_between(self, *self.trained))

    def loss(self, num_params: ArrayLike, num_tokens: ArrayLike, unique: ArrayLike) -> Array:
        """Of N parameters after D tokens of which `unique` are different."""
        return self.surface(num_params, num_tokens, unique)

    def to_json(self) -> dict[str, Any]:
        """All but the FLOP rule, which stands for itself in law.json."""
        logs = {name: float(getattr(self.surface, name)) for name in NUMBERS}
        rest = ("unique_tokens", "delta", "value", "start_agreement")
        return {
            **{name: getattr(self, name) for name in rest},
            **logs,
            "A": float(finite_exp(self.surface.log_A)),
            "B": float(finite_exp(self.surface.log_B)),
            "a": self.a,
            "trained": list(self.trained),
            "at_bounds": list(self.at_bounds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], rule: FlopRule) -> RepeatedLaw:
        return cls(
            surface=read_as(RepeatedSurface, data),
            trained=of_type(tuple[float, float], data["trained"], "trained"),
            flop_rule=rule,
            **numbers_in(data, "unique_tokens", "delta", "value", "start_agreement"),
            at_bounds=of_type(tuple[str, ...], data["at_bounds"], "at_bounds"),
        )


@dataclass(frozen=True)
class RepeatedDraws(AtUnique):
    """The surfaces of many bootstrap refits: one answer per draw."""

    zooms: ClassVar[int] = 5  # to 1e-5 of ln N

    @property
    def num_draws(self) -> int:
        return len(self.surface.alpha)

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""
        s = self.surface
        told = {name: getattr(s, name) for name in ("E", "alpha", "beta", "R_D_star", "R_N_star")}
        a = exponent_between(self, *self.trained)
        return {**told, "A": finite_exp(s.log_A), "B": finite_exp(s.log_B), "a": a}

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back with `from_columns`."""
        return {name: getattr(self.surface, name) for name in NUMBERS}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], law: RepeatedLaw) -> RepeatedDraws:
        surface = RepeatedSurface(*(columns[name] for name in NUMBERS))
        return cls(surface, law.unique_tokens, law.trained, law.flop_rule)
