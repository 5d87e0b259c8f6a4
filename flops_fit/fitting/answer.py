"""The answer to one question: how large, on how many tokens, what loss, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from flops_fit.files import plain
from flops_fit.laws import Law
from flops_fit.laws.prediction import Intervals, Prediction
from flops_fit.shown import significant

STEP = 1.01
"""Factor of C over which a law's local exponents are taken."""


REACH_FACTOR, REACH_LOSS = 2.0, 1.03
"""Factors either way within which the 80% intervals of N_opt and of the loss must stay to be called
useful."""

ROUNDING = 1e-9

TOLD = "80"
"""Percent. The interval that is held against them."""


class Reliance(StrEnum):
    """What of an answer can be relied on: both numbers, one of them, or none."""

    USABLE = "usable"
    LOSS_ONLY = "loss only"
    SIZE_ONLY = "N only"
    UNRELIABLE = "unreliable"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Reach:
    """Extrapolations (target / largest trained budget) up to which a law can be relied on.

    For N, within a factor of 2 at 80%; for the loss, within 3% at 80%. None: not even where it was
    trained. `known` is False where there are no intervals to tell.
    """

    num_params: float | None
    loss: float | None
    known: bool = True

    def at(self, extrapolation: float) -> Reliance:
        """What can be relied on at a target."""
        if not self.known:
            return Reliance.UNKNOWN
        size, loss = (r is not None and extrapolation <= r for r in (self.num_params, self.loss))
        if size and loss:
            return Reliance.USABLE
        if loss:
            return Reliance.LOSS_ONLY
        return Reliance.SIZE_ONLY if size else Reliance.UNRELIABLE


@dataclass(frozen=True)
class Answer:
    """The compute-optimal run at one budget, by whom and why, and what may be relied on.

    `others` are what the other methods say, without intervals where they have none. `formula` holds
    near the budget. `advice` says what to run next, `verdict` what holds of the law as a whole.
    """

    prediction: Prediction
    why: str
    formula: str
    others: tuple[Prediction, ...]
    reach: Reach
    verdict: str
    advice: tuple[str, ...]

    @property
    def budget(self) -> float:
        return self.prediction.budget

    @property
    def method(self) -> str:
        return self.prediction.method

    @property
    def num_params(self) -> float:
        return self.prediction.num_params

    @property
    def num_tokens(self) -> float:
        return self.prediction.num_tokens

    @property
    def tokens_per_param(self) -> float:
        return self.prediction.tokens_per_param

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.prediction.loss

    @property
    def extrapolation(self) -> float:
        """Budget over the largest trained one."""
        return self.prediction.extrapolation

    @property
    def intervals(self) -> Mapping[str, Intervals]:
        return self.prediction.intervals

    @property
    def reliance(self) -> Reliance:
        """What of these numbers can be relied on: what the law reaches to, and what its own
        interval is narrow enough for, which below the largest budgets it need not be."""
        size, loss = (
            bounds is None or bounds[1] <= factor**2 * bounds[0] * (1 + ROUNDING)
            for name, factor in (("num_params", REACH_FACTOR), ("loss", REACH_LOSS))
            for bounds in [self.intervals.get(name, {}).get(TOLD)]
        )
        reach = self.reach
        return replace(
            reach,
            num_params=reach.num_params if size else None,
            loss=reach.loss if loss else None,
        ).at(self.extrapolation)

    @property
    def warning(self) -> str | None:
        return self.prediction.warning

    def to_json(self) -> dict[str, Any]:
        """Those of the prediction on the same level."""
        rest = {name: value for name, value in vars(self).items() if name != "prediction"}
        others = [other.to_json() for other in self.others]
        said = {**rest, "others": others, "reliance": self.reliance.value}
        return {**self.prediction.to_json(), **plain({**said, "reach": vars(self.reach)})}


def local_formula(law: Law, budget: float) -> str:
    """N_opt, D_opt and loss of any law near a budget, as power laws."""
    rows = (("N_opt", law.N_opt), ("D_opt", law.D_opt), ("loss", law.loss_opt))
    said = []
    for name, answer in rows:
        value, further = (float(answer(c)) for c in (budget, STEP * budget))
        exponent = np.log(further / value) / np.log(STEP)
        said.append(
            f"{name} = {significant(value, 4)} (C / {significant(budget, 3)})^{exponent:.3f}"
        )
    return ", ".join(said)
