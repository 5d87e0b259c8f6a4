"""What a law says about a target: size, tokens, loss, how sure, and the cost of another size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.errors import UserError
from flops_fit.files import plain
from flops_fit.laws import Array, Law, LawDraws, Optima
from flops_fit.records import of_type, read_as
from flops_fit.shown import short_flops

CONFIDENCE_LEVELS = (80, 95)
"""Percent. The two central intervals that every estimate carries."""

EXTRAPOLATION_WARNING = 30.0
"""A target beyond this multiple of the largest trained budget is warned about: the back-tests of
published sweeps cover one to one and a half decades."""

FLAT_BAND_TOLERANCE = 1e-3
"""Relative loss within which sizes count as equally good (0.1%, about the noise of one seed)."""

SMALLEST_LOG_FLOPS, LARGEST_LOG_FLOPS = 0.0, 100.0
"""ln FLOPs between which a budget is searched that makes a given N or D optimal (e^100 = 3e43)."""

FARTHEST_LOG_SIZE = 100.0
"""ln N / N_opt at which the search for the edge of a flat band ends: such a band has no edge."""

HALVINGS = 50
"""How often the range in which a number is sought is halved: e^100 to a relative 1e-13."""

PLAUSIBLE_N, PLAUSIBLE_D, PLAUSIBLE_LOSS = (1.0, 1e18), (1.0, 1e24), (0.0, 1e18)
"""Parameters and tokens of any run that can be: a million times the largest there are; and its
loss, which may be a mean of squares of billions."""

Mask = NDArray[np.bool_]

Interval = tuple[float, float]
Intervals = Mapping[str, Interval]
"""Confidence in percent, as text ("80", "95") -> (low, high); an end of 0 or inf is open."""


class NoSuchRun(UserError):
    """What a law calls best can't be a run at all."""


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
            f"{short_flops(self.budget)} FLOPs is {self.extrapolation:.3g} times the largest "
            f"trained budget; beyond {EXTRAPOLATION_WARNING:g} times the interval covers noise, "
            "not a law that bends: train a larger budget before you rely on it"
        )

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))

    @classmethod
    def from_json(cls, data: Any, where: str = "prediction") -> Prediction:
        values = of_type(Mapping, data, where)
        return read_as(
            cls, {**values, "intervals": intervals_from_json(values["intervals"])}, where
        )


class LossOfAny(Protocol):
    """What is known beside the optima: the loss of any size and length."""

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array: ...

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        """D at which a model of N reaches `loss`, inf where its own capacity forbids it."""


@runtime_checkable
class LossLaw(Law, LossOfAny, Protocol):
    """A law that knows the loss of any size and length."""


@runtime_checkable
class LossLawDraws(LawDraws, LossOfAny, Protocol):
    """Many such laws: every answer has one number per draw."""


@dataclass(frozen=True)
class FlatBand:
    """The smallest and largest N whose loss at `budget` FLOPs is within `tolerance` of the best.

    A `low` of 0 or a `high` of inf: no size that can be is too small or too large. `intervals` has
    the keys low and high, and is empty without draws.
    """

    budget: float
    tolerance: float
    low: float
    high: float
    intervals: Mapping[str, Intervals]

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))


@dataclass(frozen=True)
class OtherSize:
    """What it costs to train `num_params` instead of the optimum of a budget.

    `excess_loss` is relative to the best loss of the budget. `excess_compute` is the share of
    compute by which this size must be trained longer to reach that best loss (0.1 = 10% more
    FLOPs), None where no amount of tokens gets it there. `intervals` has the keys loss, excess_loss
    and excess_compute (a bound of inf: no amount), and is empty without draws.
    """

    num_params: float
    num_tokens: float
    loss: float
    excess_loss: float
    excess_compute: float | None
    intervals: Mapping[str, Intervals]

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))


def central_intervals(
    draws: ArrayLike, plausible: Interval = (-np.inf, np.inf)
) -> dict[str, Interval]:
    """Percentile intervals of the draws at `CONFIDENCE_LEVELS`; empty without draws.

    Ends beyond what is `plausible` are open. Draws that are no numbers are left out, infinite ones
    too where all is plausible.
    """
    values = np.clip(np.asarray(draws, dtype=float), *plausible)
    values = values[np.isfinite(values)]
    if not values.size:
        return {}
    tails = [(100 - level) / 200 for level in CONFIDENCE_LEVELS]
    bounds = [np.quantile(values, (tail, 1 - tail)) for tail in tails]
    return {
        str(level): opened((float(low), float(high)), plausible)
        for level, (low, high) in zip(CONFIDENCE_LEVELS, bounds, strict=True)
    }


