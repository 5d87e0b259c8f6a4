"""Two laws on the same axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flops_fit.answers.comparison import AtBudget, Comparison, Contender, Estimate
from flops_fit.answers.crossing import flops_to_reach
from flops_fit.answers.optima import OptimaComparison, OptimumAt, Side
from flops_fit.fitting.metrics import label
from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval
from flops_fit.report.figures.marks import (
    Axis,
    Corner,
    Dashes,
    Line,
    Mark,
    Panel,
    Picture,
    Points,
    Rule,
    Shown,
    Symbol,
    column,
)
from flops_fit.report.figures.optima import LINE_POINTS, SIZE, TOKENS, Quantity, band
from flops_fit.report.figures.style import power
from flops_fit.report.summary import SHOWN_LEVEL

SIDES = (("first", Dashes.SOLID, Symbol.DOT), ("second", Dashes.DASHED, Symbol.DIAMOND))
"""Colour, dashes and symbol of the two sides: any one of them tells them apart."""

PAST_CROSSING = 3.0
"""How far a comparison is drawn beyond its crossing."""


def comparison(found: Comparison) -> Picture:
    """Best losses with bands and where they cross; and the compute that B needs for A's loss."""
    flops = _flops(found)
    return Picture(
        name="comparison",
        title=f"{found.a.name} against {found.b.name}",
        caption=(
            f"Left: the best loss each can reach, with its {SHOWN_LEVEL}% band; points mark the "
            f"trained budgets. Right: how many times the compute {found.b.name} needs to reach "
            f"the loss of {found.a.name}, with {SHOWN_LEVEL}% bars; above 1, {found.a.name} is "
            "ahead."
        ),
        panels=(_losses(found, flops), _multiplier(found, flops)),
    )


def optima_comparison(found: OptimaComparison) -> Picture:
    """Best size and length of two laws, one of them published or both."""
    flops = np.geomspace(found.rows[0].budget, found.rows[-1].budget, LINE_POINTS)
    panels = (
        _optima(SIZE, found, flops, lambda optimum: optimum.num_params),
        _optima(TOKENS, found, flops, lambda optimum: optimum.num_tokens),
    )
    return Picture(
        name="comparison",
        title=f"{found.a.name} against {found.b.name}",
        caption=(
            f"The compute-optimal size and length by both, with {SHOWN_LEVEL}% bars where a law "
            f"has intervals. N counts: {found.a.counts} ({found.a.name}); {found.b.counts} "
            f"({found.b.name})."
        ),
        panels=panels,
    )


def _flops(found: Comparison) -> Array:
    """From the smallest trained budget to 100 times the largest, or past the crossing."""
    budgets = [row.budget for row in found.rows]
    past = PAST_CROSSING * (found.crossing.flops or 0.0)
    return np.geomspace(min(budgets), max(*budgets, past), LINE_POINTS)


def _losses(found: Comparison, flops: Array) -> Panel:
    marks: list[Mark] = []
    for side, (colour, dashes, symbol) in zip((found.a, found.b), SIDES, strict=True):
        if side.draws is not None:
            marks.append(band(flops, side.draws.loss_opt, colour))
        loss = np.asarray(side.law.loss_opt(flops))
        marks.append(Line(flops, loss, colour, side.name, dashes, 2.0))
        marks.append(_trained(side, colour, symbol))
    notes = ["the losses don't cross up to 1000 times the largest budget"]
    if found.crossing.flops is not None:
        loss = np.asarray(found.a.law.loss_opt(np.array([found.crossing.flops])))
        marks.append(_crossing(found, loss))
        notes = [f"equal at {power(found.crossing.flops)} FLOPs{_crossing_interval(found)}"]
    return Panel(
        Axis("training compute C, FLOPs", Shown.FLOPS),
        Axis(f"best held-out {label(found.a.metric)}", Shown.PLAIN, False),
        tuple(marks),
        tuple(notes),
    )


