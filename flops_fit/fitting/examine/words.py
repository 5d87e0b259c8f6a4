"""The numbers of the diagnostics as sentences that a person understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flops_fit.fitting.answer import REACH_FACTOR, REACH_LOSS, Reach
from flops_fit.fitting.contract import WORTH_SAYING_OF_A, Examined
from flops_fit.fitting.examine.diagnostics import (
    SIZE,
    BackTest,
    Bias,
    CountedBy,
    Numbers,
    Parting,
)
from flops_fit.fitting.methods import kind_of, number_of, short_name
from flops_fit.shown import short_flops, short_loss, short_number, times

WORTH_SAYING = 0.02
"""log10 N_opt (4.7%) below which a bias is not mentioned."""

IN_FULL = "counted in full (num_params_total)"
"""Said of N with all embeddings, or all experts: the runs tell a number, not what it counts."""


def verdict(
    d: Numbers,
    examined: Mapping[str, Examined],
    largest_budget: float,
    answer: str,
    num_runs: int,
    draws: int,
) -> str:
    """How far what follows may be relied on, if the method `answer` predicts by `num_runs` runs.

    No other method is spoken of than the one whose numbers follow; `draws` were asked for.
    """
    in_doubt = (d.direction, *(one.doubt for one in d.orders if not one.is_clear))
    doubt = next(filter(None, in_doubt), None)
    trained = f"{short_flops(largest_budget)} FLOPs, your largest budget"
    if not d.has_intervals:
        few = f"these {num_runs} runs give too little to tell how sure this is"
        unknown = f"No intervals: {few if draws else 'draws=0 asks for none'}."
        return f"{unknown} Not to be used beyond {trained}: {doubt}." if doubt else unknown
    if chance := next((one.doubt for one in d.orders if one.is_none), None):
        return f"No good: {chance}."
    if doubt := d.direction or examined[answer].doubt or doubt:
        return f"No good beyond {trained}: {doubt}."
    said = _reached(d.reached, largest_budget)
    if kind_of(answer).probed:
        return f"{said} These are its own intervals, not held against back-tests (fit=auto's are)."
    return said


def _reached(reach: Reach, largest: float) -> str:
    """How far both numbers can be relied on."""
    size, loss = f"N within {times(REACH_FACTOR)}", f"the loss within {REACH_LOSS - 1:.0%}"
    trained = f"your largest budget, {short_flops(largest)} FLOPs"
    if reach.num_params is None and reach.loss is None:
        return f"No good yet: even at {trained}, neither {size} nor {loss} (80%). Train more runs."
    if reach.num_params is None:
        return (
            f"Good for the loss only: {loss} (80%) up to {_far(reach.loss, largest)}; N isn't "
            f"known within {times(REACH_FACTOR)} even at {trained}. Train more sizes."
        )
    if reach.loss is None:
        return (
            f"Good for N only: {size} (80%) up to {_far(reach.num_params, largest)}; the loss "
            f"isn't known within {REACH_LOSS - 1:.0%} even at {trained}."
        )
    nearer, farther = sorted(((reach.loss, loss), (reach.num_params, size)))
    good = f"Good to {_far(nearer[0], largest)}: up to there"
    if nearer[0] == farther[0]:
        return f"{good} {size} and {loss} (80%)."
    return f"{good} {nearer[1]} (80%), {farther[1]} up to {short_flops(farther[0] * largest)}."


def _far(reach: float | None, largest: float) -> str:
    multiple = reach or 1.0
    said = f"{short_flops(multiple * largest)} FLOPs"
    return f"{said} (your largest budget)" if multiple == 1 else f"{said} ({times(multiple)})"


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
        *_parting_findings(d.partings),
        *_draws_findings(d.num_draws, answer, draws),
        *_without_findings(d),
        *_back_test_findings(d.back_tests),
        *_bias_findings(d.biases),
        *_count_findings(d.parameter_counts),
    )


def _evidence_findings(examined: Mapping[str, Examined], answer: str) -> list[str]:
    """What weighing all methods would have chosen, where another was asked to answer."""
    return [
        f"fit=auto would have answered otherwise: {one.why}"
        for method, one in examined.items()
        if method != answer and one.why and not kind_of(method).probed
    ]


def _parting_findings(partings: Sequence[Parting]) -> list[str]:
    """What methods predict whose intervals don't meet."""
    return [
        f"{short_name(p.first)} and {short_name(p.second)} disagree at {short_flops(p.budget)}: "
        + ("N " if p.quantity == SIZE else "loss ")
        + " and ".join(shown(value) for value in (p.first_value, p.second_value))
        for p in partings
        for shown in [short_number if p.quantity == SIZE else short_loss]
    ]


def _draws_findings(num_draws: Mapping[str, int], answer: str, asked: int) -> list[str]:
    count = num_draws.get(answer, asked)
    if count >= asked:
        return []
    return [f"the intervals of {short_name(answer)} rest on {count:,} of {asked:,} draws"]


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
            edges.append(f"{inner:.3f}, not {a:.3f} ({method})")
    said = []
    if ranges:
        said.append(f"without one of the budgets the exponent is {', '.join(ranges)}")
    if edges:
        said.append(f"without each budget's outermost sizes the exponent is {', '.join(edges)}")
    return said


def _count_findings(counts: Sequence[CountedBy]) -> list[str]:
    """Both counts of N side by side, a sentence per method."""
    by_method: dict[str, list[str]] = {}
    for c in counts:
        words = IN_FULL if c.counted == "num_params_total" else "as fitted"
        by_method.setdefault(c.method, []).append(
            f"exponent {c.a:.3f} and N {short_number(c.N_opt)} {words}"
        )
    return [
        f"what N counts ({method}), at {short_flops(counts[0].budget)}: {'; '.join(said)}"
        for method, said in by_method.items()
    ]


def _back_test_findings(tests: Sequence[BackTest]) -> list[str]:
    """What each method, fitted without the largest budget, says of it: a line for all."""
    if not tests:
        return []
    first = tests[0]
    said = ", ".join(_back_test(test) for test in tests)
    start = short_flops(first.budget / first.extrapolation)
    return [f"back-test from {start} to {short_flops(first.budget)} by each method: {said}"]


def _back_test(test: BackTest) -> str:
    size = test.log10_num_params_error
    return f"{test.method} loss {test.loss_error:+.2%}" + (
        "" if size is None else f" N x{10**size:.2f}"
    )


def _bias_findings(biases: Sequence[Bias]) -> list[str]:
    return [
        f"bias of {number_of(bias.method)} on these sizes, if {_the_law(bias.if_exact)} is right: "
        f"N x{10**bias.log10_num_params:.2f} at {short_flops(bias.budget)}"
        for bias in biases
        if abs(bias.log10_num_params) >= WORTH_SAYING
    ]


def _the_law(method: str) -> str:
    """A law in a sentence: ours by what it is, any other by its name."""
    words = kind_of(method).words
    return f"the {words}" if words else method
