"""How far the runs lie from the law that answers, against their size and their length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.methods import in_words
from flops_fit.fitting.metrics import label
from flops_fit.laws import Array
from flops_fit.laws.prediction import LossLaw
from flops_fit.plan.run import Run
from flops_fit.report.figures.contours import knowing_law
from flops_fit.report.figures.frames import linear_frame
from flops_fit.report.figures.marks import (
    Axis,
    Mark,
    Panel,
    Picture,
    Points,
    Rule,
    Shown,
    Symbol,
    column,
)
from flops_fit.report.figures.runs import Measured, measured
from flops_fit.report.figures.style import budget_role, power


@runtime_checkable
class KnowsRepeats(Protocol):
    """A law that tells the loss of a run by how many of its tokens are different, too."""

    @property
    def unique_tokens(self) -> float: ...

    def loss(self, num_params: ArrayLike, num_tokens: ArrayLike, unique: ArrayLike) -> Array: ...


def residuals(runs: Sequence[Run], law: ScalingLaw) -> Picture | None:
    """Measured over fitted loss, less 1, of each run that the fit used.

    None where no law knows the loss of any size.
    """
    found, known = knowing_law(law), measured(runs, law)
    used = known.where(lambda run: run.id in known.used)
    if found is None or not used:
        return None
    method, fitted = found
    off = column([run.loss for run in used]) / fitted_losses(fitted, used) - 1
    half = float(np.median(np.abs(off)))
    panels = tuple(
        _panel(known, used, off, of_run, axis)
        for of_run, axis in (
            (_size, Axis("parameters N", Shown.COUNT)),
            (_tokens, Axis("training tokens D", Shown.COUNT)),
        )
    )
    return Picture(
        name="residuals",
        title="How far runs lie from the law",
        caption=(
            f"Measured over fitted {label(law.metric)}, by {in_words(method)}: half of the runs "
            f"lie within {half:.2%}. A trend along an axis says that the law has another shape "
            "than the runs."
        ),
        panels=panels,
        legend="budget, FLOPs" if known.budgets else "",
    )


def fitted_losses(law: LossLaw, runs: Sequence[Run]) -> Array:
    """What a law says of the runs' losses, (n,)."""
    n, d = column([run.num_params for run in runs]), column([run.num_tokens for run in runs])
    unique = column([run.unique_tokens for run in runs])
    with np.errstate(over="ignore"):  # a steep law far away: infinite
        if isinstance(law, KnowsRepeats) and np.isfinite(unique).all():
            return np.asarray(law.loss(n, d, unique))
        return np.asarray(law(n, d))


def _panel(
    known: Measured, used: Sequence[Run], off: Array, of_run: Callable[[Run], float], x: Axis
) -> Panel:
    shown = linear_frame(off)
    top = shown.limits[1]
    marks: list[Mark] = [Rule(0.0, is_vertical=False)]
    groups = [*known.budgets, None]
    for budget in groups:
        mine = [i for i, run in enumerate(used) if _budget(run, known) == budget]
        if mine:
            role = known.others_colour if budget is None else budget_role(budget, known.budgets)
            name = "" if budget is None else power(budget)
            marks += _points(known, used, off, mine, of_run, role, name, top)
    return Panel(
        x,
        Axis("measured over fitted, less 1", Shown.PERCENT, False, shown.limits),
        tuple(marks),
        tuple(note.replace("up to", "up to a share of") for note in shown.notes),
    )


def _budget(run: Run, known: Measured) -> float | None:
    return run.budget if run.budget in known.budgets else None


def _points(
    known: Measured,
    used: Sequence[Run],
    off: Array,
    mine: Sequence[int],
    of_run: Callable[[Run], float],
    role: str,
    name: str,
    top: float,
) -> list[Mark]:
    """Those of one budget; what lies above the panel stands at its edge."""
    inside, above = ([i for i in mine if (off[i] > top) == is_above] for is_above in (False, True))
    return [
        Points(
            x=column([of_run(used[i]) for i in rows]),
            y=np.minimum(off[rows], top),
            colour=role,
            symbol=symbol,
            name=entry,
            texts=[f"{known.text(used[i])}, {off[i]:+.2%}" for i in rows],
        )
        for rows, symbol, entry in ((inside, Symbol.DOT, name), (above, Symbol.ABOVE, ""))
        if rows
    ]


def _size(run: Run) -> float:
    return run.num_params


def _tokens(run: Run) -> float:
    return run.num_tokens
