"""The numbers of the diagnostics as sentences that a person understands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flops_fit.fitting.contract import WORTH_SAYING_OF_A, Examined
from flops_fit.fitting.examine.diagnostics import (
    Agreement,
    BackTest,
    Bias,
    CountedBy,
    Numbers,
)
from flops_fit.fitting.methods import kind_of, number_of, short_name

WORTH_SAYING = 0.01
"""log10 N_opt (2.3%) below which a bias is not mentioned."""

REACH_FACTOR = 2.0
"""Factor either way within which the 80% interval of N_opt must stay to be called useful."""


def verdict(
    d: Numbers, examined: Mapping[str, Examined], largest_budget: float, answer: str
) -> str:
    """One line: what may be relied on, and how far, if the method `answer` predicts."""
    always = [method for method in examined if kind_of(method).always_tried]
    if answer not in always:  # whose agreement says nothing of it
        return _reach_verdict(d, largest_budget)
    for method in always:
        if doubt := examined[method].doubt:
            firm = [m for m in always if m != method and examined[m].is_firm]
            return f"{doubt}: {_rely_on(firm)}"
    torn = [t for t in _contradictions(d) if t.first in always and t.second in always]
    if torn and all(t.agree_less_bias for t in torn):
        trusted = dict.fromkeys(short_name(t.exact) for t in torn if t.exact)
        biased = dict.fromkeys(number_of(t.biased) for t in torn if t.biased)
        return (
            f"the methods differ by the bias that {_and(biased)} has on this grid: trust "
            f"{_and(trusted)}"
        )
    if torn:
        return (
            "the two methods contradict each other: rely on neither beyond the trained budgets "
            "before the cause is found"
        )
    return _reach_verdict(d, largest_budget)


def _rely_on(firm: Sequence[str]) -> str:
    """What is left where one method is in doubt."""
    if not firm:
        return "train more sizes and budgets before relying on a prediction"
    trusted = _and(map(short_name, firm))
    return f"trust {trusted} and the back-test, and extrapolate no further than it did"


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
    d: Numbers, examined: Mapping[str, Examined], refusals: Mapping[str, str], draws: int
) -> tuple[str, ...]:
    """What is weak, what was tested, what to run next. `draws` were asked for."""
    return (
        *(f"{short_name(method)} refused: {why}" for method, why in refusals.items()),
        *(finding for one in examined.values() for finding in one.findings),
        *_agreement_findings(d),
        *_draws_findings(d.num_draws, draws),
        *_without_findings(d),
        *_back_test_findings(d.back_tests),
        *_bias_findings(d.biases),
        *_count_findings(d.parameter_counts),
        *(advice for one in examined.values() for advice in one.advice),
    )


def _contradictions(d: Numbers) -> list[Agreement]:
    return [agreement for agreement in d.agreements if not agreement.agree]


def _agreement_findings(d: Numbers) -> list[str]:
    """The exponents of all that were compared, or of those that contradict each other."""
    if not d.agreements:
        return []
    torn = _contradictions(d)
    words = "contradict each other" if torn else "agree"
    named = {name for pair in torn or d.agreements for name in (pair.first, pair.second)}
    said = ", ".join(f"{a:.3f} ({name})" for name, a in d.exponents.items() if name in named)
    return [f"the methods {words}: a = {said}"]


def _draws_findings(num_draws: Mapping[str, int], asked: int) -> list[str]:
    return [
        f"the intervals of {short_name(method)} rest on {count:,} of the {asked:,} draws asked for"
        for method, count in num_draws.items()
        if count < asked
    ]


def _without_findings(d: Numbers) -> list[str]:
    """How the exponents move without single budgets, and without the edge sizes of all of them."""
    ranges, edges = [], []
    for method, a in d.exponents.items():
        parts = [part.exponents.get(method) for part in d.without_budget]
        known = [part for part in parts if part is not None]
        if known and max(known) - min(known) >= WORTH_SAYING_OF_A:
            ranges.append(f"{min(known):.3f} to {max(known):.3f} ({method})")
        inner = d.without_edges.exponents.get(method)
        if inner is not None and abs(inner - a) >= WORTH_SAYING_OF_A:
            edges.append(f"from {a:.3f} to {inner:.3f} ({method})")
    said = []
    if ranges:
        said.append(f"with one budget left out at a time a is {', '.join(ranges)}")
    if edges:
        said.append(f"without the edge sizes of every budget a moves {', '.join(edges)}")
    return said


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


def _bias_findings(biases: Sequence[Bias]) -> list[str]:
    return [
        f"on this grid {number_of(bias.method)} would put N_opt at {bias.budget:.3g} FLOPs off by "
        f"a factor of {10**bias.log10_num_params:.2f} (and a by {bias.a:+.3f}) if "
        f"{_the_law(bias.if_exact)} were exact"
        for bias in biases
        if abs(bias.log10_num_params) >= WORTH_SAYING
    ]


def _the_law(method: str) -> str:
    """A law in a sentence: ours by what it is, any other by its name."""
    words = kind_of(method).words
    return f"the {words}" if words else method


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
