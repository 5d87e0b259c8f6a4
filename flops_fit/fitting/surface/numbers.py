"""What is measured of a surface alone: how well it fits, how it ended, which runs decide it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.files import plain
from flops_fit.records import read_as


@dataclass(frozen=True)
class Influence:
    """A single run without which a moves, to `a`, by more than one standard error."""

    id: str
    a: float
    standard_errors: float


@dataclass(frozen=True)
class DeltaFit:
    """The surface refitted with another Huber threshold."""

    delta: float
    a: float
    alpha: float
    beta: float


@dataclass(frozen=True)
class NextRuns:
    """Runs that would narrow the prediction at `target` FLOPs, and by how much.

    `narrowing` is the interval of log N_opt expected after them over the one now;
    `num_params_80` the 80% interval of N_opt then, `num_params_80_now` the present one.
    """

    budget: float
    num_params: tuple[float, ...]
    total_flops: float
    target: float
    narrowing: float
    num_params_80: tuple[float, float]
    num_params_80_now: tuple[float, float]


@dataclass(frozen=True)
class SurfaceNumbers:
    """All of them.

    `noise` is the relative standard deviation of one loss about the surface, robust to outliers;
    None where there are too few runs. `identifiable` is None without draws.
    """

    noise: float | None
    identifiable: bool | None = None
    deltas: tuple[DeltaFit, ...] = ()
    influential_runs: tuple[Influence, ...] = ()
    next_runs: tuple[NextRuns, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dict(plain(vars(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SurfaceNumbers:
        return read_as(cls, data)
