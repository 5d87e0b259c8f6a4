"""The collapse of a study's training curves: which runs are near the optima of their budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import log

from flops_fit.fitting import FitError, ScalingLaw
from flops_fit.fitting.collapse import Collapse, Curve, collapse
from flops_fit.plan.run import Run
from flops_fit.store.folder import StudyFolder
from flops_fit.tables import training_curve

NEAREST = 5
"""Sizes around the optimum of each budget whose curves are compared: one alone is noisy, and far
from the optimum curves have another shape."""


def collapse_of(
    runs: Iterable[Run], folder: StudyFolder, law: ScalingLaw | None
) -> Collapse | None:
    """How well the curves near the optima fall on one; None where there are too few.

    Raises `FitError` for a metrics.jsonl that can't be read.
    """
    return collapse(curves_near_optima(runs, folder, law))


def curves_near_optima(
    runs: Iterable[Run], folder: StudyFolder, law: ScalingLaw | None
) -> list[Curve]:
    """The curves of the sizes nearest to the optimum of each budget.

    Runs that saw samples twice are left out: their training loss is none of fresh samples.
    """
    fresh = (run for run in runs if run.is_completed and sees_each_once(run))
    completed = sorted(fresh, key=lambda run: run.budget)
    budgets = [list(group) for _, group in groupby(completed, key=lambda run: run.budget)]
    return [curve for of_budget in budgets for curve in _near(of_budget, folder, law)]


def sees_each_once(run: Run) -> bool:
    """Whether the run trains on no token twice."""
    return run.unique_tokens is None or run.num_tokens <= run.unique_tokens


def collapse_finding(
    runs: Iterable[Run], folder: StudyFolder, law: ScalingLaw | None
) -> str | None:
    """What to say where the curves don't fall on one; None where they do or nobody can tell."""
    try:
        found = collapse_of(runs, folder, law)
    except FitError as error:
        return str(error)
    return found.finding if found else None


def _near(runs: Sequence[Run], folder: StudyFolder, law: ScalingLaw | None) -> list[Curve]:
    """Curves of one budget's sizes nearest to its optimum, by the law or its best run."""
    best = min(runs, key=lambda run: run.loss or 0.0).num_params
    optimum = best if law is None else float(law.law.N_opt(runs[0].budget))
    sizes = sorted({run.num_params for run in runs}, key=lambda n: abs(log(n / optimum)))[:NEAREST]
    found = (training_curve(run, folder) for run in runs if run.num_params in sizes)
    return [curve for curve in found if curve]
