"""Resamples of the rows of a fit, as integer weights that share one design."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flops_fit.laws import Array

DEFAULT_DRAWS = 4000
"""The 2.5% tail then holds 100 draws: its quantile is known to 10% of the standard error."""

DRAWS_AT_ONCE = 100
"""Bounds the memory of the draw (10,000 rows: 8 MB); the weights themselves are kept as bytes."""

PLACES_TO_SPARE = 10
"""From this multiple of the places needed on, a resample with too few practically never comes."""

MOST_ATTEMPTS = 100
"""Rounds of drawing again what came out with too few different places."""


def resample_weights(
    places: NDArray[np.int64], draws: int, seed: int, fewest_places: int
) -> NDArray[np.uint8]:
    """How often each row is drawn, (draws, n): n rows with replacement, so each sums to n.

    `places` (n,) numbers the (N, D) of each row. A resample with fewer than `fewest_places`
    different ones determines nothing and is drawn again.
    """
    generator = np.random.default_rng(seed)
    blocks = [np.empty((0, len(places)), dtype=np.uint8)]
    left, attempts = draws, 0
    while left and attempts < MOST_ATTEMPTS:
        fresh = _resamples(len(places), min(left, DRAWS_AT_ONCE), generator)
        enough = _enough_places(fresh, places, fewest_places)
        blocks.append(fresh[enough])
        left -= int(enough.sum())
        attempts = 0 if enough.any() else attempts + 1
    return np.concatenate(blocks)


def _resamples(count: int, draws: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    return generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.uint8)


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
