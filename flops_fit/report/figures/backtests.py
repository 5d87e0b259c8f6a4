"""What smaller budgets said of the larger ones, and how far off that was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.examine.diagnostics import BackTest
from flops_fit.fitting.methods import number_of
from flops_fit.fitting.metrics import label
from flops_fit.laws import Array
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
from flops_fit.report.figures.runs import BAR
from flops_fit.report.figures.style import OTHERS, budget_role, power

DODGE = 1.015
"""Factor in compute between dots of different budgets, which would hide each other."""

SYMBOLS = (Symbol.SQUARE, Symbol.DIAMOND, Symbol.HOLLOW)
"""Of single methods, which are told apart by more than colour."""


DOTS = (
    "Each dot: the weighed methods fitted up to a budget (its colour), asked for a larger one that "
    "was trained; dots of one distance stand side by side. Bars: the 95% interval stated for it, "
    "which should hold the dotted line (exact) in 19 of 20. "
)


class Forecast(Protocol):
    """One forecast of ln of a number from what was known at `level` FLOPs: its error, forecast
    less measured, and the standard deviation that was stated for it."""

    @property
    def level(self) -> float: ...
    @property
    def distance(self) -> float: ...
    @property
    def error(self) -> float: ...
    @property
    def stated(self) -> float: ...


class Tested(Protocol):
    """The forecasts of one number, and the factor on the stated variances that they taught."""

    @property
    def tests(self) -> Sequence[Forecast]: ...
    @property
    def factor(self) -> float: ...


@runtime_checkable
class RollingTested(Protocol):
    """A law that was held against its own forecasts, cut by cut."""

    @property
    def parts(self) -> Mapping[str, Any]: ...
    @property
    def size(self) -> Tested: ...
    @property
    def loss(self) -> Tested: ...


def backtests(law: ScalingLaw) -> Picture | None:
    """Errors of loss and N of forecasts from smaller budgets, against how far they reached.

    None where there are none.
    """
    laws = (law.law, *law.fits.laws.values())
    rolling = next((one for one in laws if isinstance(one, RollingTested)), None)
    alone = law.diagnostics.numbers.back_tests
    panels = [
        _panel(
            law,
            rolling.loss if rolling else None,
            [(test, test.loss_error) for test in alone],
            np.expm1,
            Axis(f"forecast over measured {label(law.metric)}, less 1", Shown.PERCENT, False),
        ),
        _panel(
            law,
            rolling.size if rolling else None,
            [(t, 10**e) for t in alone if (e := t.log10_num_params_error) is not None],
            np.exp,
            Axis("forecast over measured best N", Shown.FACTOR),
        ),
    ]
    found = tuple(panel for panel in panels if panel is not None)
    if not found:
        return None
    return Picture(
        name="backtests",
        title="Forecasts of budgets from smaller ones",
        caption=(
            (DOTS if rolling is not None and rolling.loss.tests else "")
            + "Squares and diamonds: one method alone, without the largest budget."
        ),
        panels=found,
        legend="fitted up to, FLOPs",
    )


def _panel(
    law: ScalingLaw,
    rolling: Tested | None,
    alone: Sequence[tuple[BackTest, float]],
    of_log: Callable[[Array], Array],
    y: Axis,
) -> Panel | None:
    tests = rolling.tests if rolling is not None else ()
    if not tests and not alone:
        return None
    marks: list[Mark] = [Rule(float(of_log(np.array(0.0))), is_vertical=False)]
    widening = np.sqrt(rolling.factor) if rolling is not None else 1.0
    budgets = [optimum.budget for optimum in law.budgets]
    levels = sorted({test.level for test in tests})
    for number, level in enumerate(levels):
        mine = [test for test in tests if test.level == level]
        dots = _dots(mine, level, widening, of_log, budget_role(level, budgets, "run"))
        aside = DODGE ** (number - (len(levels) - 1) / 2)
        marks.append(replace(dots, x=dots.x * aside))
    methods = sorted({test.method for test, _ in alone})
    for method, colour, symbol in zip(methods, OTHERS, SYMBOLS, strict=False):
        marks.append(_of_method(method, alone, colour, symbol))
    return Panel(
        Axis("compute asked for, over the largest that was fitted", Shown.FACTOR), y, tuple(marks)
    )


def _dots(
    tests: Sequence[Forecast],
    level: float,
    widening: float,
    of_log: Callable[[Array], Array],
    colour: str,
) -> Points:
    error, stated = column([t.error for t in tests]), column([t.stated for t in tests])
    half = BAR * widening * stated
    return Points(
        x=np.exp(column([t.distance for t in tests])),
        y=of_log(error),
        colour=colour,
        symbol=Symbol.DOT,
        name=power(level),
        y_bars=np.stack([of_log(error - half), of_log(error + half)], axis=1),
        texts=[f"fitted up to {level:.3g} FLOPs, asked {np.exp(t.distance):.3g}x" for t in tests],
    )


def _of_method(
    method: str, alone: Sequence[tuple[BackTest, float]], colour: str, symbol: Symbol
) -> Points:
    mine = [(test, error) for test, error in alone if test.method == method]
    return Points(
        x=column([test.extrapolation for test, _ in mine]),
        y=column([error for _, error in mine]),
        colour=colour,
        symbol=symbol,
        name=f"{number_of(method)} alone",
        texts=[
            f"{method}: {test.loss_predicted:.4g} forecast, {test.loss_measured:.4g} measured"
            for test, _ in mine
        ],
    )