def _trained(side: Contender, colour: str, symbol: Symbol) -> Points:
    budgets = column(side.budgets)
    return Points(
        x=budgets,
        y=np.asarray(side.law.loss_opt(budgets)),
        colour=colour,
        symbol=symbol,
        name=f"{side.name}, trained",
        texts=[f"{side.name} at {c:.3g} FLOPs" for c in side.budgets],
    )


def _crossing(found: Comparison, loss: Array) -> Points:
    bounds = found.crossing.intervals.get(SHOWN_LEVEL)
    is_told = bounds is not None and bounds[0] > 0 and np.isfinite(bounds[1])
    return Points(
        x=column([found.crossing.flops]),
        y=loss,
        colour="answer",
        symbol=Symbol.HOLLOW_STAR,
        name="equal loss",
        x_bars=np.array([bounds]) if is_told else None,
        texts=["equal loss"],
    )


def _crossing_interval(found: Comparison) -> str:
    bounds = found.crossing.intervals.get(SHOWN_LEVEL)
    if bounds is None or not (bounds[0] > 0 and np.isfinite(bounds[1])):
        return ""
    return f" ({SHOWN_LEVEL}%: {power(bounds[0])} to {power(bounds[1])})"


def _multiplier(found: Comparison, flops: Array) -> Panel:
    """The line by the laws, the bars by the draws at the budgets of the table."""
    needed = np.asarray(flops_to_reach(found.b.law, found.a.law.loss_opt(flops))) / flops
    rows = [row for row in found.rows if row.multiplier.value is not None]
    marks: list[Mark] = [
        Rule(1.0, is_vertical=False, label="equal"),
        Line(flops, np.where(np.isfinite(needed), needed, np.nan), "answer", width=2.0),
        Points(
            x=column([row.budget for row in rows]),
            y=column([row.multiplier.value for row in rows]),
            colour="answer",
            symbol=Symbol.SQUARE,
            y_bars=np.array([_finite(row) for row in rows]) if rows else None,
            texts=[f"at {row.budget:.3g} FLOPs" for row in rows],
        ),
    ]
    lost = len(found.rows) - len(rows)
    note = f"at {lost} of {len(found.rows)} budgets no amount of compute is enough"
    return Panel(
        Axis("training compute C, FLOPs", Shown.FLOPS),
        Axis(f"compute that {found.b.name} needs, over C", Shown.FACTOR),
        tuple(marks),
        (note,) if lost else (),
    )


def _finite(row: AtBudget) -> Interval:
    """The bounds of a multiplier, NaN where there is no limit."""
    low, high = row.multiplier.intervals.get(SHOWN_LEVEL, (np.nan, np.nan))
    return (low, high) if low > 0 and np.isfinite(high) else (np.nan, np.nan)


def _optima(
    quantity: Quantity,
    found: OptimaComparison,
    flops: Array,
    estimate: Callable[[OptimumAt], Estimate],
) -> Panel:
    marks: list[Mark] = []
    told = ([estimate(row.a) for row in found.rows], [estimate(row.b) for row in found.rows])
    for side, at_rows, (colour, dashes, symbol) in zip(
        (found.a, found.b), told, SIDES, strict=True
    ):
        values = np.asarray(quantity.of_law(side.law)(flops))
        marks.append(Line(flops, values, colour, side.name, dashes, 2.0))
        marks.append(_at_rows(side, at_rows, found, colour, symbol))
    return Panel(
        Axis("training compute C, FLOPs", Shown.FLOPS),
        Axis(quantity.label, Shown.COUNT),
        tuple(marks),
        corner=Corner.UPPER_LEFT,
    )


def _at_rows(
    side: Side, told: Sequence[Estimate], found: OptimaComparison, colour: str, symbol: Symbol
) -> Points:
    """What a side says at the budgets of the table, with its intervals."""
    bounds = [one.intervals.get(SHOWN_LEVEL, (np.nan, np.nan)) for one in told]
    return Points(
        x=column([row.budget for row in found.rows]),
        y=column([one.value for one in told]),
        colour=colour,
        symbol=symbol,
        y_bars=np.array(bounds, dtype=float),
        texts=[f"{side.name} at {row.budget:.3g} FLOPs" for row in found.rows],
    )
