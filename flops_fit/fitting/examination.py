"""Examines a finished fit: what is weak, how far it reaches, what to run next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flops_fit.fitting.bootstrap import standard_error
from flops_fit.fitting.diagnostics import BackTest, Diagnostics, Influence, IsoflopBias, NextRuns
from flops_fit.fitting.fits import Fits
from flops_fit.fitting.isoflop import BudgetOptimum, IsoflopFit
from flops_fit.fitting.points import Points
from flops_fit.fitting.sensitivity import (
    back_tests,
    influential_runs,
    isoflop_bias,
    next_runs,
    other_deltas,
    relative_noise,
    without_parts,
)
from flops_fit.fitting.surface import SurfaceFit
from flops_fit.laws import Array, Law
from flops_fit.prediction import EXTRAPOLATION_WARNING, central_intervals

WIDEST_EXPONENT = 0.3
"""Width of the 95% interval of alpha or beta from which on a surface is not identified."""

REACH_FACTOR = 2.0
"""Factor either way within which the 80% interval of N_opt must stay to be called useful."""

REACHES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, EXTRAPOLATION_WARNING)
"""Extrapolations tried."""

BIAS_TARGET = 10.0
"""Multiple of the largest budget at which the bias of approach 2 is stated."""

WORTH_SAYING = 0.01
"""log10 N_opt (2.3%) below which a bias is not mentioned."""

ENOUGH_BUDGETS = 3
"""Bracketed budgets from which on a line is tested by its own points."""

MOST_NAMED = 3
"""Budgets left out of the line that get a sentence of their own."""

LOW_AGREEMENT = 0.5
"""Share of starts ending elsewhere from which on the surface's optimum is called uncertain."""


def examine(
    points: Points, isoflop: IsoflopFit, surface: SurfaceFit, fits: Fits, answer: str
) -> Diagnostics:
    """All diagnostics of `fits`, whose `answer` method predicts."""
    numbers = _surface_numbers(points, isoflop, surface, fits)
    law, draws = fits.law_and_draws(answer)
    largest = points.largest_budget
    reach = None if draws is None else _reach(draws, largest)
    agree = _exponents_agree(fits, points.flops)
    tests = back_tests(points, isoflop, surface)
    bias = None
    if fits.surface is not None and fits.isoflop is not None:
        target = BIAS_TARGET * largest
        bias = isoflop_bias(points, isoflop, fits.surface.surface, target)
    optima = isoflop.optima(points, isoflop.noise(points))
    without_budgets, without_edges = without_parts(points, isoflop, surface, fits.surface)
    findings = (
        *_refusal_findings(fits),
        *_budget_findings(optima),
        *_identification_findings(numbers.identifiable),
        *_agreement_findings(fits, points.flops, agree),
        *_ending_findings(numbers),
        *_back_test_findings(tests),
        *_bias_findings(bias),
        *_influence_findings(numbers.influential_runs),
        *_next_findings(numbers.next_runs, float(points.flops.sum())),
    )
    return replace(
        numbers,
        verdict=_verdict(fits, answer, reach, numbers.identifiable, agree, largest),
        findings=findings,
        reach=reach,
        exponents_agree=agree,
        flops_ratio=_flops_ratio(law, points),
        without_budget=without_budgets,
        without_edges=without_edges,
        back_tests=tests,
        isoflop_bias=bias,
    )


def trained_exponent(law: Law, flops: Array) -> Array:
    """d ln N_opt / d ln C between the smallest and the largest of `flops`."""
    low, high = float(flops.min()), float(flops.max())
    return np.asarray(np.log(law.N_opt(high) / law.N_opt(low)) / np.log(high / low))


def _surface_numbers(
    points: Points, isoflop: IsoflopFit, surface: SurfaceFit, fits: Fits
) -> Diagnostics:
    """The diagnostics that only a surface has; the others still empty."""
    law, draws = fits.surface, fits.surface_draws
    empty = Diagnostics(
        verdict="",
        findings=(),
        reach=None,
        noise=None,
        identifiable=None,
        start_agreement=None,
        promised_decrease=None,
        at_bounds=(),
        exponents_agree=None,
        flops_ratio=1.0,
    )
    if law is None:
        return empty
    numbers = replace(
        empty,
        noise=relative_noise(points, law.surface),
        start_agreement=law.start_agreement,
        promised_decrease=law.promised_decrease,
        at_bounds=law.at_bounds,
        deltas=other_deltas(points, surface),
    )
    if draws is None:
        return numbers
    widths = [np.subtract(*np.quantile(v, (0.975, 0.025))) for v in (draws.alpha, draws.beta)]
    return replace(
        numbers,
        identifiable=bool(max(widths) <= WIDEST_EXPONENT),
        influential_runs=influential_runs(points, surface, law, standard_error(draws.a)),
        next_runs=next_runs(points, law, draws),
    )


def _reach(draws: Law, largest: float) -> float | None:
    """Largest extrapolation with a useful interval of N_opt, None where not even 1."""
    reach = None
    for multiple in REACHES:
        low, high = np.quantile(draws.N_opt(multiple * largest), (0.1, 0.9))
        if high / low > REACH_FACTOR**2:
            break
        reach = multiple
    return reach


def _exponents_agree(fits: Fits, flops: Array) -> bool | None:
    """Whether the 95% intervals of both methods' exponents overlap; None without two."""
    if len(fits.draws) < 2:
        return None
    (low, high), (other_low, other_high) = (
        central_intervals(trained_exponent(draws, flops))["95"] for draws in fits.draws.values()
    )
    return low <= other_high and other_low <= high


