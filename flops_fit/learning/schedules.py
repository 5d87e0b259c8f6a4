"""Learning-rate schedules: the factor on the base rate as a pure function of progress.

Progress runs with the run's own length, so every run, short or long, sees its whole schedule:
linear warm-up over the first `warmup_fraction`, the shape in the middle, the end value at the
run's own last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[float], float]
"""Progress in (0, 1] -> factor on the base learning rate, 1 at the peak."""


def progress_of(step: int, num_steps: int) -> float:
    """Progress of the update that `step` (from 0) makes in a run of `num_steps`: 1/n, 2/n .. 1.

    The first update is already a step into the warm-up, never at rate 0, and the last one sits at
    the schedule's end value.
    """
    if not 0 <= step < num_steps:
        raise ValueError(f"step {step} is not one of the run's {num_steps} steps: 0..n-1")
    return (step + 1) / num_steps


@dataclass(frozen=True)
class Constant:
    """Warm-up, then 1 to the end."""

    warmup_fraction: float = 0.05

    def __post_init__(self) -> None:
        _check_fraction("warmup_fraction", self.warmup_fraction)

    def __call__(self, progress: float) -> float:
        return _warmup(progress, self.warmup_fraction)


@dataclass(frozen=True)
class Cosine:
    """Warm-up, then half a cosine from 1 down to `final_factor` (Loshchilov & Hutter 2017)."""

    warmup_fraction: float = 0.05
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_fraction("warmup_fraction", self.warmup_fraction)
        _check_fraction("final_factor", self.final_factor)

    def __call__(self, progress: float) -> float:
        if progress <= self.warmup_fraction:
            return _warmup(progress, self.warmup_fraction)
        decayed = _part_done(progress, self.warmup_fraction)
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * decayed)) / 2


@dataclass(frozen=True)
class Linear:
    """Warm-up, then a straight line from 1 down to `final_factor`."""

    warmup_fraction: float = 0.05
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        _check_fraction("warmup_fraction", self.warmup_fraction)
        _check_fraction("final_factor", self.final_factor)

    def __call__(self, progress: float) -> float:
        if progress <= self.warmup_fraction:
            return _warmup(progress, self.warmup_fraction)
        return 1 - (1 - self.final_factor) * _part_done(progress, self.warmup_fraction)


@dataclass(frozen=True)
class WSD:
    """Warm-up, stable, decay: 1 until the last `cooldown_fraction`, then 1 - sqrt down to 0.

    The 1 - sqrt shape is the best of those compared in Hägele et al. 2024, section 3.
    """

    warmup_fraction: float = 0.05
    cooldown_fraction: float = 0.2

    def __post_init__(self) -> None:
        _check_fraction("warmup_fraction", self.warmup_fraction)
        _check_fraction("cooldown_fraction", self.cooldown_fraction)
        if self.warmup_fraction + self.cooldown_fraction > 1:
            raise ValueError(
                f"warmup_fraction {self.warmup_fraction:g} and cooldown_fraction "
                f"{self.cooldown_fraction:g} add up to more than the whole run: lower one"
            )

    def __call__(self, progress: float) -> float:
        stable_until = 1 - self.cooldown_fraction
        if progress <= stable_until:
            return _warmup(progress, self.warmup_fraction)
        return 1 - math.sqrt(_part_done(progress, stable_until))


@dataclass(frozen=True)
class Phases:
    """The factor of `WSD` by steps instead of progress: warm-up and the constant phase are then
    the same to the last bit in runs of different lengths, which can share them."""

    warmup_steps: int
    cooldown_steps: int
    num_steps: int

    def __call__(self, step: int) -> float:
        """The factor of the update that `step` (from 0) makes."""
        done, stable_until = step + 1, self.num_steps - self.cooldown_steps
        if done <= self.warmup_steps:
            return done / self.warmup_steps
        if done <= stable_until:
            return 1.0
        return 1 - math.sqrt((done - stable_until) / self.cooldown_steps)


def _warmup(progress: float, warmup_fraction: float) -> float:
    """progress / warmup_fraction up to 1, then 1."""
    return progress / warmup_fraction if progress < warmup_fraction else 1.0


def _part_done(progress: float, start: float) -> float:
    """0 at `start`, 1 at the end of the run. Callers come here past `start`, so start < 1."""
    return min(1.0, (progress - start) / (1 - start))


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value:g}: it must be a fraction of the run from 0 to 1")