def opened(interval: Interval, plausible: Interval) -> Interval:
    """The interval, open (0 and inf) where it ends beyond what is plausible."""
    low, high = interval
    return 0.0 if low <= plausible[0] else low, np.inf if high >= plausible[1] else high


def intervals_from_json(data: Any) -> dict[str, Intervals]:
    """The named intervals of a JSON file, in which an end of null is open."""
    read = of_type(Mapping[str, Mapping[str, tuple[float, float | None]]], data, "intervals")
    return {
        name: {
            level: (low, np.inf if high is None else high) for level, (low, high) in ends.items()
        }
        for name, ends in read.items()
    }


def predict_at_budget(
    law: Law, budget: float, *, method: str, largest_budget: float, draws: LawDraws | None
) -> Prediction:
    """The optimum of `law` at `budget` FLOPs, with intervals from `draws`.

    Raises `NoSuchRun` for numbers that no run can have.
    """
    check_budget(budget)
    num_params, num_tokens = float(law.N_opt(budget)), float(law.D_opt(budget))
    loss = float(law.loss_opt(budget))
    whose = f"the law ({method}), trained up to {short_flops(largest_budget)} FLOPs,"
    check_optimum(whose, budget, num_params, num_tokens, loss)
    intervals = {}
    if draws is not None:
        intervals = {
            "num_params": central_intervals(draws.N_opt(budget), PLAUSIBLE_N),
            "num_tokens": central_intervals(draws.D_opt(budget), PLAUSIBLE_D),
            "loss": central_intervals(draws.loss_opt(budget), PLAUSIBLE_LOSS),
        }
    return Prediction(
        method=method,
        budget=float(budget),
        num_params=num_params,
        num_tokens=num_tokens,
        tokens_per_param=num_tokens / num_params,
        loss=loss,
        extrapolation=float(budget) / largest_budget,
        intervals=intervals,
    )


def check_optimum(
    whose: str, budget: float, num_params: float, num_tokens: float, loss: float | None = None
) -> None:
    """Raises `NoSuchRun` where no run can have what a law calls the best at `budget` FLOPs."""
    if is_a_run(num_params, num_tokens, 1.0 if loss is None else loss):
        return
    loss_too = "" if loss is None else f" and a loss of {loss:.3g}"
    raise NoSuchRun(
        f"{whose} has no answer at {budget:.3g} FLOPs: it would be N = {num_params:.3g}, "
        f"D = {num_tokens:.3g}{loss_too}, which no run can have; ask for a budget nearer to those "
        "that were trained"
    )


def is_a_run(num_params: ArrayLike, num_tokens: ArrayLike, loss: ArrayLike) -> Mask:
    """Whether a run can have these numbers, elementwise."""
    pairs = ((num_params, PLAUSIBLE_N), (num_tokens, PLAUSIBLE_D), (loss, PLAUSIBLE_LOSS))
    inside = [(np.asarray(x) >= least) & (np.asarray(x) <= most) for x, (least, most) in pairs]
    return np.asarray(inside[0] & inside[1] & inside[2] & (np.asarray(loss) > 0))


def check_budget(budget: float) -> None:
    """Raises `UserError` for what is no number of FLOPs."""
    if not (np.isfinite(budget) and budget > 0):
        raise UserError(f"budget {budget} is not a finite positive number of FLOPs")


def budget_for_num_params(law: Optima, num_params: float) -> float:
    """FLOPs at which `num_params` is the optimal size."""
    return _budget_where(lambda c: np.log(law.N_opt(c) / num_params), "N", num_params)


def budget_for_num_tokens(law: Optima, num_tokens: float) -> float:
    """FLOPs at which `num_tokens` is the optimal number of tokens."""
    return _budget_where(lambda c: np.log(law.D_opt(c) / num_tokens), "D", num_tokens)


