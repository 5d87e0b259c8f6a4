"""What a law says about a target: size, tokens, loss, how sure, and the cost of another size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from flops_fit.errors import UserError
from flops_fit.laws import FlopRule, Law, LossSurface
from flops_fit.runs import Run

CONFIDENCE_LEVELS = (80, 95)
"""Percent. The two central intervals that every estimate carries."""

EXTRAPOLATION_WARNING = 30.0
"""A target beyond this multiple of the largest trained budget is warned about: the back-tests of
published sweeps cover one to one and a half decades."""

FLAT_BAND_TOLERANCE = 1e-3
"""Relative loss within which sizes count as equally good (0.1%, about the noise of one seed)."""

SMALLEST_LOG_FLOPS, LARGEST_LOG_FLOPS = 0.0, 100.0
"""ln FLOPs between which a budget is searched that makes a given N or D optimal (e^100 = 3e43)."""

Interval = tuple[float, float]
Intervals = Mapping[str, Interval]
"""Confidence in percent, as text ("80", "95") -> (low, high)."""


@dataclass(frozen=True)
class Prediction:
    """The compute-optimal run at one budget.

    `budget` in FLOPs, `loss` in nats per token, `extrapolation` = budget / largest trained budget.
    `intervals` has the keys num_params, num_tokens and loss, and is empty where the law was
    fitted without draws.
    """

    method: str
    budget: float
    num_params: float
    num_tokens: float
    tokens_per_param: float
    loss: float
    extrapolation: float
    intervals: Mapping[str, Intervals]

    @property
    def warning(self) -> str | None:
        """A sentence where the target lies too far beyond the trained budgets, else None."""
        if self.extrapolation <= EXTRAPOLATION_WARNING:
            return None
        return (
            f"{self.budget:.3g} FLOPs is {self.extrapolation:.3g} times the largest trained "
            f"budget; beyond {EXTRAPOLATION_WARNING:g} times the interval covers noise, not a "
            "law that bends: train a larger budget before you rely on it"
        )

    def to_json(self) -> dict[str, Any]:
        intervals = {
            name: {level: list(bounds) for level, bounds in levels.items()}
            for name, levels in self.intervals.items()
        }
        return {**self.__dict__, "intervals": intervals}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prediction:
        intervals = {
            name: {level: (low, high) for level, (low, high) in levels.items()}
            for name, levels in data["intervals"].items()
        }
        return cls(**{**data, "intervals": intervals})


@dataclass(frozen=True)
class OtherSize:
    """What it costs to train `num_params` instead of the optimum of a budget.

    `excess_loss` is relative to the best loss of the budget. `excess_compute` is the share of
    compute by which this size must be trained longer to reach that best loss (0.1 = 10% more
    FLOPs), None where no amount of tokens gets it there.
    """

    num_params: float
    num_tokens: float
    loss: float
    excess_loss: float
    excess_compute: float | None


@dataclass(frozen=True)
class Verification:
    """A prediction and the run that put it to the test, at the size nearest to the optimum.

    `measured` and `stderr` are the run's held-out loss, nats per token.
    """

    prediction: Prediction
    run_id: str
    num_params: float
    num_tokens: float
    measured: float
    stderr: float | None

    @classmethod
    def of(cls, prediction: Prediction, run: Run) -> Verification:
        """Of a run that is done."""
        if run.loss is None:
            raise UserError(f"{run.id} has no loss to verify with: it is {run.status}")
        return cls(prediction, run.id, run.num_params, run.num_tokens, run.loss, run.loss_stderr)

    @property
    def error(self) -> float:
        """Predicted over measured loss, minus 1."""
        return self.prediction.loss / self.measured - 1

    def is_inside(self, level: str) -> bool | None:
        """Whether the interval ("80" or "95") holds the measured loss; None without intervals."""
        interval = self.prediction.intervals.get("loss", {}).get(level)
        return None if interval is None else interval[0] <= self.measured <= interval[1]

    def to_json(self) -> dict[str, Any]:
        inside = {str(level): self.is_inside(str(level)) for level in CONFIDENCE_LEVELS}
        values = {**self.__dict__, "prediction": self.prediction.to_json()}
        return {**values, "error": self.error, "inside": inside}


def central_intervals(draws: ArrayLike) -> dict[str, Interval]:
    """Percentile intervals of the finite draws at `CONFIDENCE_LEVELS`; empty without draws."""
    values = np.asarray(draws, dtype=float)
    values = values[np.isfinite(values)]
    if not values.size:
        return {}
    tails = [(100 - level) / 200 for level in CONFIDENCE_LEVELS]
    bounds = [np.quantile(values, (tail, 1 - tail)) for tail in tails]
    return {
        str(level): (float(low), float(high))
        for level, (low, high) in zip(CONFIDENCE_LEVELS, bounds, strict=True)
    }


def predict_at_budget(
    law: Law, budget: float, *, method: str, largest_budget: float, draws: Law | None
) -> Prediction:
    """The optimum of `law` at `budget` FLOPs; intervals from `draws`, a law with many answers."""
    if not (np.isfinite(budget) and budget > 0):
        raise UserError(f"budget {budget} is not a finite positive number of FLOPs")
    num_params, num_tokens = float(law.N_opt(budget)), float(law.D_opt(budget))
    intervals = {}
    if draws is not None:
        intervals = {
            "num_params": central_intervals(draws.N_opt(budget)),
            "num_tokens": central_intervals(draws.D_opt(budget)),
            "loss": central_intervals(draws.loss_opt(budget)),
        }
    return Prediction(
        method=method,
        budget=float(budget),
        num_params=num_params,
        num_tokens=num_tokens,
        tokens_per_param=num_tokens / num_params,
        loss=float(law.loss_opt(budget)),
        extrapolation=float(budget) / largest_budget,
        intervals=intervals,
    )


def budget_for_num_params(law: Law, num_params: float) -> float:
    """FLOPs at which `num_params` is the optimal size."""
    return _budget_where(lambda c: float(np.log(law.N_opt(c) / num_params)), "N", num_params)


def budget_for_num_tokens(law: Law, num_tokens: float) -> float:
    """FLOPs at which `num_tokens` is the optimal number of tokens."""
    return _budget_where(lambda c: float(np.log(law.D_opt(c) / num_tokens)), "D", num_tokens)


def flat_band(
    surface: LossSurface, rule: FlopRule, budget: float, tolerance: float = FLAT_BAND_TOLERANCE
) -> Interval:
    """Smallest and largest N whose loss at `budget` is within `tolerance` of the best."""
    optimum = float(surface.N_opt(budget, rule))
    bound = (1 + tolerance) * float(surface(optimum, rule.tokens(budget, optimum)))

    def above_bound(log_ratio: float) -> float:
        num_params = optimum * np.exp(log_ratio)
        return float(surface(num_params, rule.tokens(budget, num_params))) - bound

    low, high = (_edge_of_band(above_bound, side) for side in (-1.0, 1.0))
    return optimum * float(np.exp(low)), optimum * float(np.exp(high))


def cost_of_size(
    surface: LossSurface, rule: FlopRule, budget: float, num_params: float
) -> OtherSize:
    """What training `num_params` instead of the optimal size costs at `budget`."""
    best = float(surface.loss_opt(budget, rule))
    num_tokens = float(rule.tokens(budget, num_params))
    loss = float(surface(num_params, num_tokens))
    tokens_needed = surface.tokens_to_reach(best, num_params)
    return OtherSize(
        num_params=num_params,
        num_tokens=num_tokens,
        loss=loss,
        excess_loss=loss / best - 1,
        excess_compute=None if tokens_needed is None else tokens_needed / num_tokens - 1,
    )


def _budget_where(gap: Any, letter: str, target: float) -> float:
    """The budget at which `gap(budget)` = 0, `gap` rising with the budget."""
    if not (np.isfinite(target) and target > 0):
        raise UserError(f"{letter} = {target} is not a finite positive number")
    try:
        root = brentq(lambda x: gap(np.exp(x)), SMALLEST_LOG_FLOPS, LARGEST_LOG_FLOPS, xtol=1e-12)
    except ValueError as error:
        raise UserError(
            f"no budget makes {letter} = {target:.3g} optimal under this law"
        ) from error
    return float(np.exp(root))


def _edge_of_band(above_bound: Any, side: float) -> float:
    """ln N / N_opt where the loss leaves the band, going down (side -1) or up (+1)."""
    step = side
    while above_bound(step) < 0:
        step *= 2
    return float(brentq(above_bound, 0.0, step))
