"""Examines a finished fit: what is weak, how far it reaches, what to run next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from flops_fit.fitting.answer import REACH_FACTOR, REACH_LOSS
from flops_fit.fitting.contract import Optimum
from flops_fit.fitting.examine.diagnostics import (
    LOSS,
    SIZE,
    Agreement,
    Bias,
    Diagnostics,
    Numbers,
    Parting,
)
from flops_fit.fitting.examine.order import orders
from flops_fit.fitting.examine.parameter_counts import by_parameter_counts
from flops_fit.fitting.examine.sensitivity import back_tests, biases, without_parts
from flops_fit.fitting.examine.words import findings, verdict
from flops_fit.fitting.fits import Fits
from flops_fit.fitting.methods import Methods, kind_of
from flops_fit.fitting.noise import seed_noise
from flops_fit.fitting.points import Points
from flops_fit.laws import Array, Law, exponent_between
from flops_fit.laws.prediction import EXTRAPOLATION_WARNING, central_intervals

REACHES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, EXTRAPOLATION_WARNING)
"""Extrapolations tried."""

WITHIN_80 = (0.1, 0.9)
"""Quantiles at the ends of an 80% interval."""

FAR = 10.0
"""Multiple of the largest budget at which biases and disagreements are stated."""


def examine(
    points: Points,
    methods: Methods,
    fits: Fits,
    answer: str,
    optima: Sequence[Optimum],
    draws: int,
) -> Diagnostics:
    """All diagnostics of `fits`, whose `answer` method predicts; `draws` were asked for.

    `optima` are those of the budgets by themselves.
    """
    examined = {
        name: kind_of(name).examined(method, points, fits.laws.get(name), fits.draws.get(name))
        for method in methods
        for name in [method.method]
    }
    numbers = within_doubt(measured(points, methods, fits, answer, optima))
    return Diagnostics(
        verdict=verdict(numbers, examined, points.largest_budget, answer, len(points), draws),
        findings=findings(numbers, examined, fits.refusals, answer, draws),
        numbers=numbers,
        why=examined[answer].why,
        advice=tuple(line for one in examined.values() for line in one.advice),
        of_methods={m: e.numbers for m, e in examined.items() if e.numbers is not None},
    )


def measured(
    points: Points, methods: Methods, fits: Fits, answer: str, optima: Sequence[Optimum]
) -> Numbers:
    """What all methods have alike, of `fits`, whose `answer` method predicts."""
    (law, draws), largest = fits.law_and_draws(answer), points.largest_budget
    seeds = seed_noise(points)
    probed = [method for method in methods if kind_of(method.method).probed]
    found = biases(points, probed, fits, FAR * points.largest_budget)
    without_budget, without_edges = without_parts(points, probed, fits.laws)
    return Numbers(
        has_intervals=draws is not None,
        reach=None if draws is None else _reach(draws.N_opt, REACH_FACTOR, largest),
        loss_reach=None if draws is None else _reach(draws.loss_opt, REACH_LOSS, largest),
        exponents={
            method: float(exponent_between(found, *points.flops_range))
            for method, found in fits.laws.items()
        },
        agreements=agreements(fits, points.flops_range, found),
        flops_ratio=_flops_ratio(law, points.largest_budget),
        without_budget=without_budget,
        without_edges=without_edges,
        back_tests=back_tests(points, probed, optima),
        biases=found,
        num_draws={m: d.num_draws for m, d in fits.draws.items()},
        parameter_counts=by_parameter_counts(points, probed, fits.laws),
        seed_noise=None if seeds is None else seeds.value,
        orders=orders(points),
        direction=wrong_direction(law, points.flops_range),
        partings=partings(fits, FAR * points.largest_budget),
    )


def wrong_direction(law: Law, flops: tuple[float, float]) -> str | None:
    """That more compute would ask for a smaller model or for fewer tokens, in words, else None."""
    for name, optimum, less in (
        ("N_opt", law.N_opt, "smaller models"),
        ("D_opt", law.D_opt, "fewer tokens"),
    ):
        first, last = (float(optimum(c)) for c in flops)
        if last < first:
            exponent = np.log(last / first) / np.log(flops[1] / flops[0])
            return (
                f"{name} ~ C^{exponent:.2f} over them would mean {less} for more compute: train "
                "more sizes, and budgets further apart"
            )
    return None


def within_doubt(numbers: Numbers) -> Numbers:
    """With reaches that end where the order of the losses, or the law's direction, is in doubt."""
    if any(one.is_none for one in numbers.orders):
        return replace(numbers, reach=None, loss_reach=None)
    if numbers.direction is None and all(one.is_clear for one in numbers.orders):
        return numbers
    reach, loss_reach = (
        None if r is None else min(r, REACHES[0]) for r in (numbers.reach, numbers.loss_reach)
    )
    return replace(numbers, reach=reach, loss_reach=loss_reach)


def agreements(
    fits: Fits, flops: tuple[float, float], biases: Sequence[Bias]
) -> tuple[Agreement, ...]:
    """Of each pair of methods with draws."""
    exponents = {
        method: exponent_between(draws, *flops)
        for method, draws in fits.draws.items()
        if kind_of(method).probed
    }
    found = []
    for first, second in combinations(exponents, 2):
        agree = _overlap(exponents[first], exponents[second])
        bias = next((b for b in biases if {b.method, b.if_exact} == {first, second}), None)
        if bias is None:
            found.append(Agreement(first, second, agree))
            continue
        less_bias = _overlap(exponents[bias.method] - bias.a, exponents[bias.if_exact])
        found.append(Agreement(first, second, agree, bias.method, less_bias))
    return tuple(found)


def partings(fits: Fits, budget: float) -> tuple[Parting, ...]:
    """What methods with draws predict at `budget` FLOPs whose 95% intervals don't overlap."""
    probed = {m: draws for m, draws in fits.draws.items() if kind_of(m).probed}
    found = []
    for first, second in combinations(probed, 2):
        for quantity, of in ((SIZE, lambda law: law.N_opt), (LOSS, lambda law: law.loss_opt)):
            if not _overlap(of(probed[first])(budget), of(probed[second])(budget)):
                values = (float(of(fits.laws[m])(budget)) for m in (first, second))
                found.append(Parting(quantity, budget, first, next(values), second, next(values)))
    return tuple(found)


def _overlap(draws: Array, others: Array) -> bool:
    """Whether the 95% intervals overlap."""
    (low, high), (other_low, other_high) = (
        central_intervals(values)["95"] for values in (draws, others)
    )
    return low <= other_high and other_low <= high


def _reach(answers: Callable[[float], Array], factor: float, largest: float) -> float | None:
    """Largest extrapolation with an 80% interval within `factor` either way, None if not even 1."""
    reach = None
    for multiple in REACHES:
        low, high = np.quantile(answers(multiple * largest), WITHIN_80)
        if high / low > factor**2:
            break
        reach = multiple
    return reach


def _flops_ratio(law: Law, budget: float) -> float:
    """FLOPs of the optimum at a budget over that budget: 1 but for rounding."""
    spent = law.flop_rule(law.N_opt(budget)) * law.D_opt(budget)
    return float(spent / budget)
