"""The best size and number of tokens against compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.contract import Optimum
from flops_fit.fitting.methods import in_words, number_of
from flops_fit.laws import Array, LawDraws, Optima
from flops_fit.laws.prediction import Interval, central_intervals
from flops_fit.plan.run import Run
from flops_fit.report.figures.isoflop import intervals_of_minima
from flops_fit.report.figures.marks import (
    Axis,
    Band,
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
from flops_fit.report.figures.style import OTHERS, budget_role, power
from flops_fit.report.summary import SHOWN_LEVEL
from flops_fit.shown import span

LINE_POINTS = 60

BEYOND = 1000.0
"""How far beyond the largest trained budget lines are drawn."""

BAND_SHOWN = 10.0
"""Factor beyond the lines to which a band is shown: one that tells nothing hides the rest."""

AROUND = 1.3
"""Factor by which axes go beyond what they show."""

INSIDE, OUTSIDE = Dashes.SOLID, Dashes.DASHED

TRAINED = "trained up to here"


@dataclass(frozen=True)
class Quantity:
    """One of the two that are best at a budget, and where laws, draws and budgets have it."""

    letter: str
    label: str
    of_law: Callable[[Optima], Callable[[Array], Array]]
    of_draws: Callable[[LawDraws], Callable[[Array], Array]]
    of_budget: Callable[[Optimum], float | None]
    interval_key: str


SIZE = Quantity(
    "N", "best size N (parameters)", lambda law: law.N_opt, lambda d: d.N_opt,
    lambda b: b.N_opt, "a",
)  # fmt: skip
TOKENS = Quantity(
    "D", "best length D (training tokens)", lambda law: law.D_opt, lambda d: d.D_opt,
    lambda b: b.D_opt, "b",
)  # fmt: skip


def optima(runs: Sequence[Run], law: ScalingLaw) -> Picture:
    """N_opt and D_opt against C by every method, the interval of the answer, the budgets' own."""
    minima = intervals_of_minima(runs, law)
    return Picture(
        name="optima",
        title="Compute-optimal size and tokens",
        caption=(
            f"Lines are solid where runs were trained, dashed beyond; the band is the "
            f"{SHOWN_LEVEL}% interval of the answer. Stars are the budgets' own minima, with 95% "
            "by the noise of their runs; hollow ones are not trusted."
        ),
        panels=tuple(_panel(runs, law, quantity, minima) for quantity in (SIZE, TOKENS)),
    )


def trained_range(runs: Sequence[Run], law: ScalingLaw) -> Interval:
    """FLOPs of the smallest and the largest trained budget that the fit used."""
    used = set(law.rows_used)
    budgets = [run.budget for run in runs if run.id in used]
    return min(budgets, default=law.largest_budget), law.largest_budget


def reach_of_lines(trained: Interval) -> Array:
    """The budgets at which lines are drawn, (n,), with both ends of the trained range."""
    low, high = trained
    inside = np.geomspace(low, high, LINE_POINTS) if high > low else np.array([high])
    return np.concatenate([inside, np.geomspace(high, BEYOND * high, LINE_POINTS)[1:]])


def line_in_two(
    flops: Array, values: Array, trained: Interval, colour: str, name: str, width: float = 1.4
) -> list[Mark]:
    """A law's line, solid where runs were trained and dashed beyond."""
    inside, beyond = flops <= trained[1], flops >= trained[1]
    return [
        Line(flops[inside], values[inside], colour, name, INSIDE, width),
        Line(flops[beyond], values[beyond], colour, "", OUTSIDE, width),
    ]


def band(flops: Array, of_draws: Callable[[Array], Array], colour: str, name: str = "") -> Band:
    """The interval at `SHOWN_LEVEL` of what the draws say at each budget."""
    nowhere = (np.nan, np.nan)
    bounds = [central_intervals(of_draws(c)).get(SHOWN_LEVEL, nowhere) for c in flops]
    low, high = np.array(bounds).T
    return Band(flops, low, high, colour, name)


