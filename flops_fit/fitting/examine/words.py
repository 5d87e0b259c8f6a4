"""The numbers of the diagnostics as sentences that a person understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flops_fit.fitting.envelope import ENVELOPE
from flops_fit.fitting.examine.diagnostics import (
    BackTest,
    CountedBy,
    DeltaFit,
    Influence,
    IsoflopBias,
    NextRuns,
    Numbers,
    Without,
)
from flops_fit.fitting.isoflop import ISOFLOP, BudgetOptimum
from flops_fit.fitting.methods import ALWAYS_TRIED, Fits, kind_of, short_name
from flops_fit.fitting.surface import SURFACE

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

WORTH_NARROWING = 1.05
"""Upper over lower end of an interval of N_opt that more runs might narrow."""

WORTH_SAYING_OF_A = 0.01
"""Change of the exponent a below which nothing is said of it: a tenth of a decade of N over ten of
compute."""

MISFIT = 2.0
"""Scatter about the surface over that of repeated seeds from which the surface does not fit."""


def verdict(d: Numbers, optima: Sequence[BudgetOptimum], largest_budget: float, answer: str) -> str:
    """One line: what may be relied on, and how far, if the method `answer` predicts."""
    if kind_of(answer) not in ALWAYS_TRIED:  # whose agreement says nothing of it
        return _reach_verdict(d, largest_budget)
    bracketed = sum(optimum.is_bracketed for optimum in optima)
    if d.identifiable is False:
        return "alpha and beta are not determined by these runs: " + (
            f"trust {short_name(ISOFLOP.name)} and the back-test, and extrapolate no further than "
            "it did"
            if ISOFLOP.name in d.exponents and bracketed >= ENOUGH_BUDGETS
            else "train more sizes and budgets before relying on a prediction"
        )
    if d.exponents_agree is False and d.bias_explains:
        return (
            "the methods differ by the bias that approach 2 has on this grid: trust "
            f"{short_name(SURFACE.name)}"
        )
    if d.exponents_agree is False:
        return (
            "the two methods contradict each other: rely on neither beyond the trained budgets "
            "before the cause is found"
        )
    return _reach_verdict(d, largest_budget)


def _reach_verdict(d: Numbers, largest_budget: float) -> str:
    if not d.has_intervals:
        return (
            "there are no intervals to rely on: draws were not asked for, or there are too few "
            "runs, or trunks, to draw from"
        )
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
    d: Numbers, optima: Sequence[BudgetOptimum], fits: Fits, draws: int, spent: float
) -> tuple[str, ...]:
    """What is weak, what was tested, what to run next.

    `draws` were asked for; `spent` in FLOPs, of all runs.
    """
    return (
        *(f"{short_name(method)} refused: {why}" for method, why in fits.refusals.items()),
        *_budget_findings(optima),
        *_identification_findings(d.identifiable),
        *_agreement_findings(d),
        *_envelope_findings(fits),
        *_draws_findings(d.num_draws, draws),
        *_misfit_findings(d),
        *_ending_findings(d),
        *_without_findings(d),
        *_delta_findings(d.deltas),
        *_back_test_findings(d.back_tests),
        *_bias_findings(d.isoflop_bias),
        *_count_findings(d.parameter_counts),
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


def _agreement_findings(d: Numbers) -> list[str]:
    if d.exponents_agree is None:
        return []
    words = "agree" if d.exponents_agree else "contradict each other"
    both = ", ".join(f"{d.exponents[k.name]:.3f} ({k.name})" for k in ALWAYS_TRIED)
    return [f"the methods {words}: a = {both}"]


def _envelope_findings(fits: Fits) -> list[str]:
    law = fits.envelope
    if law is None:
        return []
    return [
        f"{short_name(ENVELOPE.name)}: a = {law.a:.3f} through {len(law.points)} checkpoints, of "
        f"which {law.num_final} end their run; at the others the learning rate had not come down"
    ]


def _draws_findings(num_draws: Mapping[str, int], asked: int) -> list[str]:
    return [
        f"the intervals of {short_name(method)} rest on {count:,} of the {asked:,} draws asked for"
        for method, count in num_draws.items()
        if count < asked
    ]


def _misfit_findings(d: Numbers) -> list[str]:
    if d.noise is None or d.seed_noise is None or d.noise < MISFIT * d.seed_noise:
        return []
    return [
        f"losses scatter by {d.noise:.2%} about the surface, repeated seeds by {d.seed_noise:.2%}: "
        "the surface does not fit, look at its residuals before you rely on it"
    ]


def _without_findings(d: Numbers) -> list[str]:
    """How the exponents move without single budgets, and without the edge sizes of all of them."""
    ranges, edges = [], []
    for method in d.exponents:
        known = [a for part in d.without_budget if (a := _exponent_of(part, method)) is not None]
        if known and max(known) - min(known) >= WORTH_SAYING_OF_A:
            ranges.append(f"{min(known):.3f} to {max(known):.3f} ({method})")
        a = _exponent_of(d.without_edges, method)
        if a is not None and abs(a - d.exponents[method]) >= WORTH_SAYING_OF_A:
            edges.append(f"from {d.exponents[method]:.3f} to {a:.3f} ({method})")
    said = []
    if ranges:
        said.append(f"with one budget left out at a time a is {', '.join(ranges)}")
    if edges:
        said.append(f"without the edge sizes of every budget a moves {', '.join(edges)}")
    return said


def _exponent_of(part: Without, method: str) -> float | None:
    return {ISOFLOP: part.isoflop_a, SURFACE: part.surface_a}.get(kind_of(method))


def _delta_findings(deltas: Sequence[DeltaFit]) -> list[str]:
    values = [fit.a for fit in deltas]
    if not values or max(values) - min(values) < WORTH_SAYING_OF_A:
        return []
    return [
        f"a lies between {min(values):.3f} and {max(values):.3f} for Huber thresholds from "
        f"{deltas[0].delta:g} to {deltas[-1].delta:g}: single runs decide part of it"
    ]


def _count_findings(counts: Sequence[CountedBy]) -> list[str]:
    """Both counts of N side by side, a sentence per method."""
    by_method: dict[str, list[str]] = {}
    for c in counts:
        words = "with all embeddings" if c.counted == "num_params_total" else "as fitted"
        by_method.setdefault(c.method, []).append(
            f"a = {c.a:.3f} and N_opt = {c.N_opt:.3g} {words}"
        )
    return [
        f"counting N ({method}), at {counts[0].budget:.3g} FLOPs: {'; '.join(said)}"
        for method, said in by_method.items()
    ]


def _ending_findings(d: Numbers) -> list[str]:
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
    """The most helpful proposal that costs no more than the sweep did, if there is much to gain."""
    wide = [p for p in proposals if _is_wide(p.num_params_80_now)]
    affordable = [p for p in wide if p.total_flops <= spent] or wide[:1]
    return [
        f"{len(p.num_params)} more runs at {p.budget:.3g} FLOPs, N = {p.num_params[0]:.3g} to "
        f"{p.num_params[-1]:.3g} ({p.total_flops:.3g} FLOPs in all), would narrow the 80% interval "
        f"of N_opt at {p.target:.3g} FLOPs from {_span(p.num_params_80_now)} to "
        f"{_span(p.num_params_80)}"
        for p in affordable[-1:]
    ]


def _is_wide(bounds: tuple[float, float]) -> bool:
    return bounds[1] > WORTH_NARROWING * bounds[0]


def _span(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.3g} - {bounds[1]:.3g}"
