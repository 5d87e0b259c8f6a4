"""Scaling laws from runs by several methods, and how sure they are.

result = fit_runs(runs)  # or answer= the settings of a method, or a frozen dataclass of your own
result.predict(1e21)
"""

from flops_fit.fitting.combined import CombinedFit, CombinedLaw
from flops_fit.fitting.contract import FitSettings
from flops_fit.fitting.envelope import EnvelopeFit, EnvelopeLaw
from flops_fit.fitting.errors import FitError, NoLawFits
from flops_fit.fitting.fit import fit_runs, is_fit_of
from flops_fit.fitting.isoflop import (
    Akima,
    BudgetOptimum,
    Cubic,
    IsoflopCurve,
    IsoflopFit,
    IsoflopLaw,
    Parabola,
)
from flops_fit.fitting.metrics import measured_by
from flops_fit.fitting.refusal import Refusal, refusal_of
from flops_fit.fitting.repeated import RepeatedFit, RepeatedLaw
from flops_fit.fitting.result import ScalingLaw
from flops_fit.fitting.selection import AllRuns, EveryRun, LowestLoss
from flops_fit.fitting.surface import AbsoluteError, Huber, SquaredError, SurfaceFit, SurfaceLaw

__all__ = [
    "AbsoluteError",
    "Akima",
    "AllRuns",
    "BudgetOptimum",
    "CombinedFit",
    "CombinedLaw",
    "Cubic",
    "EnvelopeFit",
    "EnvelopeLaw",
    "EveryRun",
    "FitError",
    "FitSettings",
    "Huber",
    "IsoflopCurve",
    "IsoflopFit",
    "IsoflopLaw",
    "LowestLoss",
    "NoLawFits",
    "Parabola",
    "Refusal",
    "RepeatedFit",
    "RepeatedLaw",
    "ScalingLaw",
    "SquaredError",
    "SurfaceFit",
    "SurfaceLaw",
    "fit_runs",
    "is_fit_of",
    "measured_by",
    "refusal_of",
]
