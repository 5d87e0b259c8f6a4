"""Two laws side by side: what equal compute buys, and how much more of it one of them needs.

Losses can only be compared where both studies measured them on the same held-out data in the same
unit: two models on one dataset, or two training sets under one held-out set. No file can tell, so
every comparison says it (`COMPARABLE`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from flops_fit.answers.crossing import (
    Crossing,
    Gaps,
    Pairs,
    answer_both,
    crossing_of,
    flops_to_reach,
)
from flops_fit.files import plain
from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.bootstrap import DEFAULT_DRAWS
from flops_fit.fitting.metrics import LOSS
from flops_fit.laws import Law, LawDraws
from flops_fit.laws.prediction import (
    PLAUSIBLE_LOSS,
    Intervals,
    NoSuchRun,
    central_intervals,
    turned_over,
)
from flops_fit.plan.run import Run
from flops_fit.shown import short_flops, significant

COMPARISON_VERSION = 1
"""Of comparison.json, which nothing reads again."""

COMPARABLE = (
    "losses can be compared only where both were measured on the same held-out data in the same "
    "unit; over two held-out sets neither the losses nor the multiplier mean anything"
)

BEYOND = (10.0, 100.0)
"""Multiples of the larger of the two largest budgets that get a row of their own."""

SAME_BUDGET = 1.05
"""Ratio within which two budgets share a row."""


@dataclass(frozen=True)
class Contender:
    """One side: a law, its bootstrap draws, and the budgets (FLOPs, rising) it was trained at."""

    name: str
    method: str
    law: Law
    draws: LawDraws | None
    budgets: tuple[float, ...]
    metric: str = LOSS
    verdict: str = ""

    @classmethod
    def of(cls, name: str, law: ScalingLaw, runs: Iterable[Run]) -> Contender:
        """The law that answers; its budgets are those that runs share, and the two ends."""
        used = set(law.rows_used)
        trained = [run.budget for run in runs if run.id in used]
        shared = {optimum.budget for optimum in law.budgets}
        ends = {min(trained, default=law.largest_budget), law.largest_budget}
        budgets = tuple(sorted(shared | ends))
        verdict = law.diagnostics.verdict
        return cls(name, law.answer, law.law, law.draws, budgets, law.metric, verdict)

    def loss_intervals(self, budget: float) -> Intervals:
        """The intervals of the best loss at `budget`; empty without draws."""
        if self.draws is None:
            return {}
        return central_intervals(self.draws.loss_opt(budget), PLAUSIBLE_LOSS)

    def has_trained(self, budget: float) -> bool:
        """Whether `budget` lies in the trained range."""
        return self.budgets[0] / SAME_BUDGET <= budget <= self.budgets[-1] * SAME_BUDGET

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "method": self.method,
            "metric": self.metric,
            "verdict": self.verdict,
            "budgets": list(self.budgets),
        }


@dataclass(frozen=True)
class Estimate:
    """A number with its intervals. `value` is None, and a bound inf, where there is no limit."""

    value: float | None
    intervals: Intervals


@dataclass(frozen=True)
class AtBudget:
    """Both laws at one budget (FLOPs); losses in nats per token.

    `multiplier`: how many times `budget` B needs to reach the loss that A reaches with it.
    `extrapolation` = budget / the smaller of the two largest trained budgets;
    `multiplier_extrapolation` = the FLOPs that B needs / the largest budget of B.
    `share_a_better`: of the draws, those in which A has the lower loss; None without draws.
    """

    budget: float
    extrapolation: float
    trained_in: tuple[str, ...]
    loss_a: Estimate
    loss_b: Estimate
    multiplier: Estimate
    multiplier_extrapolation: float | None
    share_a_better: float | None

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))


@dataclass(frozen=True)
class Comparison:
    """What `compare_laws` found; `verdict` is one sentence for people."""

    a: Contender
    b: Contender
    verdict: str
    warnings: tuple[str, ...]
    rows: tuple[AtBudget, ...]
    crossing: Crossing

    def to_json(self) -> dict[str, Any]:
        """As docs/law-json.md describes it. Holds no NaN, no infinity and no draws."""
        return {
            "schema_version": COMPARISON_VERSION,
            "verdict": self.verdict,
            "comparable": COMPARABLE,
            "warnings": list(self.warnings),
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "crossing": self.crossing.to_json(),
        }


def compare_laws(a: Contender, b: Contender) -> Comparison:
    """Losses at equal compute, the compute multiplier of A over B, and where they cross.

    Where one of the laws has no answer nothing is compared. Raises `NoSuchRun` where that is so of
    all budgets.
    """
    pairs = None if a.draws is None or b.draws is None else Pairs.of(a.draws, b.draws)
    ends = min(a.budgets[0], b.budgets[0]), max(a.budgets[-1], b.budgets[-1])
    budgets = _budgets(a, b)
    answered = [budget for budget in budgets if answer_both(a.law, b.law, budget)]
    gaps = Gaps.between(a.law, b.law, pairs, ends)
    if not answered or len(gaps.log_flops) < 2:
        raise NoSuchRun(
            f"{a.name} and {b.name} can't be compared: at no budget of theirs do both laws call "
            "best what a run can be; train both at a common budget"
        )
    rows = tuple(_at_budget(a, b, pairs, budget) for budget in answered)
    return Comparison(
        a=a,
        b=b,
        verdict=_verdict(a, b, rows, gaps),
        warnings=(*_warnings(a, b), *unanswered(budgets, answered)),
        rows=rows,
        crossing=crossing_of(a.law, b.law, gaps, min(a.budgets[-1], b.budgets[-1])),
    )


def unanswered(budgets: Sequence[float], answered: Sequence[float]) -> list[str]:
    """A warning of the budgets that are left out of a comparison."""
    left_out = [f"{budget:.3g}" for budget in budgets if budget not in answered]
    if not left_out:
        return []
    return [
        f"nothing is compared at {', '.join(left_out)} FLOPs: what one of the laws calls best "
        "there no run can be"
    ]


def common_range(a: Contender, b: Contender) -> tuple[float, float]:
    """Lowest and highest budget trained in both, else the gap between the two ranges."""
    ends = max(a.budgets[0], b.budgets[0]), min(a.budgets[-1], b.budgets[-1])
    return min(ends), max(ends)


def ranges_overlap(a: Contender, b: Contender) -> bool:
    return a.budgets[0] <= b.budgets[-1] and b.budgets[0] <= a.budgets[-1]


def _budgets(a: Contender, b: Contender) -> list[float]:
    """The trained budgets of both, nearly equal ones once, and `BEYOND`."""
    distinct: list[float] = []
    for budget in sorted({*a.budgets, *b.budgets}):
        if not distinct or budget > SAME_BUDGET * distinct[-1]:
            distinct.append(budget)
    largest = max(a.budgets[-1], b.budgets[-1])
    return distinct + [multiple * largest for multiple in BEYOND]


def _at_budget(a: Contender, b: Contender, pairs: Pairs | None, budget: float) -> AtBudget:
    loss_a, loss_b = (float(side.law.loss_opt(budget)) for side in (a, b))
    needed = float(flops_to_reach(b.law, loss_a))
    reached = np.isfinite(needed)
    return AtBudget(
        budget=budget,
        extrapolation=budget / min(a.budgets[-1], b.budgets[-1]),
        trained_in=tuple(side.name for side in (a, b) if side.has_trained(budget)),
        loss_a=Estimate(loss_a, a.loss_intervals(budget)),
        loss_b=Estimate(loss_b, b.loss_intervals(budget)),
        multiplier=Estimate(
            needed / budget if reached else None, _multiplier_intervals(pairs, budget)
        ),
        multiplier_extrapolation=needed / b.budgets[-1] if reached else None,
        share_a_better=None if pairs is None else float((pairs.gap(budget) < 0).mean()),
    )


def _multiplier_intervals(pairs: Pairs | None, budget: float) -> Intervals:
    """Those of the inverse, turned over: there a draw of B that never gets there is a plain 0."""
    if pairs is None:
        return {}
    return turned_over(central_intervals(budget / flops_to_reach(pairs.b, pairs.loss_a(budget))))


def _warnings(a: Contender, b: Contender) -> list[str]:
    found = []
    if not ranges_overlap(a, b):
        spans = (
            f"{s.name} at {short_flops(s.budgets[0])} to {short_flops(s.budgets[-1])} FLOPs"
            for s in (a, b)
        )
        found.append(
            f"the trained ranges don't overlap ({', '.join(spans)}): one of the two laws is always "
            "extrapolated; train both at a common budget"
        )
    if a.metric != b.metric:
        found.append(
            f"{a.name} was fitted on {a.metric}, {b.name} on {b.metric}: these can't be compared; "
            "fit both with the same metric="
        )
    if a.method != b.method:
        found.append(
            f"{a.name} answers by {a.method}, {b.name} by {b.method}: part of the difference may "
            "be the method; fit both with the same fit="
        )
    if a.law.flop_rule.is_constant != b.law.flop_rule.is_constant:
        found.append(
            "one counts FLOPs by the constant C = k N D, the other by a table of its model: their "
            "FLOPs may not mean the same"
        )
    found += [
        f"{side.name} was fitted without draws: no intervals; fit it again with "
        f"draws={DEFAULT_DRAWS}"
        for side in (a, b)
        if side.draws is None
    ]
    return found


def _verdict(a: Contender, b: Contender, rows: Sequence[AtBudget], gaps: Gaps) -> str:
    """Who is ahead where both were trained, by how much, and what changes beyond."""
    low, high = common_range(a, b)
    stretches = _stretches(gaps, gaps.leaders(a.name, b.name), low)
    leader = stretches[0][1]
    ahead = (
        f"{a.name} and {b.name} can't be told apart"
        if leader is None
        else f"{leader} is ahead of {b.name if leader == a.name else a.name}"
    )
    changes = "".join(
        f"; beyond {_flops(flops)} FLOPs "
        + ("they can't be told apart" if later is None else f"{later} is ahead")
        for flops, later in stretches[1:]
    )
    reach = f"; by these laws nothing changes beyond, to {_flops(np.exp(gaps.log_flops[-1]))} FLOPs"
    end = min(high, stretches[1][0]) if changes else high
    inside = [r for r in rows if low / SAME_BUDGET <= r.budget <= end * SAME_BUDGET]
    return f"{ahead} {_where(a, b, end)}: {_need(a.name, b.name, inside)}{changes or reach}"


def _where(a: Contender, b: Contender, end: float) -> str:
    """The budgets that the verdict begins with, in words."""
    low, high = common_range(a, b)
    span = (
        f"{_flops(low)} to {_flops(end)} FLOPs"
        if end > SAME_BUDGET * low
        else f"{_flops(low)} FLOPs"
    )
    if end < high:
        return f"at {span}"
    if ranges_overlap(a, b):
        return f"over the range trained in both ({span})"
    return f"between the ranges they were trained in ({span})"


def _stretches(
    gaps: Gaps, leaders: Sequence[str | None], low: float
) -> list[tuple[float, str | None]]:
    """Where each leader begins to lead (FLOPs), from `low` on."""
    flops = np.exp(gaps.log_flops)
    start = min(int(np.searchsorted(flops, low / SAME_BUDGET)), len(flops) - 1)
    changes = [
        (float(flops[i]), new)
        for i, (old, new) in enumerate(pairwise(leaders[start:]), start + 1)
        if new != old
    ]
    return [(low, leaders[start]), *changes]


def _need(a: str, b: str, rows: Sequence[AtBudget]) -> str:
    """How much more, or less, compute B needs over `rows`."""
    values = [row.multiplier.value for row in rows if row.multiplier.value is not None]
    if not values:
        return f"no amount of compute brings {b} to the loss of {a}"
    bounds = [row.multiplier.intervals["95"] for row in rows if "95" in row.multiplier.intervals]
    interval = ""
    if bounds:
        highest = max(high for _, high in bounds)
        shown = f"{highest:.3g}" if np.isfinite(highest) else "no limit"
        interval = f" (95%: {min(low for low, _ in bounds):.3g} to {shown})"
    ends = dict.fromkeys(f"{value:.2g}" for value in (min(values), max(values)))
    least = "" if len(values) == len(rows) else "at least "
    times = f"{least}{' to '.join(ends)} times"
    return f"{b} needs {times} the compute of {a} for the same loss{interval}"


def _flops(flops: float) -> str:
    """Of a place that two laws tell roughly."""
    return significant(flops, 2)
