"""`fit_runs`: from runs to a scaling law, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from flops_fit import __version__
from flops_fit.fitting.bootstrap import DEFAULT_DRAWS
from flops_fit.fitting.contract import FitSettings, Optimum
from flops_fit.fitting.errors import FitError, NoLawFits
from flops_fit.fitting.examine.examination import examine
from flops_fit.fitting.fits import Fits, fit_all
from flops_fit.fitting.methods import Methods, default_answer, kind_of
from flops_fit.fitting.metrics import LOSS, measured_by
from flops_fit.fitting.points import Dropped, Points, usable_points
from flops_fit.fitting.provenance import recorded
from flops_fit.fitting.result import ScalingLaw
from flops_fit.fitting.selection import EveryRun, Selection
from flops_fit.laws import FlopRule
from flops_fit.laws.prediction import NoSuchRun, Prediction
from flops_fit.plan.run import Run

BEYOND = (10.0, 100.0, 1000.0)
"""Multiples of the largest trained budget for which every fit states a prediction."""


def fit_runs(
    runs: Sequence[Run],
    *,
    flop_rule: FlopRule | None = None,
    answer: FitSettings | None = None,
    select: Selection | None = None,
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
    metric: str = LOSS,
    checkpoints: Sequence[Run] = (),
) -> ScalingLaw:
    """Laws of `runs` by all methods that are always tried and by `answer`, which predicts.

    `answer` is by default the settings of the preferred method, `CombinedFit`. It may be any frozen
    dataclass that, called with runs and a FLOP rule, returns a `Law`. C = 6 N D unless `flop_rule`
    says otherwise. `select` chooses among runs of one (N, D).
    Intervals come from `draws` bootstrap refits, none where it is 0. `metric` names what is fitted
    in place of the loss (see `measured_by`). `checkpoints` are points of the runs' training curves
    under the runs' ids; only methods that read them (`reads_curves`) look at them. Runs that
    diverged or have no loss are left out by name.

    Where one method refuses, another answers and the reason stands in `refusals`. Raises
    `FitError` where all refuse, or where a row can't be true.
    """
    if draws < 0:
        raise FitError(f"draws is {draws}", "give 0 for no intervals, or some thousand")
    rule, select = flop_rule or FlopRule.constant(), select or EveryRun()
    try:
        usable, unusable = usable_points(measured_by(runs, metric), rule)
        points, unselected = select(usable)
        curves = _curves(_without(unselected, checkpoints), rule, metric)
        methods = Methods.answering(answer or default_answer(), curves)
        fits = fit_all(points, methods, methods.asked.method, draws, seed)
    except FitError as error:
        if metric == LOSS or isinstance(error, NoLawFits):
            raise
        what = f"fitting {metric} in place of the loss: {error.reason}"
        raise FitError(what, error.next_step) from error
    method = next(m.method for m in methods.by_preference if m.method in fits.laws)
    optima = optima_of(points, methods, fits)
    return ScalingLaw(
        answer=method,
        metric=metric,
        fits=fits,
        flop_rule=points.flop_rule,
        largest_budget=points.largest_budget,
        budgets=optima,
        intervals=fits.intervals,
        predictions=_predictions(points, fits),
        diagnostics=examine(points, methods, fits, method, optima, draws),
        rows_used=points.ids,
        dropped=(*unusable, *unselected),
        provenance=_provenance(points, methods, select, draws, seed, metric),
    )


def optima_of(points: Points, methods: Methods, fits: Fits) -> tuple[Optimum, ...]:
    """The optima of the budgets by themselves, by the first method that finds such."""
    for method in methods:
        kind = kind_of(method.method)
        if kind.optima is not None:
            return tuple(kind.optima(method, points, fits.laws.get(method.method)))
    return ()


def is_fit_of(
    law: ScalingLaw,
    runs: Sequence[Run],
    *,
    flop_rule: FlopRule,
    answer: FitSettings,
    draws: int,
    seed: int,
    checkpoints: Sequence[Run] = (),
) -> bool:
    """Whether `fit_runs` with these arguments would give `law` again."""
    points, _ = usable_points(runs, flop_rule)
    methods = Methods.answering(answer, _curves(checkpoints, flop_rule, LOSS))
    return law.provenance == _provenance(points, methods, EveryRun(), draws, seed, LOSS)


def _without(unselected: Sequence[Dropped], checkpoints: Sequence[Run]) -> list[Run]:
    """The curves of the runs that are fitted: not of worse learning rates, say."""
    left_out = {run.id for run in unselected}
    return [point for point in checkpoints if point.id not in left_out]


def _curves(checkpoints: Sequence[Run], rule: FlopRule, metric: str) -> Points:
    """The points of the training curves; none for a metric that they don't have."""
    return usable_points(checkpoints if metric == LOSS else (), rule)[0]


def _provenance(
    points: Points, methods: Methods, select: Selection, draws: int, seed: int, metric: str
) -> dict[str, Any]:
    """All that decides the outcome of a fit."""
    import scipy  # of no use to those who only read a law

    return {
        "asked": methods.asked.method,
        "settings": {method.method: method.recorded() for method in methods},
        "select": recorded(select),
        "metric": metric,
        "draws": draws,
        "seed": seed,
        "input_sha256": points.sha256,
        "versions": {
            "flops_fit": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    }


def _predictions(points: Points, fits: Fits) -> tuple[Prediction, ...]:
    """By all methods, at the trained budgets and beyond, as far as their laws reach."""
    largest = points.largest_budget
    budgets = (*points.budgets, *(multiple * largest for multiple in BEYOND))
    found = []
    for method in fits.laws:
        for budget in budgets:
            with suppress(NoSuchRun):  # a law that ends before
                found.append(fits.predict(method, budget, largest))
    return tuple(found)
