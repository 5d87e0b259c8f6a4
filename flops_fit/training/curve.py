"""The curve of a run: its losses along the way, one JSON line each in metrics.jsonl."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flops_fit.files import finite
from flops_fit.laws import FORWARD_SHARE
from flops_fit.plan.experiment import Experiment

CURVE_POINTS = 50
"""Points of a run's curve, evenly spaced in the logarithm of steps."""

HELD_OUT_POINTS = 10
"""Points of these at which the held-out loss is measured too."""

HELD_OUT_SHARE = 0.01
"""Share of the run's compute that all these measurements may cost together."""


@dataclass(frozen=True)
class CurvePoint:
    """A run after `step` updates. `train_loss` is the mean since the previous point."""

    step: int
    num_tokens: int
    flops: float
    train_loss: float
    held_out_loss: float | None  # on the first few of the held-out samples; rarely measured
    lr: float  # of the first parameter group
    grad_norm: float  # Euclidean, over all parameters, before clipping

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class CurvePlan:
    """Steps after which the curve has a point, and a held-out loss on `held_out_samples`."""

    steps: frozenset[int]
    held_out_steps: frozenset[int]
    held_out_samples: int

    @classmethod
    def of(cls, experiment: Experiment, most_samples: int) -> CurvePlan:
        """Both evenly spaced in logs, the last step always included in the first."""
        e = experiment
        affordable = HELD_OUT_SHARE / FORWARD_SHARE * e.num_steps  # batches to evaluate on
        points = min(HELD_OUT_POINTS, int(affordable))
        samples = int(affordable / points) * e.batch_size if points else 0
        steps = log_spaced(e.num_steps, CURVE_POINTS)
        return cls(steps, _nearest(steps, e.num_steps, points), min(samples, most_samples))


def log_spaced(num_steps: int, points: int) -> frozenset[int]:
    """About `points` of the steps 1..num_steps, the first and the last included."""
    return frozenset(round(num_steps ** (i / points)) for i in range(points + 1))


def _nearest(steps: frozenset[int], num_steps: int, points: int) -> frozenset[int]:
    """`points` of the steps, log-spaced, without the last one, where the run's loss is measured."""
    wanted = [num_steps ** (i / (points + 1)) for i in range(1, points + 1)]
    inner = sorted(steps - {num_steps})
    return frozenset(inner[min(bisect_left(inner, w), len(inner) - 1)] for w in wanted if inner)


def write_curve(path: Path, curve: Iterable[CurvePoint]) -> None:
    """One JSON line per point; what is not finite becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points = ({k: v and finite(v) for k, v in point.to_json().items()} for point in curve)
    path.write_text("".join(f"{json.dumps(point)}\n" for point in points), encoding="utf-8")
