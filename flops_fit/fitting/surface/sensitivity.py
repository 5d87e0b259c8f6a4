"""How a surface answers when its data or settings change, and which runs would tell more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from flops_fit.fitting.contract import Exponents, Mask
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.noise import NORMAL_PER_MEDIAN
from flops_fit.fitting.points import Points, places
from flops_fit.fitting.surface.draws import SurfaceDraws
from flops_fit.fitting.surface.fit import SurfaceFit, log_loss_jacobian
from flops_fit.fitting.surface.law import SurfaceLaw
from flops_fit.fitting.surface.numbers import DeltaFit, Influence, NextRuns
from flops_fit.fitting.surface.objectives import Huber
from flops_fit.laws import Array, LossSurface, optimal_num_params

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
"""Step in ln A, ln B, alpha, beta and kappa: central differences are then good to ten digits."""

NUM_PARAMETERS = 5
"""Numbers of a surface: E, A, B, alpha, beta."""


def exponents_of_parts(
    fit: SurfaceFit, points: Points, kept: Sequence[Mask], law: SurfaceLaw
) -> Exponents:
    """The exponent a of refits to the kept rows, all at once; None where the method refuses."""
    exponents = fit.refits(points, law, np.array(kept, dtype=float)).a
    return [
        float(a) if _determines_a_surface(fit, points.where(keep)) else None
        for a, keep in zip(exponents, kept, strict=True)
    ]


def residual_noise(points: Points, surface: LossSurface) -> float | None:
    """Standard deviation of ln loss about the surface, by the median absolute residual.

    Nearly absolute errors put the surface through 5 rows: the median is that of the others, and
    None where there are none.
    """
    if len(points) <= NUM_PARAMETERS:
        return None
    residual = np.abs(np.log(points.loss / surface(points.num_params, points.num_tokens)))
    return NORMAL_PER_MEDIAN * float(np.median(np.sort(residual)[NUM_PARAMETERS:]))


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
    """The surface at those other Huber thresholds at which there is one; nothing for objectives
    without a threshold."""
    if fit.objective.delta is None:
        return ()
    found = []
    for delta in DELTAS:
        with suppress(FitError):
            surface = replace(fit, objective=Huber(delta)).law(points).surface
            found.append(DeltaFit(delta, surface.a, surface.alpha, surface.beta))
    return tuple(found)


def next_runs(points: Points, law: SurfaceLaw, draws: SurfaceDraws) -> tuple[NextRuns, ...]:
    """Budgets of five sizes that would narrow N_opt at 100 times the largest budget.

    The variance of ln N_opt after n more runs follows from the Jacobian J of ln loss in the
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


def _determines_a_surface(fit: SurfaceFit, points: Points) -> bool:
    try:
        fit.check(points.where(fit.entering(points)))
    except FitError:
        return False
    return True


def _standard_error(jacobian: Array, gradient: Array) -> float:
    """sqrt(g' (J'J)^-1 g), by the shortest z with J'z = g: squaring J would lose its digits."""
    return float(np.linalg.norm(np.linalg.lstsq(jacobian.T, gradient, rcond=None)[0]))


def _gradient_of_log_optimum(law: SurfaceLaw, flops: float) -> Array:
    """d ln N_opt / d (E, ln A, ln B, alpha, beta), and kappa where there is one, by differences."""
    s = law.surface
    at = np.array([np.log(s.A), np.log(s.B), s.alpha, s.beta, *([s.kappa] if s.kappa else ())])
    steps = np.concatenate([np.eye(len(at)), -np.eye(len(at))]) * DIFFERENCE_STEP
    log_a, log_b, alpha, beta, *kappa = (at + steps).T
    optima = np.log(optimal_num_params(log_a, log_b, alpha, beta, flops, law.flop_rule, *kappa))
    further, nearer = np.split(optima, 2)
    return np.concatenate([[0.0], (further - nearer) / (2 * DIFFERENCE_STEP)])
