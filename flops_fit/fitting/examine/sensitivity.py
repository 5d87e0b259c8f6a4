"""How all methods answer when their data change: the numbers behind the diagnostics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from flops_fit.fitting.contract import FittedLaw, Method, Optimum
from flops_fit.fitting.examine.diagnostics import BackTest, Bias, Without
from flops_fit.fitting.fits import Fits
from flops_fit.fitting.methods import kind_of
from flops_fit.fitting.points import Points
from flops_fit.laws import exponent_between
from flops_fit.laws.prediction import LossLaw

MOST_LEFT_OUT = 20
"""Budgets that are left out one at a time: of more, every other or fewer."""


def without_parts(
    points: Points, methods: Iterable[Method], laws: Mapping[str, FittedLaw]
) -> tuple[tuple[Without, ...], Without]:
    """Exponents of the methods that have laws with one budget left out at a time, and without the
    edge sizes.

    The edges are the smallest and the largest size of every budget.
    """
    inner = np.ones(len(points), dtype=bool)
    for budget in points.budgets:
        rows = np.flatnonzero(points.budget == budget)
        sizes = points.num_params[rows]
        inner[rows[(sizes == sizes.min()) | (sizes == sizes.max())]] = False
    left_out = points.budgets[:: 1 + len(points.budgets) // (MOST_LEFT_OUT + 1)]
    kept = [*(points.budget != budget for budget in left_out), inner]
    names = [*(f"budget {budget:.4g}" for budget in left_out), "edge sizes"]
    exponents = {
        method.method: kind_of(method.method).exponents(method, points, kept, law)
        for method in methods
        if (law := laws.get(method.method)) is not None
    }
    parts = [
        Without(name, {method: found[i] for method, found in exponents.items()})
        for i, name in enumerate(names)
    ]
    return tuple(parts[:-1]), parts[-1]


def back_tests(
    points: Points, methods: Iterable[Method], optima: Sequence[Optimum]
) -> tuple[BackTest, ...]:
    """Each method refitted without the largest budget and asked for it; refusals are left out.

    What was measured there is its bracketed optimum, else the lowest loss.
    """
    if len(points.budgets) < 2:
        return ()
    largest = points.budgets[-1]
    top = next((o for o in optima if o.budget == largest), None)
    rest = points.where(points.budget < largest)
    laws = {m.method: kind_of(m.method).law_of_part(m, rest) for m in methods}
    return tuple(
        _back_test(points, method, law, top) for method, law in laws.items() if law is not None
    )


def _back_test(points: Points, method: str, law: FittedLaw, top: Optimum | None) -> BackTest:
    """What `law` says of the largest budget, whose own optimum is `top`."""
    smaller, largest = points.budgets[-2:]
    flops = largest if top is None else top.flops
    measured, log_ratio = float(points.at_budget(largest).loss.min()), None
    if top is not None and top.is_bracketed and top.N_opt and top.loss:
        measured, log_ratio = top.loss, float(np.log10(law.N_opt(flops) / top.N_opt))
    predicted = float(law.loss_opt(flops))
    return BackTest(
        method=method,
        budget=largest,
        extrapolation=largest / smaller,
        loss_predicted=predicted,
        loss_measured=measured,
        loss_error=predicted / measured - 1,
        log10_num_params_error=log_ratio,
    )


def biases(
    points: Points, methods: Iterable[Method], fits: Fits, budget: float
) -> tuple[Bias, ...]:
    """Of every method that has a law, if one that knows the loss of any size were the truth."""
    found = [
        bias_on_grid(points, method, truth, if_exact, budget)
        for if_exact, truth in fits.knowing.items()
        if kind_of(if_exact).probed
        for method in methods
        if method.method in fits.laws and method.method != if_exact
    ]
    return tuple(bias for bias in found if bias is not None)


def bias_on_grid(
    points: Points, method: Method, truth: LossLaw, if_exact: str, budget: float
) -> Bias | None:
    """What `method` makes of the noise-free losses of `truth` at the very points of the sweep.

    None where it refuses these, and for a method that looks at training curves.
    """
    kind = kind_of(method.method)
    if kind.reads_curves:
        return None
    exact = points.with_loss(truth(points.num_params, points.num_tokens))
    law = kind.law_of_part(method, exact)
    if law is None:
        return None
    a, true_a = (float(exponent_between(one, *points.flops_range)) for one in (law, truth))
    shift = float(np.log10(law.N_opt(budget) / truth.N_opt(budget)))
    return Bias(method.method, if_exact, a - true_a, budget, shift)
