"""A fitted loss surface as a law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from flops_fit.fitting.surface.objectives import Objective, objective_named
from flops_fit.laws import Array, FlopRule, LossSurface
from flops_fit.records import numbers_in, of_type, read_as


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

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""
        return self.surface.tokens_to_reach(loss, num_params)

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
            surface=read_as(LossSurface, data),
            flop_rule=rule,
            objective=objective_named(data["objective"], data["delta"]),
            **numbers_in(data, "value", "start_agreement", "promised_decrease"),
            at_bounds=of_type(tuple[str, ...], data["at_bounds"], "at_bounds"),
        )
