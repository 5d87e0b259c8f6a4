"""`fit_runs`: from runs to a scaling law, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import scipy

from flops_fit import __version__
from flops_fit.fitting.bootstrap import DEFAULT_DRAWS
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.examination import examine
from flops_fit.fitting.fits import Fits, fit_both
from flops_fit.fitting.isoflop import IsoflopFit
from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.scaling_law import ScalingLaw
from flops_fit.fitting.selection import EveryRun, Selection
from flops_fit.fitting.surface import SurfaceFit
from flops_fit.laws import FlopRule
from flops_fit.prediction import Prediction
from flops_fit.runs import Run

BEYOND = (10.0, 100.0, 1000.0)
"""Multiples of the largest trained budget for which every fit states a prediction."""


def fit_runs(
    runs: Sequence[Run],
    *,
    flop_rule: FlopRule | None = None,
    answer: IsoflopFit | SurfaceFit | None = None,
    select: Selection | None = None,
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
) -> ScalingLaw:
    """Approach 2 and approach 3 through `runs`; `answer` (approach 3 by default) is the one asked.

    C = 6 N D unless `flop_rule` says otherwise. `select` chooses among runs of one (N, D).
    Intervals come from `draws` bootstrap refits, none where it is 0. Runs that diverged or have
    no loss are left out by name.

    Where one method refuses, the other answers and the reason stands in `refusals`. Raises
    `FitError` where both refuse, or where a row can't be true.
    """
    if draws < 0:
        raise FitError(f"draws is {draws}", "give 0 for no intervals, or some thousand")
    answer = answer or SurfaceFit()
    isoflop, surface = _both(answer)
    select = select or EveryRun()
    points, dropped = usable_points(runs, flop_rule or FlopRule.constant())
    points, unselected = select(points)
    fits = fit_both(points, isoflop, surface, draws, seed)
    method = answer.method if answer.method in fits.methods else fits.methods[0]
    return ScalingLaw(
        answer=method,
        fits=fits,
        flop_rule=points.flop_rule,
        largest_budget=points.largest_budget,
        budgets=isoflop.optima(points, isoflop.noise(points)),
        intervals=fits.intervals,
        predictions=_predictions(points, fits),
        diagnostics=examine(points, isoflop, surface, fits, method),
        rows_used=points.ids,
        dropped=(*dropped, *unselected),
        provenance=_provenance(points, answer, select, draws, seed),
    )


def is_fit_of(
    law: ScalingLaw,
    runs: Sequence[Run],
    *,
    flop_rule: FlopRule,
    answer: IsoflopFit | SurfaceFit,
    draws: int,
    seed: int,
) -> bool:
    """Whether `fit_runs` with these arguments would give `law` again."""
    points, _ = usable_points(runs, flop_rule)
    return law.provenance == _provenance(points, answer, EveryRun(), draws, seed)


def _provenance(
    points: Points, answer: IsoflopFit | SurfaceFit, select: Selection, draws: int, seed: int
) -> dict[str, Any]:
    """All that decides the outcome of a fit."""
    isoflop, surface = _both(answer)
    return {
        "asked": answer.method,
        "settings": {"isoflop": _settings(isoflop), "surface": _settings(surface)},
        "select": _settings(select),
        "draws": draws,
        "seed": seed,
        "input_sha256": points.sha256,
        "versions": {
            "flops_fit": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    }


def _both(answer: IsoflopFit | SurfaceFit) -> tuple[IsoflopFit, SurfaceFit]:
    """The settings of both methods: those asked, and for the other the defaults."""
    isoflop = answer if isinstance(answer, IsoflopFit) else IsoflopFit()
    surface = answer if isinstance(answer, SurfaceFit) else SurfaceFit()
    return isoflop, surface


def _predictions(points: Points, fits: Fits) -> tuple[Prediction, ...]:
    """By both methods, at the trained budgets and beyond."""
    largest = points.largest_budget
    budgets = (*points.budgets, *(multiple * largest for multiple in BEYOND))
    return tuple(fits.predict(m, budget, largest) for m in fits.methods for budget in budgets)


def _settings(value: Any) -> dict[str, Any]:
    """A settings dataclass as plain values: its class under "type", then its fields."""
    entries = {f.name: getattr(value, f.name) for f in fields(value)}
    return {
        "type": type(value).__name__,
        **{k: _settings(v) if is_dataclass(v) else v for k, v in entries.items()},
    }
