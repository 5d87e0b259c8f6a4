"""Resamples of the rows of a fit, as integer weights that share one design."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flops_fit.fitting.points import Points, blocks, places
from flops_fit.laws import Array
from flops_fit.settings.sweep import LawSettings

DEFAULT_DRAWS = LawSettings.draws
"""The 2.5% tail then holds 100 draws: its quantile is known to 10% of the standard error."""

DRAWS_AT_ONCE = 100
"""Bounds the memory of the draw (10,000 rows: 8 MB); the weights themselves are kept as bytes."""

PLACES_TO_SPARE = 10
"""From this multiple of the places needed on, a resample with too few practically never comes."""

MOST_ATTEMPTS = 100
"""Rounds of drawing again what came out with too few different places."""

FEWEST_IN_STRATUM = 3
"""Runs of a budget that are drawn among themselves. Of two, half of all resamples have one twice:
nominal 90% intervals of 20 budgets of 2 runs would cover 0.81; of 9 budgets of 3 runs 0.88."""


def resample_weights(
    points: Points, draws: int, seed: int, fewest_places: int
) -> NDArray[np.uint8]:
    """How often each row is drawn, (draws, n), with replacement.

    Where runs share trunks whole trunks are drawn, from all of them: the errors of a trunk's runs
    are nearly one error, and rows drawn singly would count it as many. Otherwise rows are drawn
    within their budget, so that every resample has the sweep's own budgets.

    A resample with fewer than `fewest_places` different (N, D) determines nothing and is drawn
    again.
    """
    generator = np.random.default_rng(seed)
    block, place = blocks(points), places(points)
    strata = _strata(points, block)
    found = [np.empty((0, len(points)), dtype=np.uint8)]
    left, attempts = draws, 0
    while left and attempts < MOST_ATTEMPTS:
        fresh = _resamples(strata, min(left, DRAWS_AT_ONCE), generator)[:, block]
        enough = _enough_places(fresh, place, fewest_places)
        found.append(fresh[enough])
        left -= int(enough.sum())
        attempts = 0 if enough.any() else attempts + 1
    return np.concatenate(found)


def _strata(points: Points, block: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The blocks that are drawn among themselves: those of a budget, or all where trunks cross."""
    num_blocks = int(block.max()) + 1
    if num_blocks < len(points):
        return [np.arange(num_blocks)]
    budgets, stratum, counts = np.unique(points.budget, return_inverse=True, return_counts=True)
    stratum = np.where(counts < FEWEST_IN_STRATUM, -1, np.arange(len(budgets)))[stratum.ravel()]
    return [np.flatnonzero(stratum == s) for s in np.unique(stratum)]


def _resamples(
    strata: list[NDArray[np.int64]], draws: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """How often each block is drawn, (draws, blocks)."""
    counts = np.empty((draws, sum(map(len, strata))), dtype=np.uint8)
    for stratum in strata:
        size = len(stratum)
        counts[:, stratum] = generator.multinomial(size, np.full(size, 1 / size), size=draws)
    return counts


def _enough_places(
    weights: NDArray[np.uint8], places: NDArray[np.int64], fewest: int
) -> NDArray[np.bool_]:
    names = np.unique(places)
    if len(names) >= PLACES_TO_SPARE * fewest:
        return np.ones(len(weights), dtype=bool)
    membership = (places[:, None] == names).astype(float)  # (n, places)
    drawn = (weights @ membership > 0).sum(axis=1)
    return np.asarray(drawn >= min(fewest, len(names)))


def standard_error(draws: Array) -> float:
    """Half the width of the central 68% of the draws: a standard deviation that outliers leave."""
    low, high = np.quantile(draws, (0.16, 0.84))
    return float(high - low) / 2