def flat_band(
    law: LossLaw,
    draws: LossLawDraws | None,
    budget: float,
    tolerance: float = FLAT_BAND_TOLERANCE,
) -> FlatBand:
    """The sizes whose loss at `budget` is within `tolerance` of the best."""
    low, high = _band(law, budget, tolerance)
    intervals = {}
    if draws is not None:
        ends = zip(("low", "high"), _band(draws, budget, tolerance), strict=True)
        intervals = {name: central_intervals(end, PLAUSIBLE_N) for name, end in ends}
    band = opened((float(low), float(high)), PLAUSIBLE_N)
    return FlatBand(budget, tolerance, *band, intervals)


def cost_of_size(
    law: LossLaw, draws: LossLawDraws | None, budget: float, num_params: float
) -> OtherSize:
    """What training `num_params` instead of the optimal size costs at `budget`."""
    if not (np.isfinite(num_params) and num_params > 0):
        raise UserError(f"N = {num_params} is not a finite positive number of parameters")
    num_tokens = float(law.flop_rule.tokens(budget, num_params))
    loss, excess_loss, share = _cost(law, budget, num_params)
    if not is_a_run(num_params, num_tokens, loss):
        raise NoSuchRun(
            f"N = {num_params:.3g} at {budget:.3g} FLOPs would see D = {num_tokens:.3g} tokens: no "
            "run can be that; give a size nearer to the best"
        )
    intervals = {}
    if draws is not None:
        losses, excesses, shares = _cost(draws, budget, num_params)
        intervals = {
            "loss": central_intervals(losses),
            "excess_loss": central_intervals(excesses),
            "excess_compute": turned_over(central_intervals(shares), less=1.0),
        }
    return OtherSize(
        num_params=num_params,
        num_tokens=num_tokens,
        loss=float(loss),
        excess_loss=float(excess_loss),
        excess_compute=float(1 / share - 1) if share else None,
        intervals=intervals,
    )


def turned_over(intervals: Intervals, less: float = 0.0) -> Intervals:
    """The intervals of 1 / x - `less` from those of an x >= 0; inf where x may be 0."""
    return {
        level: (1 / high - less if high else np.inf, 1 / low - less if low else np.inf)
        for level, (low, high) in intervals.items()
    }


def last_where(holds: Callable[[Array], Mask], low: Array, high: Array) -> Array:
    """x between `low` and `high` up to which `holds(x)` is true, elementwise, by bisection."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        true = holds(middle)
        low, high = np.where(true, middle, low), np.where(true, high, middle)
    return (low + high) / 2


def _band(law: LossLaw | LossLawDraws, budget: float, tolerance: float) -> tuple[Array, Array]:
    """Both edges of the flat band, one number each or one per draw."""
    optimum = law.N_opt(budget)
    bound = (1 + tolerance) * law.loss_opt(budget)

    def is_inside(log_ratio: Array) -> Mask:
        num_params = optimum * np.exp(log_ratio)
        with np.errstate(over="ignore"):  # a steep law far away: infinite, and so outside
            loss = law(num_params, law.flop_rule.tokens(budget, num_params))
        return np.asarray(loss <= bound)

    centre = np.zeros(np.shape(optimum))
    low, high = (
        optimum * np.exp(last_where(is_inside, centre, centre + side * FARTHEST_LOG_SIZE))
        for side in (-1, 1)
    )
    return low, high


def _cost(
    law: LossLaw | LossLawDraws, budget: float, num_params: float
) -> tuple[Array, Array, Array]:
    """Loss of N at `budget`, its excess over the best, and the share of the tokens (at most 1) that
    it gets of those it would need to reach the best; 0 where none suffice."""
    best, num_tokens = law.loss_opt(budget), law.flop_rule.tokens(budget, num_params)
    loss = law(num_params, num_tokens)
    return loss, loss / best - 1, num_tokens / law.tokens_to_reach(best, num_params)


def _budget_where(gap: Callable[[Array], Array], letter: str, target: float) -> float:
    """The budget at which `gap(budget)` = 0, `gap` rising with the budget."""
    if not (np.isfinite(target) and target > 0):
        raise UserError(f"{letter} = {target} is not a finite positive number")
    ends = np.array(SMALLEST_LOG_FLOPS), np.array(LARGEST_LOG_FLOPS)
    if not gap(np.exp(ends[0])) < 0 < gap(np.exp(ends[1])):
        raise UserError(f"no budget makes {letter} = {target:.3g} optimal under this law")
    return float(np.exp(last_where(lambda x: np.asarray(gap(np.exp(x)) < 0), *ends)))
