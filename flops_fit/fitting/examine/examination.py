"""Examines a finished fit: what is weak, how far it reaches, what to run next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from flops_fit.fitting.bootstrap import standard_error
from flops_fit.fitting.examine.diagnostics import Diagnostics, Numbers
from flops_fit.fitting.examine.parameter_counts import by_parameter_counts
from flops_fit.fitting.examine.sensitivity import (
    back_tests,
    influential_runs,
    isoflop_bias,
    next_runs,
    other_deltas,
    without_parts,
)
from flops_fit.fitting.examine.words import REACH_FACTOR, WIDEST_EXPONENT, findings, verdict
from flops_fit.fitting.methods import Fits, Methods
from flops_fit.fitting.noise import residual_noise, seed_noise
from flops_fit.fitting.points import Points
from flops_fit.fitting.surface import SurfaceFit
from flops_fit.laws import Law, LawDraws, exponent_between
from flops_fit.laws.prediction import EXTRAPOLATION_WARNING, central_intervals

REACHES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, EXTRAPOLATION_WARNING)
"""Extrapolations tried."""

BIAS_TARGET = 10.0
"""Multiple of the largest budget at which the bias of approach 2 is stated."""


def examine(points: Points, methods: Methods, fits: Fits, answer: str, draws: int) -> Diagnostics:
    """All diagnostics of `fits`, whose `answer` method predicts; `draws` were asked for."""
    numbers = measured(points, methods, fits, answer)
    optima = methods.isoflop.optima(points, methods.isoflop.noise(points))
    spent = float(points.flops.sum())
    return Diagnostics(
        verdict=verdict(numbers, optima, points.largest_budget, answer),
        findings=findings(numbers, optima, fits, draws, spent),
        numbers=numbers,
    )


def measured(points: Points, methods: Methods, fits: Fits, answer: str) -> Numbers:
    """All numbers of `fits`, whose `answer` method predicts."""
    isoflop, surface = methods.isoflop, methods.surface
    law, draws = fits.law_and_draws(answer)
    bias = None
    if fits.surface is not None and fits.isoflop is not None:
        target = BIAS_TARGET * points.largest_budget
        bias = isoflop_bias(points, isoflop, fits.surface.surface, target)
    seeds = seed_noise(points)
    without_budget, without_edges = without_parts(points, isoflop, surface, fits.surface)
    numbers = Numbers(
        has_intervals=draws is not None,
        reach=None if draws is None else _reach(draws, points.largest_budget),
        exponents={
            method: float(exponent_between(found, *points.flops_range))
            for method, found in fits.laws.items()
        },
        exponents_agree=_exponents_agree(fits, points.flops_range, 0.0),
        bias_explains=None if bias is None else _exponents_agree(fits, points.flops_range, bias.a),
        flops_ratio=_flops_ratio(law, points.largest_budget),
        without_budget=without_budget,
        without_edges=without_edges,
        back_tests=back_tests(points, isoflop, surface),
        isoflop_bias=bias,
        num_draws={m: d.num_draws for m, d in fits.draws.items()},
        parameter_counts=by_parameter_counts(points, isoflop, surface, fits),
        seed_noise=None if seeds is None else seeds.value,
    )
    return numbers if fits.surface is None else _with_surface(numbers, points, surface, fits)


def _with_surface(numbers: Numbers, points: Points, fit: SurfaceFit, fits: Fits) -> Numbers:
    """The numbers, and those that only a surface has."""
    law, draws = fits.surface, fits.surface_draws
    assert law is not None
    numbers = replace(
        numbers,
        noise=residual_noise(points, law.surface),
        start_agreement=law.start_agreement,
        promised_decrease=law.promised_decrease,
        at_bounds=law.at_bounds,
        deltas=other_deltas(points, fit),
    )
    if draws is None:
        return numbers
    widths = [np.subtract(*np.quantile(v, (0.975, 0.025))) for v in (draws.alpha, draws.beta)]
    return replace(
        numbers,
        identifiable=bool(max(widths) <= WIDEST_EXPONENT),
        influential_runs=influential_runs(points, fit, law, standard_error(draws.a)),
        next_runs=next_runs(points, law, draws),
    )


def _reach(draws: LawDraws, largest: float) -> float | None:
    """Largest extrapolation with a useful interval of N_opt, None where not even 1."""
    reach = None
    for multiple in REACHES:
        low, high = np.quantile(draws.N_opt(multiple * largest), (0.1, 0.9))
        if high / low > REACH_FACTOR**2:
            break
        reach = multiple
    return reach


def _exponents_agree(fits: Fits, flops: tuple[float, float], bias: float) -> bool | None:
    """Whether the 95% intervals of both methods' exponents overlap; None without two.

    `bias` is taken off the exponents of approach 2 first.
    """
    if fits.isoflop_draws is None or fits.surface_draws is None:
        return None
    line = central_intervals(exponent_between(fits.isoflop_draws, *flops) - bias)["95"]
    surface = central_intervals(exponent_between(fits.surface_draws, *flops))["95"]
    return line[0] <= surface[1] and surface[0] <= line[1]


def _flops_ratio(law: Law, budget: float) -> float:
    """FLOPs of the optimum at a budget over that budget: 1 but for rounding."""
    spent = law.flop_rule(law.N_opt(budget)) * law.D_opt(budget)
    return float(spent / budget)