def _panel(
    runs: Sequence[Run], law: ScalingLaw, quantity: Quantity, minima: Mapping[float, Interval]
) -> Panel:
    trained = trained_range(runs, law)
    flops = reach_of_lines(trained)
    marks: list[Mark] = []
    if law.draws is not None:
        marks.append(band(flops, quantity.of_draws(law.draws), "answer"))
    others = [method for method in law.fits.laws if method != law.answer]
    for method, colour in zip(others, OTHERS, strict=False):
        values = quantity.of_law(law.of(method))(flops)
        name = f"{in_words(method)}: {exponent(law, method, quantity, trained)}"
        marks += line_in_two(flops, values, trained, colour, name)
    name = f"answer ({number_of(law.answer)}): {exponent(law, law.answer, quantity, trained)}"
    answer = quantity.of_law(law.law)(flops)
    marks += line_in_two(flops, answer, trained, "answer", name, width=2.0)
    marks += [_star(optimum, quantity, law, minima) for optimum in law.budgets]
    marks.append(Rule(law.largest_budget, is_vertical=True, label=TRAINED))
    return Panel(
        Axis("training compute C, FLOPs", Shown.FLOPS),
        Axis(quantity.label, Shown.COUNT, limits=_limits(marks)),
        tuple(marks),
        (formula(law, quantity, trained),),
        Corner.UPPER_LEFT,
    )


def _limits(marks: Sequence[Mark]) -> Interval:
    """Of what lines and stars need, and of the band as far as `BAND_SHOWN` beyond these."""
    shown = [m.y for m in marks if isinstance(m, Line | Points)]
    low, high = (float(end(np.concatenate(shown))) for end in (np.nanmin, np.nanmax))
    bands = [m for m in marks if isinstance(m, Band)]
    lowest = min([low, *(float(np.nanmin(b.low)) for b in bands)])
    highest = max([high, *(float(np.nanmax(b.high)) for b in bands)])
    return max(lowest, low / BAND_SHOWN) / AROUND, min(highest, high * BAND_SHOWN) * AROUND


def formula(law: ScalingLaw, quantity: Quantity, trained: Interval) -> str:
    """The answer as a power law with the exponent of the trained range, exact at its upper end."""
    low, high = trained
    values = quantity.of_law(law.law)
    if high <= low:
        return f"{quantity.letter}_{{opt}} = {float(values(np.array(high))):.3g} at one budget"
    slope = law.of(law.answer).a if quantity is SIZE else _slope(values, trained)
    coefficient = float(values(np.array(high))) / high**slope
    shown = power(coefficient) if not 1e-3 <= coefficient < 1e4 else f"{coefficient:.3g}"
    return f"{quantity.letter}_{{opt}} = {shown} C^{{{slope:.3f}}}"


def exponent(law: ScalingLaw, method: str, quantity: Quantity, trained: Interval) -> str:
    """The exponent of a method over the trained range, with its interval where there is one."""
    fitted, draws = law.fits.law_and_draws(method)
    key = f"{method}.{quantity.interval_key}"
    is_range = trained[1] > trained[0]
    value = fitted.a if quantity is SIZE else 1 - fitted.a
    if quantity is TOKENS and is_range:
        value = _slope(quantity.of_law(fitted), trained)
    bounds = law.intervals.get(key, {}).get(SHOWN_LEVEL)
    if bounds is None and draws is not None and is_range:
        slopes = _slopes(quantity.of_draws(draws), trained)
        bounds = central_intervals(slopes).get(SHOWN_LEVEL)
    said = f" ({bounds[0]:.3f}-{bounds[1]:.3f})" if bounds else ""
    return f"C^{{{value:.3f}}}{said}"


def _slope(values: Callable[[Array], Array], trained: Interval) -> float:
    """d ln / d ln C between the ends of the trained range."""
    return float(_slopes(values, trained))


def _slopes(values: Callable[[Array], Array], trained: Interval) -> Array:
    low, high = (np.asarray(values(np.array(c))) for c in trained)
    return np.asarray(np.log(high / low) / np.log(trained[1] / trained[0]))


def _star(
    optimum: Optimum, quantity: Quantity, law: ScalingLaw, minima: Mapping[float, Interval]
) -> Points:
    """What a budget says by itself. D is C over N's FLOPs a token: its interval is N's, turned."""
    value = quantity.of_budget(optimum)
    factors = minima.get(optimum.budget) if value is not None else None
    bounds: Interval | None = None
    if factors is not None and optimum.N_opt is not None and value is not None:
        sizes = [optimum.N_opt * factor for factor in factors]
        ends = sizes
        if quantity is TOKENS:
            ends = [float(law.flop_rule.tokens(optimum.flops, n)) for n in reversed(sizes)]
        bounds = ends[0], ends[1]
    said = f", 95%: {span(*bounds)}" if bounds else ""
    return Points(
        x=column([optimum.flops]),
        y=column([value]),
        colour=budget_role(optimum.budget, [b.budget for b in law.budgets]),
        symbol=Symbol.STAR if optimum.is_bracketed else Symbol.HOLLOW_STAR,
        y_bars=None if bounds is None else np.array([bounds]),
        texts=[f"minimum at {optimum.budget:.3g} FLOPs{said}"],
    )
