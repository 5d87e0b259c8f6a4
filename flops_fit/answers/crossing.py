"""Which of two laws is better at which budget, and where they change places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.files import plain
from flops_fit.laws import Array, Law, LawDraws
from flops_fit.laws.prediction import (
    LARGEST_LOG_FLOPS,
    PLAUSIBLE_D,
    PLAUSIBLE_N,
    SMALLEST_LOG_FLOPS,
    Intervals,
    Mask,
    central_intervals,
    is_a_run,
    last_where,
)

SEARCHED_BEYOND = 1000.0
"""Multiple of the largest trained budget up to which a crossing is looked for."""

GRID_POINTS = 200
"""Budgets, evenly in ln C, at which the gap of the losses is looked at: 8% apart or so."""

SURE = 0.975
"""Share of the draws that makes one the better: 1 then lies outside the 95% interval of the
multiplier."""

PAIRING_SEED = 0


@dataclass(frozen=True)
class Pairs:
    """Each draw of B beside a draw of A picked at random, (draws,).

    The studies are independent but their resamplings need not be: both draw from seed 0, so draw
    i of two equal grids leaves out the same rows.
    """

    a: LawDraws
    b: LawDraws
    partners: NDArray[np.intp]

    @classmethod
    def of(cls, a: LawDraws, b: LawDraws) -> Pairs:
        shuffled = np.random.default_rng(PAIRING_SEED).permutation(a.num_draws)
        return cls(a, b, np.resize(shuffled, b.num_draws))

    def loss_a(self, flops: float) -> Array:
        return np.asarray(self.a.loss_opt(flops)[self.partners])

    def gap(self, flops: float) -> Array:
        """Loss of A less loss of B."""
        return np.asarray(self.loss_a(flops) - self.b.loss_opt(flops))


@dataclass(frozen=True)
class Gaps:
    """Loss of A less loss of B over rising budgets: of the laws (G,), of their draws (G, draws)."""

    log_flops: Array
    laws: Array
    draws: Array | None

    @classmethod
    def between(cls, a: Law, b: Law, pairs: Pairs | None, budgets: tuple[float, float]) -> Gaps:
        """From the smaller of `budgets` (FLOPs) to `SEARCHED_BEYOND` times the larger, as far as
        both laws have answers."""
        smallest, largest = budgets
        flops = np.geomspace(smallest, SEARCHED_BEYOND * largest, GRID_POINTS)
        flops = flops[answer_both(a, b, flops)]
        drawn = [] if pairs is None else [pairs.gap(budget) for budget in flops]
        draws = np.stack(drawn) if drawn else None
        return cls(np.log(flops), np.asarray(a.loss_opt(flops) - b.loss_opt(flops)), draws)

    def leaders(self, a: str, b: str) -> list[str | None]:
        """Who is better at each budget by at least `SURE` of the draws; None: nobody."""
        signs = self.laws[:, None] if self.draws is None else self.draws
        better, worse = (signs < 0).mean(axis=1), (signs > 0).mean(axis=1)
        return [
            a if for_a >= SURE else b if for_b >= SURE else None
            for for_a, for_b in zip(better, worse, strict=True)
        ]


@dataclass(frozen=True)
class Crossing:
    """The budget (FLOPs) at which the better of two laws first becomes the worse.

    `flops` is None where that does not happen from the smallest trained budget to 1000 times the
    largest. `share_of_draws` is the share of draws in which it does, in any direction; None
    without draws. A bound of 0 or inf lies outside of that range. There are no intervals where
    draws cross both ways.
    """

    flops: float | None
    extrapolation: float | None
    intervals: Intervals
    share_of_draws: float | None

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))


def crossing_of(a: Law, b: Law, gaps: Gaps, largest_budget: float) -> Crossing:
    """Where the losses of `a` and `b` are equal; extrapolated beyond `largest_budget`, FLOPs."""
    signs = gaps.laws[gaps.laws != 0]
    before = float(np.sign(signs[0])) if signs.size else 0.0
    share = None if gaps.draws is None else float(_has_turn(gaps.draws).mean())
    turn = float(_first_turns(gaps.log_flops, gaps.laws[:, None], before)[0])
    if not np.isfinite(turn):
        return Crossing(None, None, {}, share)
    step = float(gaps.log_flops[1] - gaps.log_flops[0])

    def unturned(log_flops: Array) -> Mask:
        flops = np.exp(log_flops)
        return np.asarray(before * (a.loss_opt(flops) - b.loss_opt(flops)) > 0)

    flops = float(np.exp(last_where(unturned, np.array(turn - step), np.array(turn + step))))
    return Crossing(flops, flops / largest_budget, _crossing_intervals(gaps, before), share)


def flops_to_reach(law: Law | LawDraws, loss: ArrayLike) -> Array:
    """FLOPs at which the best loss of `law` has fallen to `loss`; inf where no run that can be
    suffices.

    Elementwise, by bisection in ln C: for draws, `loss` is one target per draw.
    """
    target = np.asarray(loss, dtype=float)
    low, high = (np.full(target.shape, x) for x in (SMALLEST_LOG_FLOPS, LARGEST_LOG_FLOPS))
    with np.errstate(over="ignore"):  # a steep law at 1 FLOP has an infinite loss
        reached = law.loss_opt(np.exp(high)) <= target
        found = last_where(lambda x: np.asarray(law.loss_opt(np.exp(x)) > target), low, high)
        flops = np.exp(found)
        too_large = (law.N_opt(flops) > PLAUSIBLE_N[1]) | (law.D_opt(flops) > PLAUSIBLE_D[1])
    return np.where(reached & ~too_large, flops, np.inf)


def answer_both(a: Law, b: Law, flops: ArrayLike) -> Mask:
    """Whether what both laws call best at these budgets is what a run can be, elementwise."""
    with np.errstate(all="ignore"):
        a_run, b_run = (
            is_a_run(law.N_opt(flops), law.D_opt(flops), law.loss_opt(flops)) for law in (a, b)
        )
    return np.asarray(a_run & b_run)


def _has_turn(gaps: Array) -> Mask:
    """Whether each column changes its sign."""
    return np.asarray(np.any(gaps[:-1] * gaps[1:] < 0, axis=0))


def _first_turns(log_flops: Array, gaps: Array, before: float) -> Array:
    """ln C at which each column of gaps (G, draws) first leaves the sign `before`.

    inf for a column that keeps it all along, -inf for one that has lost it before the range.
    """
    same = gaps * before > 0
    turns = same[:-1] & ~same[1:]
    at = turns.argmax(axis=0)
    left, right = (np.take_along_axis(gaps, (at + k)[None], axis=0)[0] for k in (0, 1))
    fall = np.where(left == right, 1.0, left - right)
    inside = log_flops[at] + (log_flops[at + 1] - log_flops[at]) * left / fall
    return np.where(turns.any(axis=0), inside, np.where(same[0], np.inf, -np.inf))


def _crossing_intervals(gaps: Gaps, before: float) -> Intervals:
    """Draws that do not cross stand outside of the range, on the side where they would."""
    if gaps.draws is None:
        return {}
    the_other_way = (gaps.draws[0] * before < 0) & (gaps.draws[-1] * before > 0)
    if the_other_way.mean() > 1 - SURE:
        return {}
    first, last = float(gaps.log_flops[0]), float(gaps.log_flops[-1])
    turns = np.clip(_first_turns(gaps.log_flops, gaps.draws, before), first - 1, last + 1)
    return {
        level: (
            0.0 if low < first else float(np.exp(low)),
            np.inf if high > last else float(np.exp(high)),
        )
        for level, (low, high) in central_intervals(turns).items()
    }
