"""`fit_runs`: from runs to a scaling law, in one call."""

from __future__ import annotations

from collections.abc import Sequence

from flops_fit.fitting.isoflop import IsoflopFit
from flops_fit.fitting.scaling_law import ScalingLaw
from flops_fit.fitting.surface import SurfaceFit
from flops_fit.laws import FlopRule
from flops_fit.runs import Run


def fit_runs(
    runs: Sequence[Run],
    *,
    flop_rule: FlopRule | None = None,
    answer: IsoflopFit | SurfaceFit | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> ScalingLaw:
    """Both laws of a sweep, `answer` (approach 3 unless told otherwise) being the one that predicts."""
    raise NotImplementedError
