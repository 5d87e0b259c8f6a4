"""How much the loss of one run scatters, and fresh noise of that size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flops_fit.fitting.points import Points, replicate_groups
from flops_fit.laws import Array

FEWEST_FREEDOM = 3
"""Degrees of freedom (repeats less points) from which repeated seeds tell the noise."""

NORMAL_PER_MEDIAN = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class SeedNoise:
    """Relative standard deviation of one loss by repeated seeds, and on how many it rests."""

    value: float
    freedom: int

    def draws(self, count: int, generator: np.random.Generator) -> Array:
        """What the noise may really be, (count,): seen through chi squared of that freedom."""
        return self.value * np.sqrt(self.freedom / generator.chisquare(self.freedom, count))


def seed_noise(points: Points) -> SeedNoise | None:
    """The scatter of ln loss among runs of one (N, D); None where too few are repeated, or these
    differ by more than their seeds."""
    if not points.repeats_are_seeds:
        return None
    repeats = [np.log(points.loss[rows]) for rows in replicate_groups(points)]
    freedom = sum(len(r) - 1 for r in repeats)
    if freedom < FEWEST_FREEDOM:
        return None
    squares = sum(float(np.sum((r - r.mean()) ** 2)) for r in repeats)
    return SeedNoise(float(np.sqrt(squares / freedom)), freedom)


@dataclass
class FreshNoise:
    """Standard normal noise for rows, `count` draws of each.

    Runs that branched from one trunk share one draw: nearly all of their training is the same.
    """

    count: int
    generator: np.random.Generator
    _of_trunks: dict[str, Array] = field(default_factory=dict)

    def of(self, points: Points) -> Array:
        """(n, count); the same numbers whenever the same trunk is asked for."""
        noise = self.generator.standard_normal((len(points), self.count))
        for row, trunk in enumerate(points.trunks):
            if trunk is not None:
                noise[row] = self._of_trunks.setdefault(trunk, noise[row].copy())
        return noise
