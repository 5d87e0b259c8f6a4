"""Approach 2: a curve through the losses of each budget, its minimum, a line through the minima."""

from flops_fit.fitting.contract import MethodKind
from flops_fit.fitting.isoflop.curves import Akima, Cubic, IsoflopCurve, Parabola
from flops_fit.fitting.isoflop.draws import IsoflopDraws
from flops_fit.fitting.isoflop.fit import IsoflopFit
from flops_fit.fitting.isoflop.law import IsoflopLaw
from flops_fit.fitting.isoflop.optima import BudgetOptimum, budgets_from_json
from flops_fit.fitting.isoflop.words import examined, optima_of

__all__ = [
    "Akima",
    "BudgetOptimum",
    "Cubic",
    "IsoflopCurve",
    "IsoflopDraws",
    "IsoflopFit",
    "IsoflopLaw",
    "Parabola",
]

KIND = MethodKind(
    name="isoflop",
    settings=IsoflopFit,
    method=lambda settings, _curves: settings,
    read_law=IsoflopLaw.from_json,
    read_draws=IsoflopDraws.from_columns,
    approach=2,
    words="IsoFLOP curves",
    numbers=("a", "b", "N_coefficient", "trend", "noise"),
    always_tried=True,
    preference=2,
    optima=optima_of,
    read_optima=budgets_from_json,
    errors_of_optima=lambda settings, points: settings.errors_of_optima(points),
    examined=examined,
)
