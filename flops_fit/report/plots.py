"""Figures of a law: values in, a matplotlib Figure out. The law draws its own curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from flops_fit.answers.comparison import Comparison
from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.contract import Optimum
from flops_fit.fitting.metrics import label, measured_by
from flops_fit.laws import Array, Law
from flops_fit.laws.prediction import central_intervals
from flops_fit.plan.run import Run
from flops_fit.shown import short_number

CURVE_POINTS = 200
LINE_POINTS = 40
BEYOND = 1000.0
"""How far beyond the largest trained budget the lines of the optima are drawn."""

Colour = tuple[float, float, float, float]

NO_BUDGET: Colour = (0.6, 0.6, 0.6, 1.0)
"""Colour of runs that share their compute with no other."""

BAND_LEVEL = "95"
"""Percent. The shaded interval."""

SIDE_COLOURS = ("tab:blue", "tab:orange")
"""Colours of the two sides of a comparison."""

PAST_CROSSING = 3.0
"""How far a comparison is drawn beyond its crossing."""


class Curves(Protocol):
    """What is drawn of a fit beside its runs, whether it gave a law or not."""

    @property
    def budgets(self) -> tuple[Optimum, ...]: ...

    @property
    def rows_used(self) -> tuple[str, ...]: ...

    @property
    def metric(self) -> str: ...


def plot_isoflop(runs: Sequence[Run], fitted: Curves) -> Figure:
    """What was fitted against N, one colour per budget: runs, the fitted curve, its minimum.

    Hollow points were left out of the fit; a hollow star is a minimum that is not trusted. Budgets
    that have no curve are their points.
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    runs, used = measured_by(runs, fitted.metric), set(fitted.rows_used)
    for optimum, colour in zip(fitted.budgets, budget_colours(len(fitted.budgets)), strict=True):
        mine = [r for r in runs if r.budget == optimum.budget]
        _draw_runs(axes, mine, colour, used)
        _draw_curve(axes, optimum, colour, [run.num_params for run in mine])
    budgets = {optimum.budget for optimum in fitted.budgets}
    _draw_runs(axes, [r for r in runs if r.budget not in budgets], NO_BUDGET, used)
    axes.set_xscale("log")
    axes.set_xlabel("parameters N")
    axes.set_ylabel(f"held-out {label(fitted.metric)}")
    axes.set_title(f"{label(fitted.metric).capitalize()} at fixed compute, and its minimum")
    _count_ticks(axes.xaxis)
    axes.grid(alpha=0.3)
    if fitted.budgets:
        figure.legend(title="budget, FLOPs", fontsize="small", loc="outside right upper")
    return figure


def plot_optima(law: ScalingLaw) -> Figure:
    """N_opt and D_opt against C: the budgets' minima, the law's line, its interval."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_optima(left, law, "parameters N_opt", lambda law: law.N_opt, lambda b: b.N_opt)
    _draw_optima(right, law, "training tokens D_opt", lambda law: law.D_opt, lambda b: b.D_opt)
    figure.suptitle(f"Compute-optimal size and tokens ({law.answer})")
    return figure


def plot_comparison(comparison: Comparison) -> Figure:
    """Best loss of both laws against compute with its interval, where they cross, what is trained.

    The bars at the bottom are the trained ranges, their ticks the budgets.
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    sides = (comparison.a, comparison.b)
    flops = _flops_to_compare(comparison)
    for side, colour, height in zip(sides, SIDE_COLOURS, (0.02, 0.05), strict=True):
        axes.plot(flops, side.law.loss_opt(flops), color=colour, lw=1.4, label=side.name)
        if side.draws is not None:
            _draw_band(axes, flops, side.draws.loss_opt, colour, None)
        axes.plot(
            side.budgets, [height] * len(side.budgets), "|-", color=colour, lw=3, ms=8,
            transform=axes.get_xaxis_transform(), label=f"{side.name} trained",
        )  # fmt: skip
    if comparison.crossing.flops is not None:
        loss = float(comparison.a.law.loss_opt(comparison.crossing.flops))
        equal = f"equal at {comparison.crossing.flops:.2g} FLOPs"
        axes.plot(comparison.crossing.flops, loss, "o", mfc="none", mec="black", ms=10, label=equal)
    axes.set_xscale("log")
    axes.set_xlabel("training compute C, FLOPs")
    axes.set_ylabel(f"best held-out {label(comparison.a.metric)} at C")
    axes.set_title(f"{comparison.a.name} against {comparison.b.name}, with {BAND_LEVEL}% bands")
    axes.margins(y=0.12)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return figure


