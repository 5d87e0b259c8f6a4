"""The numbers of the diagnostics as sentences that a person understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flops_fit.fitting.answer import Reach
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

REACH_FACTOR, REACH_LOSS = 2.0, 1.03
"""Factors either way within which the 80% intervals of N_opt and of the loss must stay to be called
useful."""

IN_FULL = "counted in full (num_params_total)"
"""Said of N with all embeddings, or all experts: the runs tell a number, not what it counts."""


def verdict(
    d: Numbers, examined: Mapping[str, Examined], largest_budget: float, answer: str
) -> str:
    """One line: what may be relied on, and how far, if the method `answer` predicts.

    No other method is spoken of than the one whose numbers follow.
    """
    in_doubt = (d.direction, *(one.doubt for one in d.orders if not one.is_clear))
    doubt = next(filter(None, in_doubt), None)
    if not d.has_intervals:
        unknown = (
            "unknown how sure: there are no intervals, since draws were not asked for, or there "
            "are too few runs, or trunks, to draw from"
        )
        return f"{unknown}; beyond the trained budgets nothing: {doubt}" if doubt else unknown
    if chance := next((one.doubt for one in d.orders if one.is_none), None):
        return f"unreliable: {chance}"
    if doubt := d.direction or examined[answer].doubt or doubt:
        return f"rely on nothing beyond the trained budgets: {doubt}"
    said = _reached(d.reached, largest_budget)
    if kind_of(answer).probed:
        return f"{said}; these are its own intervals, not held against back-tests (fit=auto's are)"
    return said


def _reached(reach: Reach, largest: float) -> str:
    """How far both numbers can be relied on."""
    size = f"N within a factor of {REACH_FACTOR:g}"
    loss = f"the loss within {REACH_LOSS - 1:.0%}"
    if reach.num_params is None and reach.loss is None:
        return (
            f"unreliable: even at the largest trained budget, {largest:.3g} FLOPs, neither {size} "
            f"nor {loss} is sure at 80%: train more runs first"
        )
    if reach.num_params is None:
        return (
            f"loss only: {loss} {_up_to(reach.loss, largest)}, N not even there: train more sizes"
        )
    if reach.loss is None:
        return f"N only: {size} {_up_to(reach.num_params, largest)}, the loss not even there"
    if reach.num_params == reach.loss:
        return f"usable {_up_to(reach.loss, largest)}: {size} and {loss} either way at 80%"
    return (
        f"usable: {loss} {_up_to(reach.loss, largest)}, {size} "
        f"{_up_to(reach.num_params, largest)}, at 80%"
    )


def _up_to(reach: float | None, largest: float) -> str:
    multiple = reach or 1.0
    if multiple == 1:
        return f"up to the largest trained budget ({largest:.3g} FLOPs)"
    return f"up to {multiple:g} times the largest trained budget ({multiple * largest:.3g} FLOPs)"


def findings(
    d: Numbers,
    examined: Mapping[str, Examined],
    refusals: Mapping[str, str],
    answer: str,
    draws: int,
) -> tuple[str, ...]:
    """What is weak and what was tested. `draws` were asked for of the method that answers."""
    return (
        *_evidence_findings(examined, answer),
        *(f"{short_name(method)} refused: {why}" for method, why in refusals.items()),
        *(finding for one in examined.values() for finding in one.findings),
        *_agreement_findings(d),
        *_draws_findings(d.num_draws, answer, draws),
        *_without_findings(d),
        *_back_test_findings(d.back_tests),
        *_bias_findings(d.biases),
        *_count_findings(d.parameter_counts),
    )


def _evidence_findings(examined: Mapping[str, Examined], answer: str) -> list[str]:
    """What weighing all methods would have chosen, where another was asked to answer."""
    return [
        f"the evidence would have answered otherwise (fit=auto): {one.why}"
        for method, one in examined.items()
        if method != answer and one.why and not kind_of(method).probed
    ]


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


def _draws_findings(num_draws: Mapping[str, int], answer: str, asked: int) -> list[str]:
    count = num_draws.get(answer, asked)
    if count >= asked:
        return []
    return [
        f"the intervals of {short_name(answer)} rest on {count:,} of the {asked:,} draws asked for"
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
        words = IN_FULL if c.counted == "num_params_total" else "as fitted"
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
