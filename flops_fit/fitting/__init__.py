"""Scaling laws from runs: approach 1 (envelope), 2 (IsoFLOP) and 3 (surface), and how sure.

result = fit_runs(runs, answer=SurfaceFit())  # or a frozen dataclass of your own
result.predict(1e21)
"""

from flops_fit.fitting.curves import Akima, Cubic, IsoflopCurve, Parabola
from flops_fit.fitting.envelope import EnvelopeFit, EnvelopeLaw
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.fit import fit_runs, is_fit_of
from flops_fit.fitting.isoflop import IsoflopFit
from flops_fit.fitting.isoflop_law import IsoflopLaw
from flops_fit.fitting.methods import FitSettings
from flops_fit.fitting.metrics import measured_by
from flops_fit.fitting.objectives import AbsoluteError, Huber, SquaredError
from flops_fit.fitting.optima import BudgetOptimum
from flops_fit.fitting.scaling_law import ScalingLaw
from flops_fit.fitting.selection import EveryRun, LowestLoss
from flops_fit.fitting.surface import SurfaceFit
from flops_fit.fitting.surface_law import SurfaceLaw

__all__ = [
    "AbsoluteError",
    "Akima",
    "BudgetOptimum",
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
    "Parabola",
    "ScalingLaw",
    "SquaredError",
    "SurfaceFit",
    "SurfaceLaw",
    "fit_runs",
    "is_fit_of",
    "measured_by",
]
