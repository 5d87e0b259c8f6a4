"""The loss of any size and length, with the runs that tell it and the best path through it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.methods import in_words, preference_of
from flops_fit.fitting.metrics import label
from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval, LossLaw
from flops_fit.plan.run import Run
from flops_fit.report.figures.marks import (
    Axis,
    Contours,
    Corner,
    Dashes,
    Line,
    Mark,
    Panel,
    Picture,
    Points,
    Shown,
    Symbol,
    column,
)
from flops_fit.report.figures.optima import LINE_POINTS, trained_range
from flops_fit.report.figures.runs import Measured, measured
from flops_fit.report.figures.style import budget_role

GRID = 60
"""Points along each side."""

NUM_LEVELS = 12

MOST = 0.95
"""Share of the runs that lie below the highest level."""

NEAREST = 0.03
"""Share of the range of the levels at which the lowest lies above the least loss."""

AROUND = 2.0
"""Factor by which the axes go beyond the runs."""

FARTHEST = 10.0
"""Multiple of the largest trained budget to which the best path is drawn."""


def knowing_law(law: ScalingLaw) -> tuple[str, LossLaw] | None:
    """The law that knows the loss of any size: the one that answers, else the preferred."""
    laws = law.fits.knowing
    if not laws:
        return None
    method = min(laws, key=lambda m: (m != law.answer, preference_of(m)))
    return method, laws[method]


def contours(runs: Sequence[Run], law: ScalingLaw) -> Picture | None:
    """Lines of equal loss over N and D, runs, and the best N and D at each compute.

    None where no law knows the loss of any size, or no run has one.
    """
    found, known = knowing_law(law), measured(runs, law)
    if found is None or not known.runs:
        return None
    method, fitted = found
    n, d = (_axis([run.num_params for run in known.runs]), _axis(_tokens(known.runs)))
    loss = _losses(fitted, n, d)
    levels = _levels(loss, column([run.loss for run in known.runs]))
    return Picture(
        name="contours",
        title=f"{label(law.metric).capitalize()} of any size and length",
        caption=(
            f"Lines of equal loss by {in_words(method)}. The thick line is the best size and "
            "length at each compute, dashed beyond what was trained; thin dashed lines are "
            "budgets. Hollow runs were left out of the fit."
        ),
        panels=(
            Panel(
                Axis("parameters N", Shown.COUNT, limits=_ends(n)),
                Axis("training tokens D", Shown.COUNT, limits=_ends(d)),
                (
                    Contours(n, d, loss, levels, label(law.metric)),
                    *_budgets(law, n, d),
                    *_path(fitted, trained_range(runs, law), n, d),
                    *_runs(known),
                ),
                corner=Corner.LOWER_LEFT,
            ),
        ),
    )


def _losses(law: LossLaw, n: Array, d: Array) -> Array:
    """Of each size after each length, (d, n); those of a steep law too high for a float as high as
    the others go."""
    with np.errstate(over="ignore"):
        loss = np.asarray(law(n[None, :], d[:, None]))
    known = np.isfinite(loss)
    return np.where(known, loss, loss[known].max())


def _tokens(runs: Sequence[Run]) -> list[float]:
    return [run.num_tokens for run in runs]


def _axis(values: Sequence[float]) -> Array:
    """Evenly in logs over the values and a little beyond, (GRID,)."""
    return np.geomspace(min(values) / AROUND, max(values) * AROUND, GRID)


def _ends(values: Array) -> Interval:
    return float(values[0]), float(values[-1])


def _levels(loss: Array, measured_losses: Array) -> Array:
    """Losses between the least on the grid and those of most runs, closer to each other where the
    loss is low: evenly in logs of what is above the least."""
    low, top = float(loss.min()), float(np.quantile(measured_losses, MOST))
    span = top - low if top > low else float(np.ptp(loss))
    return np.unique([_short(low + x) for x in np.geomspace(NEAREST * span, span, NUM_LEVELS)])


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _budgets(law: ScalingLaw, n: Array, d: Array) -> list[Mark]:
    """N and D that spend each budget."""
    budgets = [optimum.budget for optimum in law.budgets]
    marks: list[Mark] = []
    for budget in budgets:
        tokens = np.asarray(law.flop_rule.tokens(budget, n))
        is_in = (tokens >= d[0]) & (tokens <= d[-1])
        if is_in.sum() > 1:
            colour = budget_role(budget, budgets)
            marks.append(Line(n[is_in], tokens[is_in], colour, dashes=Dashes.DASHED, width=0.8))
    return marks


def _path(law: LossLaw, trained: Interval, n: Array, d: Array) -> list[Mark]:
    """The best N and D of each compute, as far as the axes go."""
    low, high = trained
    marks: list[Mark] = []
    for ends, dashes, name in (
        ((low, high), Dashes.SOLID, "best at each compute"),
        ((high, FARTHEST * high), Dashes.DASHED, ""),
    ):
        flops = np.geomspace(*ends, LINE_POINTS)
        sizes, tokens = np.asarray(law.N_opt(flops)), np.asarray(law.D_opt(flops))
        is_in = (sizes >= n[0]) & (sizes <= n[-1]) & (tokens >= d[0]) & (tokens <= d[-1])
        if is_in.sum() > 1:
            marks.append(Line(sizes[is_in], tokens[is_in], "answer", name, dashes, 2.2))
    return marks


def _runs(known: Measured) -> list[Mark]:
    """Runs at their N and D, by their budgets, hollow where they were left out."""
    groups: dict[tuple[str, Symbol], list[Run]] = {}
    for run in known.runs:
        symbol = Symbol.DOT if run.id in known.used else Symbol.HOLLOW
        colour = budget_role(run.budget, known.budgets, known.others_colour)
        groups.setdefault((colour, symbol), []).append(run)
    return [_places(known, runs, colour, symbol) for (colour, symbol), runs in groups.items()]


def _places(known: Measured, runs: Sequence[Run], colour: str, symbol: Symbol) -> Mark:
    return Points(
        x=column([run.num_params for run in runs]),
        y=column([run.num_tokens for run in runs]),
        colour=colour,
        symbol=symbol,
        texts=[f"{known.text(run)}, loss {run.loss:.4g}" for run in runs],
    )
