"""How a fit answers when its data or settings change: the numbers behind the diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.examine.diagnostics import (
    BackTest,
    DeltaFit,
    Influence,
    IsoflopBias,
    NextRuns,
    Without,
)
from flops_fit.fitting.isoflop.fit import IsoflopFit
from flops_fit.fitting.points import Points, places
from flops_fit.fitting.surface.draws import SurfaceDraws
from flops_fit.fitting.surface.fit import SurfaceFit, log_loss_jacobian
from flops_fit.fitting.surface.law import SurfaceLaw
from flops_fit.fitting.surface.objectives import Huber
from flops_fit.fitting.surface.solver import Mask
from flops_fit.laws import Array, Law, LossSurface, optimal_num_params

DELTAS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Huber thresholds tried: from nearly absolute to nearly squared errors."""

SAME_EXPONENT = 1e-9
"""Standard error of a below which the losses are noise-free, and no run has influence."""

MOST_REFITS = 500
"""Single runs tried for influence: of more rows, those with the largest residuals."""

NEXT_RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes of a proposed budget as multiples of its predicted N_opt."""

NEXT_BUDGETS = (1.0, 3.0, 10.0)
"""Budgets proposed, as multiples of the largest trained one."""

NEXT_TARGET = 100.0
"""The target whose interval they are to narrow, as a multiple of the largest trained budget."""

DIFFERENCE_STEP = 1e-5
"""Step in ln A, ln B, alpha and beta: central differences are then good to ten digits."""


def without_parts(
    points: Points, isoflop: IsoflopFit, surface: SurfaceFit, law: SurfaceLaw | None
) -> tuple[tuple[Without, ...], Without]:
    """Exponents of both methods with one budget left out at a time, and without the edge sizes.

    The edges are the smallest and the largest size of every budget.
    """
    inner = np.ones(len(points), dtype=bool)
    for budget in points.budgets:
        rows = np.flatnonzero(points.budget == budget)
        sizes = points.num_params[rows]
        inner[rows[(sizes == sizes.min()) | (sizes == sizes.max())]] = False
    kept = [*(points.budget != budget for budget in points.budgets), inner]
    names = [*(f"budget {budget:.4g}" for budget in points.budgets), "edge sizes"]
    surface_exponents = _surface_exponents(points, kept, surface, law)
    parts = [
        Without(name, _isoflop_exponent(isoflop, points.where(keep)), a)
        for name, keep, a in zip(names, kept, surface_exponents, strict=True)
    ]
    return tuple(parts[:-1]), parts[-1]


def influential_runs(
    points: Points, fit: SurfaceFit, law: SurfaceLaw, standard_error: float
) -> tuple[Influence, ...]:
    """Runs without which a moves by more than one standard error, the most influential first."""
    if len(set(places(points).tolist())) <= fit.fewest_runs or standard_error <= SAME_EXPONENT:
        return ()
    residual = np.abs(np.log(points.loss / law.surface(points.num_params, points.num_tokens)))
    rows = np.argsort(-residual)[:MOST_REFITS]
    weights = np.ones((len(rows), len(points)))
    weights[np.arange(len(rows)), rows] = 0.0
    a = fit.refits(points, law, weights).a
    shift = (a - law.surface.a) / standard_error
    found = [
        Influence(points.ids[row], float(a[i]), float(shift[i]))
        for i, row in enumerate(rows)
        if abs(shift[i]) > 1
    ]
    return tuple(sorted(found, key=lambda f: -abs(f.standard_errors)))


def other_deltas(points: Points, fit: SurfaceFit) -> tuple[DeltaFit, ...]:
    """The surface at other Huber thresholds; nothing for objectives without one."""
    if fit.objective.delta is None:
        return ()
    laws = [(d, replace(fit, objective=Huber(d)).law(points).surface) for d in DELTAS]
    return tuple(DeltaFit(d, s.a, s.alpha, s.beta) for d, s in laws)


def back_tests(points: Points, isoflop: IsoflopFit, surface: SurfaceFit) -> tuple[BackTest, ...]:
    """Each method refitted without the largest budget and asked for it; refusals are left out."""
    if len(points.budgets) < 2:
        return ()
    smaller, largest = points.budgets[:-1], points.budgets[-1]
    optimum = isoflop.optima(points, isoflop.noise(points))[-1]
    measured = optimum.loss if optimum.is_bracketed else points.at_budget(largest).loss.min()
    rest = points.where(points.budget < largest)
    tests = []
    for fit in (isoflop, surface):
        try:
            law: Law = fit.law(rest)
        except FitError:
            continue
        predicted = float(law.loss_opt(optimum.flops))
        log_ratio = None
        if optimum.is_bracketed and optimum.N_opt is not None:
            log_ratio = float(np.log10(law.N_opt(optimum.flops) / optimum.N_opt))
        tests.append(
            BackTest(
                method=fit.method,
                budget=largest,
                extrapolation=largest / smaller[-1],
                loss_predicted=predicted,
                loss_measured=float(measured or 0.0),
                loss_error=predicted / float(measured or 1.0) - 1,
                log10_num_params_error=log_ratio,
            )
        )
    return tuple(tests)


def isoflop_bias(
    points: Points, fit: IsoflopFit, surface: LossSurface, budget: float
) -> IsoflopBias | None:
    """What `fit` makes of the noise-free losses of `surface` at the very points of the sweep."""
    exact = points.with_loss(surface(points.num_params, points.num_tokens))
    try:
        law = fit.law(exact)
    except FitError:
        return None
    rule = points.flop_rule
    bracketed = np.array([o.flops for o in law.budgets if o.is_bracketed])
    true_a = np.polyfit(np.log(bracketed), np.log(surface.N_opt(bracketed, rule)), 1)[0]
    shift = np.log10(law.N_opt(budget) / surface.N_opt(budget, rule))
    return IsoflopBias(a=law.a - float(true_a), budget=budget, log10_num_params=float(shift))


def next_runs(points: Points, law: SurfaceLaw, draws: SurfaceDraws) -> tuple[NextRuns, ...]:
    """Budgets of five sizes that would narrow N_opt at 100 times the largest budget.

    The variance of ln N_opt after n more runs follows from the Jacobian J of ln loss in the five
    numbers of the surface: g' (J'J)^-1 g noise^2, g the gradient of ln N_opt. Its square root
    over the one without them scales both sides of the 80% interval of the draws.
    """
    target = NEXT_TARGET * points.largest_budget
    jacobian = log_loss_jacobian(law.surface, points.num_params, points.num_tokens)
    gradient = _gradient_of_log_optimum(law, target)
    now = _standard_error(jacobian, gradient)
    if now == 0:  # the optimum sits in a corner of the FLOP rule, whatever the surface
        return ()
    ends_now = np.quantile(draws.N_opt(target), (0.1, 0.9))
    centre = float(law.N_opt(target))
    proposals = []
    for multiple in NEXT_BUDGETS:
        budget = multiple * points.largest_budget
        sizes = float(law.N_opt(budget)) * np.array(NEXT_RATIOS)
        more = log_loss_jacobian(law.surface, sizes, law.flop_rule.tokens(budget, sizes))
        after = _standard_error(np.concatenate([jacobian, more]), gradient)
        narrowing = min(1.0, after / now)  # above 1 it is rounding of rows that tell nothing
        low, high = centre * (ends_now / centre) ** narrowing
        proposals.append(
            NextRuns(
                budget=budget,
                num_params=tuple(map(float, sizes)),
                total_flops=budget * len(sizes),
                target=target,
                narrowing=float(narrowing),
                num_params_80=(float(low), float(high)),
                num_params_80_now=(float(ends_now[0]), float(ends_now[1])),
            )
        )
    return tuple(proposals)


def _isoflop_exponent(fit: IsoflopFit, points: Points) -> float | None:
    """The exponent a, None where the method refuses."""
    try:
        return fit.law(points).a
    except FitError:
        return None


def _surface_exponents(
    points: Points, kept: Sequence[Mask], fit: SurfaceFit, law: SurfaceLaw | None
) -> list[float | None]:
    """The exponent a of refits to the kept rows, all at once; None where the method refuses."""
    if law is None:
        return [None] * len(kept)
    exponents = fit.refits(points, law, np.array(kept, dtype=float)).a
    return [
        float(a) if _determines_a_surface(fit, points.where(keep)) else None
        for a, keep in zip(exponents, kept, strict=True)
    ]


def _determines_a_surface(fit: SurfaceFit, points: Points) -> bool:
    try:
        fit.check(points)
    except FitError:
        return False
    return True


def _standard_error(jacobian: Array, gradient: Array) -> float:
    """sqrt(g' (J'J)^-1 g), by the shortest z with J'z = g: squaring J would lose its digits."""
    return float(np.linalg.norm(np.linalg.lstsq(jacobian.T, gradient, rcond=None)[0]))


def _gradient_of_log_optimum(law: SurfaceLaw, flops: float) -> Array:
    """d ln N_opt / d (E, ln A, ln B, alpha, beta) by central differences."""
    s = law.surface
    at = np.array([np.log(s.A), np.log(s.B), s.alpha, s.beta])
    steps = np.concatenate([np.eye(4), -np.eye(4)]) * DIFFERENCE_STEP
    log_a, log_b, alpha, beta = (at + steps).T
    optima = np.log(optimal_num_params(log_a, log_b, alpha, beta, flops, law.flop_rule))
    return np.concatenate([[0.0], (optima[:4] - optima[4:]) / (2 * DIFFERENCE_STEP)])
