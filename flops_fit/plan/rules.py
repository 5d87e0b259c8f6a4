"""Learning rates and batch sizes that follow the size of a run instead of being one for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.errors import ConfigError, StudyError
from flops_fit.records import read_as
from flops_fit.signatures import current_name, qualified_name

Rule = Callable[[float, float], float]
"""(num_params, num_tokens) of a run -> its peak learning rate, or its tokens per step."""


@dataclass(frozen=True)
class Rules:
    """What a study lets follow from N and D; None: the same for all."""

    learning_rate: Rule | None = None  # at the peak
    batch_tokens: Rule | None = None  # per step


@dataclass(frozen=True)
class PowerRule:
    """coefficient x N^num_params_exponent x D^num_tokens_exponent, from `lowest` to `highest`.

    Such laws were fitted by, among others, Bi et al. 2024 (DeepSeek LLM, section 3) and
    Li et al. 2025 ("Step Law").
    """

    coefficient: float
    num_params_exponent: float = 0.0
    num_tokens_exponent: float = 0.0
    lowest: float = 0.0
    highest: float | None = None

    def __post_init__(self) -> None:
        exponents = self.num_params_exponent, self.num_tokens_exponent
        if not (0 < self.coefficient < math.inf and all(map(math.isfinite, exponents))):
            raise ConfigError(
                f"a rule of {self.coefficient:g} x N^{exponents[0]:g} x D^{exponents[1]:g}: the "
                "coefficient must be finite and above 0, the exponents finite"
            )
        if not 0 <= self.lowest <= (math.inf if self.highest is None else self.highest):
            raise ConfigError(
                f"a rule between lowest={self.lowest} and highest={self.highest}: give "
                "0 <= lowest <= highest"
            )

    def __call__(self, num_params: float, num_tokens: float) -> float:
        of_size = math.pow(num_params, self.num_params_exponent)
        of_length = math.pow(num_tokens, self.num_tokens_exponent)
        value = max(self.coefficient * of_size * of_length, self.lowest)
        return value if self.highest is None else min(value, self.highest)


OURS = {qualified_name(rule): rule for rule in (PowerRule,)}
"""The rules that a plan.json can name: what stands in a file is data and calls nothing else."""


def stored_rule(node: Mapping[str, Any] | None, name: str) -> Rule | None:
    """The rule that a plan was made with, from its settings; None where it had none.

    Raises `StudyError` for a rule of the user's own, and for one that is none.
    """
    if not node:
        return None
    target = node.get("_target_")
    rule = OURS.get(current_name(target)) if isinstance(target, str) else None
    if rule is None:
        raise StudyError(
            f"{name} of its plan is {str(target)[:80]!r}, code that is not run from a file: the "
            "batch and rate of another run can't be told from here"
        )
    return read_as(rule, node, name)
