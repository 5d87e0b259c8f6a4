"""The result of a fit: both laws, how sure they are, and everything needed to repeat them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flops_fit.fitting.diagnostics import Diagnostics
from flops_fit.fitting.isoflop import BudgetOptimum, IsoflopLaw
from flops_fit.fitting.points import Dropped
from flops_fit.fitting.surface import SurfaceLaw
from flops_fit.laws import FlopRule, Law
from flops_fit.prediction import Intervals, Prediction


@dataclass(frozen=True)
class ScalingLaw:
    """What a sweep says. `isoflop` or `surface` is None where `refusals` says why.

    `answer` ("isoflop" or "surface") names the law that answers `predict`. `intervals` has keys
    such as "isoflop.a" and "surface.alpha". `draws` are the bootstrap laws by method; a law read
    from law.json alone has none, and then `predict` gives no intervals.
    """

    answer: str
    isoflop: IsoflopLaw | None
    surface: SurfaceLaw | None
    refusals: Mapping[str, str]
    flop_rule: FlopRule
    largest_budget: float  # FLOPs, of the budgets the answering law rests on
    intervals: Mapping[str, Intervals]
    predictions: tuple[Prediction, ...]
    diagnostics: Diagnostics
    rows_used: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    provenance: Mapping[str, Any]  # settings, filters, seeds, versions, input hash
    draws: Mapping[str, Law] = field(default_factory=dict)

    @property
    def law(self) -> Law: ...

    @property
    def budgets(self) -> tuple[BudgetOptimum, ...]:
        """Verdict and optimum of every budget by approach 2; empty where it refused."""

    def predict(self, budget: float) -> Prediction: ...

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScalingLaw: ...

    def save(self, folder: Path) -> Path: ...

    @classmethod
    def load(cls, folder: Path) -> ScalingLaw: ...
