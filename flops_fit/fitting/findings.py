"""The numbers of the diagnostics as sentences that a person understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flops_fit.fitting.diagnostics import BackTest, Diagnostics, Influence, IsoflopBias, NextRuns
from flops_fit.fitting.isoflop import BudgetOptimum

WORTH_SAYING = 0.01
"""log10 N_opt (2.3%) below which a bias is not mentioned."""

ENOUGH_BUDGETS = 3
"""Bracketed budgets from which on a line is tested by its own points."""

MOST_NAMED = 3
"""Budgets left out of the line that get a sentence of their own."""

LOW_AGREEMENT = 0.5
"""Share of starts at the best optimum below which it is called uncertain."""

WIDEST_EXPONENT = 0.3
"""Width of the 95% interval of alpha or beta from which on a surface is not identified."""

REACH_FACTOR = 2.0
"""Factor either way within which the 80% interval of N_opt must stay to be called useful."""

METHOD_NAMES: Mapping[str, str] = {
    "isoflop": "approach 2 (isoflop)",
    "surface": "approach 3 (surface)",
}


def verdict(d: Diagnostics, optima: Sequence[BudgetOptimum], largest_budget: float) -> str:
    """One line: what may be relied on, and how far."""
    bracketed = sum(optimum.is_bracketed for optimum in optima)
    if d.identifiable is False:
        return "alpha and beta are not determined by these runs: " + (
            "trust approach 2 (isoflop) and the back-test, and extrapolate no further than it did"
            if "isoflop" in d.exponents and bracketed >= ENOUGH_BUDGETS
            else "train more sizes and budgets before relying on a prediction"
        )
    if d.exponents_agree is False and d.bias_explains:
        return (
            "the methods differ by the bias that approach 2 has on this grid: trust approach 3 "
            "(surface)"
        )
    if d.exponents_agree is False:
        return (
            "the two methods contradict each other: rely on neither beyond the trained budgets "
            "before the cause is found"
        )
    if not d.has_intervals:
        return "there are no intervals to rely on: draws were not asked for, or too few runs"
    if d.reach is None:
        return (
            f"even at the largest trained budget, {largest_budget:.3g} FLOPs, N_opt is uncertain "
            f"by more than a factor of {REACH_FACTOR:g}: train more runs first"
        )
    return (
        f"usable up to {d.reach:g} times the largest trained budget "
        f"({d.reach * largest_budget:.3g} FLOPs): the 80% interval of N_opt stays within a factor "
        f"of {REACH_FACTOR:g} either way"
    )


def findings(
    d: Diagnostics, optima: Sequence[BudgetOptimum], refusals: Mapping[str, str], spent: float
) -> tuple[str, ...]:
    """What is weak, what was tested, what to run next. `spent` in FLOPs, of all runs."""
    return (
        *(f"{METHOD_NAMES[method]} refused: {why}" for method, why in refusals.items()),
        *_budget_findings(optima),
        *_identification_findings(d.identifiable),
        *_agreement_findings(d),
        *_ending_findings(d),
        *_back_test_findings(d.back_tests),
        *_bias_findings(d.isoflop_bias),
        *_influence_findings(d.influential_runs),
        *_next_findings(d.next_runs, spent),
    )


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


def _agreement_findings(d: Diagnostics) -> list[str]:
    if d.exponents_agree is None:
        return []
    words = "agree" if d.exponents_agree else "contradict each other"
    a, other = d.exponents["isoflop"], d.exponents["surface"]
    return [f"the methods {words}: a = {a:.3f} (isoflop), {other:.3f} (surface)"]


def _ending_findings(d: Diagnostics) -> list[str]:
    found = []
    if d.at_bounds:
        found.append(
            f"{', '.join(d.at_bounds)} ended at a limit: the runs do not determine "
            + ("it" if len(d.at_bounds) == 1 else "them")
        )
    if d.start_agreement is not None and d.start_agreement < LOW_AGREEMENT:
        found.append(
            f"only {d.start_agreement:.0%} of the starts reached the best optimum: "
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
