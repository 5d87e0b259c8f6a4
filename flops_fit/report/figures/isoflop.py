"""Loss against size, a curve for each budget, and where it is least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.contract import Optimum
from flops_fit.fitting.methods import kinds
from flops_fit.fitting.metrics import label, measured_by
from flops_fit.fitting.points import usable_points
from flops_fit.laws.prediction import Interval
from flops_fit.plan.run import Run
from flops_fit.report.figures.frames import Frame, frame
from flops_fit.report.figures.marks import (
    Axis,
    Line,
    Mark,
    Panel,
    Picture,
    Points,
    Shown,
    Symbol,
    column,
)
from flops_fit.report.figures.runs import BAR, Measured, measured
from flops_fit.report.figures.style import budget_role, power
from flops_fit.shown import span

CURVE_POINTS = 120


def isoflop(runs: Sequence[Run], answer: ScalingLaw | Refusal) -> Picture | None:
    """The runs of each budget, the curve through them, and its minimum with its 95% interval.

    None where no run of a budget has a loss.
    """
    known = measured(runs, answer)
    mine = known.where(lambda run: run.budget in known.budgets)
    if not mine:
        return None
    minima = intervals_of_minima(runs, answer)
    lowest = column([optimum.loss for optimum in answer.budgets])
    shown = frame(column([run.loss for run in mine]), keep=lowest)
    marks = chain.from_iterable(
        _budget(optimum, known, shown, minima) for optimum in answer.budgets
    )
    return Picture(
        name="isoflop",
        title=f"{label(answer.metric).capitalize()} at fixed compute, and where it is least",
        caption=_caption(known, minima),
        panels=(
            Panel(
                Axis("parameters N", Shown.COUNT),
                Axis(known.loss_label, Shown.PLAIN, shown.is_log, shown.limits),
                (*_left_out(known, shown), *marks),
                shown.notes,
            ),
        ),
        legend="budget, FLOPs",
    )


def intervals_of_minima(
    runs: Sequence[Run], answer: ScalingLaw | Refusal
) -> Mapping[float, Interval]:
    """Budget -> how far the noise of its runs moves N of its minimum, as factors, at 95%."""
    if not isinstance(answer, ScalingLaw):
        return {}
    points, _ = usable_points(measured_by(runs, answer.metric), answer.flop_rule)
    used = set(answer.rows_used)
    points = points.where(np.array([i in used for i in points.ids], dtype=bool))
    for kind in kinds():
        if kind.errors_of_optima is not None and kind.settings is not None and len(points):
            errors = kind.errors_of_optima(kind.settings(), points)
            return {c: (np.exp(-BAR * e), np.exp(BAR * e)) for c, e in errors.items() if e > 0}
    return {}


def _budget(
    optimum: Optimum, known: Measured, shown: Frame, minima: Mapping[float, Interval]
) -> list[Mark]:
    """Curve, runs and minimum of one budget."""
    colour = budget_role(optimum.budget, known.budgets)
    mine = known.where(lambda run: run.budget == optimum.budget)
    used = [run for run in mine if run.id in known.used]
    doubt = "" if optimum.is_bracketed else f" ({optimum.verdict})"
    name = power(optimum.budget) + doubt
    marks: list[Mark] = []
    if optimum.curve is not None and used:
        sizes = [run.num_params for run in used]
        n = np.geomspace(min(sizes), max(sizes), CURVE_POINTS)
        loss = np.asarray(optimum.curve(n))
        is_in = loss <= shown.limits[1]
        marks.append(Line(n[is_in], loss[is_in], colour, name))
        name = ""
    marks += known.points(used, _size, colour, Symbol.DOT, name, shown)
    if optimum.N_opt is not None and optimum.loss is not None:
        marks.append(_minimum(optimum, colour, minima.get(optimum.budget)))
    return marks


def _minimum(optimum: Optimum, colour: str, factors: Interval | None) -> Points:
    """The star of a budget: hollow where it is not trusted."""
    n = optimum.N_opt or np.nan
    bounds = None if factors is None else (n * factors[0], n * factors[1])
    said = f", 95%: {span(*bounds)}" if bounds else ""
    doubt = "" if optimum.is_bracketed else f", {optimum.verdict}: {optimum.reason}"
    return Points(
        x=column([n]),
        y=column([optimum.loss]),
        colour=colour,
        symbol=Symbol.STAR if optimum.is_bracketed else Symbol.HOLLOW_STAR,
        x_bars=None if bounds is None else np.array([bounds]),
        texts=[f"minimum at {optimum.budget:.3g} FLOPs{said}{doubt}"],
    )


def _left_out(known: Measured, shown: Frame) -> list[Mark]:
    """Hollow: runs of the budgets that the fit did not use, and runs of no such budget."""
    marks: list[Mark] = []
    name = "left out of the fit"
    for budget in known.budgets:
        runs = known.where(lambda run, c=budget: run.budget == c and run.id not in known.used)  # type: ignore[misc]
        if runs:
            colour = budget_role(budget, known.budgets)
            marks += known.points(runs, _size, colour, Symbol.HOLLOW, name, shown)
            name = ""
    others = known.where(lambda run: run.budget not in known.budgets)
    if others:
        marks += known.points(others, _size, "muted", Symbol.HOLLOW, "at other compute", shown)
    return marks


def _caption(known: Measured, minima: Mapping[float, Interval]) -> str:
    """How the figure is read."""
    said = ["Each curve is one budget: where it is least, that budget's best size (star)."]
    if minima:
        said.append("Bars on stars: 95% of N by the noise of the runs.")
    if known.loss_bars(known.runs) is not None:
        of = "repeated seeds" if known.noise else "the number of held-out samples"
        said.append(f"Bars on runs: 95% of the loss by {of}.")
    return " ".join(said)


def _size(run: Run) -> float:
    return run.num_params