def _flops_to_compare(comparison: Comparison) -> Array:
    """From the smallest trained budget to 100 times the largest, or past the crossing."""
    budgets = [row.budget for row in comparison.rows]
    past = PAST_CROSSING * (comparison.crossing.flops or 0.0)
    return np.geomspace(min(budgets), max(*budgets, past), LINE_POINTS)


def _draw_band(
    axes: Axes,
    flops: Array,
    of_draws: Callable[[Array], Array],
    colour: Colour | str,
    label: str | None,
) -> None:
    """The interval at `BAND_LEVEL` of what the draws say at each budget."""
    bounds = [central_intervals(of_draws(c))[BAND_LEVEL] for c in flops]
    low, high = zip(*bounds, strict=True)
    axes.fill_between(flops, low, high, color=colour, alpha=0.15, lw=0, label=label)


def budget_colours(count: int) -> list[Colour]:
    """One colour per budget, from small to large, the same in every figure."""
    return [colormaps["viridis"](0.9 * i / max(1, count - 1)) for i in range(count)]


def _draw_runs(axes: Axes, runs: Sequence[Run], colour: Colour, used: set[str]) -> None:
    for run in runs:
        if run.loss is not None:
            face = colour if run.id in used else "none"
            axes.plot(run.num_params, run.loss, "o", color=colour, mfc=face, ms=5)


def _draw_curve(axes: Axes, optimum: Optimum, colour: Colour, num_params: Sequence[float]) -> None:
    label = f"{optimum.budget:.3g}" + ("" if optimum.is_bracketed else f" ({optimum.verdict})")
    if optimum.curve is None or optimum.N_opt is None or optimum.loss is None:
        axes.plot([], [], color=colour, label=label)
        return
    n = np.geomspace(min(num_params), max(num_params), CURVE_POINTS)
    axes.plot(n, optimum.curve(n), color=colour, lw=1.2, label=label)
    face = colour if optimum.is_bracketed else "none"
    axes.plot(optimum.N_opt, optimum.loss, "*", color=colour, mfc=face, mec="black", ms=13)


def _draw_optima(
    axes: Axes,
    law: ScalingLaw,
    what: str,
    of_law: Callable[[Law], Callable[[Array], Array]],
    of_budget: Callable[[Optimum], float | None],
) -> None:
    smallest = min((b.budget for b in law.budgets), default=law.largest_budget / BEYOND)
    flops = np.geomspace(smallest, BEYOND * law.largest_budget, LINE_POINTS)
    axes.plot(flops, of_law(law.law)(flops), color="black", lw=1.2, label="law")
    if law.draws is not None:
        _draw_band(axes, flops, of_law(law.draws), "black", f"{BAND_LEVEL}%")
    for optimum, colour in zip(law.budgets, budget_colours(len(law.budgets)), strict=True):
        value = of_budget(optimum)
        if value is None:
            continue
        face = colour if optimum.is_bracketed else "none"
        axes.plot(optimum.flops, value, "*", color=colour, mfc=face, mec="black", ms=12)
    axes.axvline(law.largest_budget, color="grey", lw=0.8, ls=":")
    axes.annotate(
        " trained",
        (law.largest_budget, 0.02),
        xycoords=("data", "axes fraction"),
        ha="right",
        fontsize="small",
        color="grey",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training compute C, FLOPs")
    axes.set_ylabel(what)
    _count_ticks(axes.yaxis)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)


def _count_ticks(axis: object) -> None:
    """Labels such as 1k, 3k, 10k."""
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))  # type: ignore[attr-defined]
    axis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))  # type: ignore[attr-defined]
    axis.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]
