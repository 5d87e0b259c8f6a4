"""Which budgets the line rests on, in words."""

from __future__ import annotations

from collections.abc import Sequence

from flops_fit.fitting.contract import Examined
from flops_fit.fitting.isoflop.draws import IsoflopDraws
from flops_fit.fitting.isoflop.fit import IsoflopFit
from flops_fit.fitting.isoflop.law import IsoflopLaw
from flops_fit.fitting.isoflop.optima import BudgetOptimum
from flops_fit.fitting.points import Points
from flops_fit.shown import short_flops

MOST_NAMED = 3
"""Budgets left out of the line that get a sentence of their own."""


def optima_of(
    method: IsoflopFit, points: Points, law: IsoflopLaw | None
) -> tuple[BudgetOptimum, ...]:
    """The optimum of each budget, which are there even where no line is."""
    return method.optima(points, method.noise(points)) if law is None else law.budgets


def examined(
    method: IsoflopFit, points: Points, law: IsoflopLaw | None, draws: IsoflopDraws | None
) -> Examined:
    """What its budgets are worth."""
    optima = optima_of(method, points, law)
    bracketed = sum(optimum.is_bracketed for optimum in optima)
    return Examined(
        findings=tuple(budget_findings(optima)),
        why=f"a line through the minima of {bracketed} of {len(optima)} budgets",
    )


def budget_findings(optima: Sequence[BudgetOptimum]) -> list[str]:
    """One sentence for each budget left out of the line, or one for all where they are many."""
    left_out = [o for o in optima if not o.is_bracketed]
    if len(left_out) > MOST_NAMED:
        verdicts = ", ".join(f"{short_flops(o.budget)} ({o.verdict})" for o in left_out)
        return [
            f"{len(left_out)} of {len(optima)} budgets don't enter the IsoFLOP line: {verdicts}"
        ]
    return [f"budget {short_flops(o.budget)}, {o.verdict}: {o.reason}" for o in left_out]