def _flops_ratio(law: Law, points: Points) -> float:
    """FLOPs of the optimum at the largest budget over that budget: 1 but for rounding."""
    budget = points.largest_budget
    spent = points.flop_rule(law.N_opt(budget)) * law.D_opt(budget)
    return float(spent / budget)


def _verdict(
    fits: Fits,
    answer: str,
    reach: float | None,
    identifiable: bool | None,
    agree: bool | None,
    largest: float,
) -> str:
    """One line: what may be relied on, and how far."""
    if identifiable is False:
        return "alpha and beta are not determined by these runs: " + (
            "trust approach 2 (isoflop) and the back-test, and extrapolate no further than it did"
            if fits.isoflop is not None and fits.isoflop.num_bracketed >= ENOUGH_BUDGETS
            else "train more sizes and budgets before relying on a prediction"
        )
    if agree is False:
        return (
            "the two methods contradict each other: rely on neither beyond the trained budgets "
            "before the cause is found"
        )
    if answer not in fits.draws:
        return "nothing tells the noise of these runs: there are no intervals to rely on"
    if reach is None:
        return (
            f"even at the largest trained budget, {largest:.3g} FLOPs, N_opt is uncertain by more "
            f"than a factor of {REACH_FACTOR:g}: train more runs first"
        )
    return (
        f"usable up to {reach:g} times the largest trained budget ({reach * largest:.3g} FLOPs): "
        f"the 80% interval of N_opt stays within a factor of {REACH_FACTOR:g} either way"
    )


def _refusal_findings(fits: Fits) -> list[str]:
    names = {"isoflop": "approach 2 (isoflop)", "surface": "approach 3 (surface)"}
    return [f"{names[method]} refused: {why}" for method, why in fits.refusals.items()]


def _budget_findings(optima: Sequence[BudgetOptimum]) -> list[str]:
    """One sentence for each budget left out of the line, or one for all where they are many."""
    left_out = [o for o in optima if not o.is_bracketed]
    if len(left_out) > MOST_NAMED:
        verdicts = ", ".join(f"{o.budget:.3g} ({o.verdict})" for o in left_out)
        return [f"{len(left_out)} of {len(optima)} budgets stay out of the line: {verdicts}"]
    return [f"budget {o.budget:.3g} is {o.verdict}: {o.reason}" for o in left_out]


def _identification_findings(identifiable: bool | None) -> list[str]:
    if identifiable is not False:
        return []
    return [
        f"the 95% interval of alpha or beta is wider than {WIDEST_EXPONENT}: train over a wider "
        "range of sizes and budgets, tie the exponents, or pin the asymptote"
    ]


def _agreement_findings(fits: Fits, flops: Array, agree: bool | None) -> list[str]:
    if agree is None:
        return []
    exponents = [float(trained_exponent(fits.law_and_draws(m)[0], flops)) for m in fits.methods]
    words = "agree" if agree else "contradict each other"
    return [f"the methods {words}: a = {exponents[0]:.3f} (isoflop), {exponents[1]:.3f} (surface)"]


def _ending_findings(numbers: Diagnostics) -> list[str]:
    found = []
    if numbers.at_bounds:
        found.append(
            f"{', '.join(numbers.at_bounds)} ended at a limit: the runs do not determine "
            + ("it" if len(numbers.at_bounds) == 1 else "them")
        )
    if numbers.start_agreement is not None and numbers.start_agreement < LOW_AGREEMENT:
        found.append(
            f"only {numbers.start_agreement:.0%} of the starts reached the best optimum: "
            "the surface has several that are nearly as good"
        )
    return found


def _back_test_findings(tests: Sequence[BackTest]) -> list[str]:
    found = []
    for test in tests:
        text = (
            f"back-test ({test.method}): without the largest budget, its loss is predicted "
            f"{test.loss_error:+.2%} off"
        )
        if test.log10_num_params_error is not None:
            text += f", its N_opt by a factor of {10**test.log10_num_params_error:.2f}"
        found.append(f"{text}, {test.extrapolation:.3g} times beyond")
    return found


def _bias_findings(bias: IsoflopBias | None) -> list[str]:
    if bias is None or abs(bias.log10_num_params) < WORTH_SAYING:
        return []
    return [
        f"on this grid approach 2 would put N_opt at {bias.budget:.3g} FLOPs off by a factor of "
        f"{10**bias.log10_num_params:.2f} (and a by {bias.a:+.3f}) if the surface were exact"
    ]


def _influence_findings(runs: Sequence[Influence]) -> list[str]:
    if not runs:
        return []
    first = runs[0]
    return [
        f"{len(runs)} run" + (" moves" if len(runs) == 1 else "s each move") + " a by more than "
        f"one standard error when left out, most of all {first.id} "
        f"({first.standard_errors:+.1f}, to a = {first.surface_a:.3f})"
    ]


def _next_findings(proposals: Sequence[NextRuns], spent: float) -> list[str]:
    """The most helpful proposal that costs no more than the sweep did."""
    affordable = [p for p in proposals if p.total_flops <= spent] or list(proposals[:1])
    return [
        f"{len(p.num_params)} more runs at {p.budget:.3g} FLOPs, N = {p.num_params[0]:.3g} to "
        f"{p.num_params[-1]:.3g} ({p.total_flops:.3g} FLOPs in all), would make the interval of "
        f"log N_opt at {p.target:.3g} FLOPs {p.narrowing:.2f} times as wide"
        for p in affordable[-1:]
    ]
