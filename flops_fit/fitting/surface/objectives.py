"""What a surface fit minimises: the penalty of a predicted loss, and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from flops_fit.fitting.errors import FitError
from flops_fit.laws import Array

HOFFMANN_DELTA = 1e-3
"""Huber threshold on log loss (Hoffmann et al. 2022, section 3.3)."""

NEARLY_ABSOLUTE = 1e-7
"""Huber threshold at which the penalty is |r| to a relative 1e-4 for any residual above 1e-3."""


class Penalty(NamedTuple):
    """Per row, as functions of the predicted loss u: the penalty, its first two derivatives, and
    the curvature of a parabola that touches the penalty and lies above it near the minimum."""

    value: Array
    slope: Array
    curvature: Array
    majorant: Array


class Objective(Protocol):
    """The sum over rows of a penalty of (predicted, measured) loss."""

    @property
    def name(self) -> str: ...

    @property
    def delta(self) -> float | None: ...

    @property
    def smoother(self) -> tuple[Objective, ...]:
        """Easier objectives to solve first, each from the last one's optimum."""

    def values(self, predicted: Array, measured: Array) -> Array: ...

    def penalty(self, predicted: Array, measured: Array) -> Penalty: ...


@dataclass(frozen=True)
class Huber:
    """Huber's penalty of ln predicted - ln measured: r^2/2 up to `delta`, then linear."""

    delta: float = HOFFMANN_DELTA

    def __post_init__(self) -> None:
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise FitError(f"Huber delta is {self.delta}", "give a threshold above 0 such as 1e-3")

    @property
    def name(self) -> str:
        return "huber_log_loss"

    @property
    def smoother(self) -> tuple[Objective, ...]:
        # Halfway stations in decades: a threshold far below the residuals makes nearly every row
        # linear, and Newton steps from afar then see no curvature at all.
        stations = [10.0**-k for k in range(2, 7) if 10.0**-k > 2 * self.delta]
        return tuple(Huber(delta) for delta in stations)

    def values(self, predicted: Array, measured: Array) -> Array:
        size = np.abs(np.log(predicted / measured))
        inside = np.minimum(size, self.delta)
        return inside * (size - 0.5 * inside)

    def penalty(self, predicted: Array, measured: Array) -> Penalty:
        residual = np.log(predicted / measured)
        size = np.abs(residual)
        inside = np.minimum(size, self.delta)
        pull = np.copysign(inside, residual)  # d penalty / d residual
        per_square = predicted**-2.0
        return Penalty(
            value=inside * (size - 0.5 * inside),
            slope=pull / predicted,
            curvature=((size <= self.delta) - pull) * per_square,
            majorant=per_square * (self.delta / np.maximum(size, self.delta)),
        )


@dataclass(frozen=True)
class SquaredError:
    """(predicted - measured)^2 / 2 of the raw loss: ordinary non-linear least squares ("vpnls")."""

    @property
    def name(self) -> str:
        return "squared_error"

    @property
    def delta(self) -> None:
        return None

    @property
    def smoother(self) -> tuple[Objective, ...]:
        return ()

    def values(self, predicted: Array, measured: Array) -> Array:
        return 0.5 * (predicted - measured) ** 2

    def penalty(self, predicted: Array, measured: Array) -> Penalty:
        residual = predicted - measured
        one = np.ones_like(residual)
        return Penalty(0.5 * residual**2, residual, one, one)


@dataclass(frozen=True)
class AbsoluteError:
    """|ln predicted - ln measured| ("lad"): half of the rows may be wrong without moving the fit.

    Solved as a Huber penalty of threshold 1e-7, scaled so that its slope is 1.
    """

    @property
    def name(self) -> str:
        return "absolute_log_error"

    @property
    def delta(self) -> None:
        return None

    @property
    def smoother(self) -> tuple[Objective, ...]:
        return Huber(NEARLY_ABSOLUTE).smoother

    def values(self, predicted: Array, measured: Array) -> Array:
        return Huber(NEARLY_ABSOLUTE).values(predicted, measured) / NEARLY_ABSOLUTE

    def penalty(self, predicted: Array, measured: Array) -> Penalty:
        smooth = Huber(NEARLY_ABSOLUTE).penalty(predicted, measured)
        return Penalty(*(part / NEARLY_ABSOLUTE for part in smooth))


def objective_named(name: str, delta: float | None) -> Objective:
    """The objective that law.json names."""
    objectives = (Huber(delta or HOFFMANN_DELTA), SquaredError(), AbsoluteError())
    for objective in objectives:
        if objective.name == name:
            return objective
    names = ", ".join(o.name for o in objectives)
    raise FitError(f"the objective is {name!r}", f"one of {names} was expected")
