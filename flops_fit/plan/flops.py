"""How the FLOPs of a training token are defined for a study: by the formula, or counted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from flops_fit.errors import PlanError
from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN, FlopRule
from flops_fit.plan.experiment import ModelSize


class FlopCount(Protocol):
    """How the FLOPs of a training token are defined for a study."""

    def __call__(self, model: ModelSize) -> float:
        """FLOPs per token, forward and backward."""

    def rule(self, models: Iterable[ModelSize]) -> FlopRule:
        """The same as a function of N, for laws."""


@dataclass(frozen=True)
class FormulaFlops:
    """C = constant x N x D."""

    constant: float = FLOPS_PER_PARAM_PER_TOKEN

    def __post_init__(self) -> None:
        if not (math.isfinite(self.constant) and self.constant > 0):
            raise PlanError(
                f"flops_per_param_per_token is {self.constant:g}: it must be finite and above 0"
            )

    def __call__(self, model: ModelSize) -> float:
        return self.constant * model.num_params

    def rule(self, models: Iterable[ModelSize]) -> FlopRule:
        return FlopRule.constant(self.constant)


@dataclass(frozen=True)
class CountedFlops:
    """C = what the model's operations add up to, measured for each size."""

    def __call__(self, model: ModelSize) -> float:
        if not model.counted_flops_per_token:
            raise PlanError(
                f"the FLOPs of {model.size.name}={model.size.label} could not be counted on the "
                "meta device: give the model a flops_per_token() method or set flops=formula"
            )
        return model.counted_flops_per_token

    def rule(self, models: Iterable[ModelSize]) -> FlopRule:
        by_num_params = {model.num_params: self(model) for model in models}
        num_params = sorted(by_num_params)
        return FlopRule(
            tuple(float(n) for n in num_params), tuple(by_num_params[n] for n in num_params)
        )
