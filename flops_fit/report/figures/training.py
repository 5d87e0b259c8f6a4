"""Training curves, and whether those near the optima fall on one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flops_fit.fitting.collapse import WINDOW, Collapse, Curve
from flops_fit.laws import Array
from flops_fit.report.figures.frames import frame, linear_frame
from flops_fit.report.figures.marks import Axis, Line, Mark, Panel, Picture, Shown
from flops_fit.report.figures.style import budget_role, power

MOST_CURVES = 60
"""That are drawn: of more every other, or third."""

CURVE_POINTS = 60
"""To which a curve is averaged: evenly in logs of the tokens seen."""

FIRST_COMPARED = WINDOW[0]
"""Share of the training from which curves are laid on each other."""

FEWEST_POINTS = 2

FIRST = 0.02
"""Share of its training from which a curve is drawn."""


def training(
    curves: Sequence[Curve],
    flops: Mapping[str, float],
    budgets: Sequence[float],
    near: Sequence[Curve] = (),
    collapse: Collapse | None = None,
) -> Picture | None:
    """Loss along the training of runs, and of those near the optima over their loss at the end.

    `flops` are those of whole runs by id, `near` the curves that should have one shape and
    `collapse` how well they do. None without curves.
    """
    curves = [curve for curve in curves if _is_drawn(curve)]
    if not curves:
        return None
    step = -(-len(curves) // MOST_CURVES)
    panels = [_along(curves[::step], flops, budgets)]
    near = [curve for curve in near if _is_drawn(curve)]
    if near:
        panels.append(_on_one(near, budgets, collapse))
    return Picture(
        name="training",
        title="Training curves",
        caption=(
            "Training loss, averaged. "
            + ("Right: of the sizes nearest to the optimum of each budget, over the loss at the "
               "end: with rates that suit every size they fall on one curve." if near else "")
        ),
        panels=tuple(panels),
        legend="budget, FLOPs",
    )  # fmt: skip


def _is_drawn(curve: Curve) -> bool:
    """Whether it has a line even where curves are laid on each other."""
    share, _ = averaged(curve)
    return int((share > FIRST_COMPARED).sum()) >= FEWEST_POINTS


def averaged(curve: Curve) -> tuple[Array, Array]:
    """Share of the tokens and mean loss, (k,) each, evenly in logs of the share."""
    edges = np.geomspace(FIRST, 1.0, CURVE_POINTS + 1)
    late = curve.share > FIRST
    share, loss = curve.share[late], curve.loss[late]
    cell = np.clip(np.searchsorted(edges, share, side="left") - 1, 0, CURVE_POINTS - 1)
    counts = np.bincount(cell, minlength=CURVE_POINTS)
    has = counts > 0
    sums = (np.bincount(cell, weights=v, minlength=CURVE_POINTS)[has] for v in (share, loss))
    mean_share, mean_loss = (total / counts[has] for total in sums)
    return mean_share, mean_loss


def _along(curves: Sequence[Curve], flops: Mapping[str, float], budgets: Sequence[float]) -> Panel:
    marks: list[Mark] = []
    values = []
    for curve in curves:
        share, loss = averaged(curve)
        colour = budget_role(curve.budget, budgets, "run")
        marks.append(Line(share * flops[curve.id], loss, colour, width=0.8))
        values.append(loss)
    shown = frame(np.concatenate(values))
    return Panel(
        Axis("training compute spent, FLOPs", Shown.FLOPS),
        Axis("training loss", Shown.PLAIN, shown.is_log, shown.limits),
        tuple(marks),
    )


def _on_one(near: Sequence[Curve], budgets: Sequence[float], collapse: Collapse | None) -> Panel:
    marks: list[Mark] = []
    named: set[float] = set()
    values = []
    for curve in near:
        share, loss = averaged(curve)
        late = share > FIRST_COMPARED
        name = "" if curve.budget in named else power(curve.budget)
        named.add(curve.budget)
        colour = budget_role(curve.budget, budgets, "run")
        over_end = loss[late] / curve.final
        marks.append(Line(share[late], over_end, colour, name, width=0.9))
        values.append(over_end)
    shown = linear_frame(np.concatenate(values))
    return Panel(
        Axis("share of the training", Shown.PLAIN, False, (FIRST_COMPARED, 1.0)),
        Axis("training loss over loss at the end", Shown.PLAIN, False, shown.limits),
        tuple(marks),
        () if collapse is None else (_verdict(collapse),),
    )


def _verdict(collapse: Collapse) -> str:
    """How the noise share changes over the sweep, beside what well-chosen rates show."""
    low, high = np.exp(collapse.allowed)
    return (
        f"noise share from first to last budget: ×{np.exp(collapse.drift):.2g} "
        f"(well-chosen rates: ×{low:.2g} to ×{high:.2g})"
    )
