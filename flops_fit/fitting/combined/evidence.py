"""Who is believed how much, and how wide that leaves the answer: back-tests weighed with a prior.

A candidate's error per e-fold of distance is what its back-tests on this sweep show, shrunk towards
what all of them show on published sweeps; its weight is one over the square. Beside the spread of
the candidates the combination errs by noise and by an amount that grows with distance: as it does
on published sweeps, times what its own back-tests on this one say. Figures: docs/forecasts.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.fitting.combined.backtests import Cut
from flops_fit.laws import Array

PRIOR_TESTS = 10.0
"""Back-tests that the errors of published sweeps count for in the weights."""

PRIOR_CALIBRATION = 4.0
"""Back-tests that they count for in the width."""

FADING = 0.7
"""Weight of a back-test in the width over that of one whose cut is a budget newer: the smallest
budgets have too few steps, and err most."""

NEAREST = 0.1
"""ln C below which a distance counts as this: an error is not all distance."""


@dataclass(frozen=True)
class Quantity:
    """One of the two forecasts, and what published sweeps show of it, in ln of it.

    `per_efold` is the root mean square error of a candidate per e-fold of distance; `calibration`
    by what factor the variances below are too large for them.
    """

    errors: Callable[[Cut], Array]
    per_efold: float
    calibration: float


LOSS = Quantity(lambda cut: cut.loss_errors, per_efold=0.006, calibration=0.65)
SIZE = Quantity(lambda cut: cut.size_errors, per_efold=0.1, calibration=1.0)


def weights(names: Sequence[str], cuts: Sequence[Cut], quantity: Quantity) -> Array:
    """Of each candidate, (names,), summing to 1: one over its mean squared error per e-fold."""
    inverse = np.array([1 / _mean_square(name, cuts, quantity) for name in names])
    return np.asarray(inverse / inverse.sum())


def _mean_square(name: str, cuts: Sequence[Cut], quantity: Quantity) -> float:
    """Of a candidate's errors per e-fold, those of published sweeps included."""
    errors = [
        quantity.errors(cut)[cut.names.index(name)] / np.maximum(cut.distance, NEAREST)
        for cut in cuts
        if name in cut.names
    ]
    squares = sum(float(e @ e) for e in errors)
    tested = sum(len(e) for e in errors)
    return (PRIOR_TESTS * quantity.per_efold**2 + squares) / (PRIOR_TESTS + tested)


@dataclass(frozen=True)
class Test:
    """A forecast of the combination at a cut: its error of ln of the quantity, and its stated one.

    `distance` is ln C over the cut, `weight` what the test counts in the width.
    """

    level: float
    distance: float
    error: float
    stated: float
    weight: float


def own_tests(
    cuts: Sequence[Cut], quantity: Quantity, stated: Callable[[Cut], Array]
) -> tuple[Test, ...]:
    """What the combination would have said at each cut by what was known there.

    `stated` (n,) is the variance beside the candidates' spread.
    """
    found = []
    for number, cut in enumerate(cuts):
        known = [earlier.known_at(cut.level) for earlier in cuts[:number]]
        share = weights(cut.names, known, quantity)
        errors = quantity.errors(cut)
        mean = share @ errors
        deviation = np.sqrt(share @ (errors - mean) ** 2 + stated(cut))
        weight = FADING ** (len(cuts) - 1 - number)
        columns = zip(cut.distance.tolist(), mean.tolist(), deviation.tolist(), strict=True)
        found += [Test(cut.level, *row, weight) for row in columns]
    return tuple(found)


def calibration(tests: Sequence[Test], quantity: Quantity) -> float:
    """Factor on the stated variance: what published sweeps say and what these tests do."""
    weight = sum(test.weight for test in tests)
    squares = sum(test.weight * (test.error / test.stated) ** 2 for test in tests)
    prior = PRIOR_CALIBRATION * quantity.calibration
    return (prior + squares) / (PRIOR_CALIBRATION + weight)
