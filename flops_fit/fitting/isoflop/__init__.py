"""Approach 2: a curve through the losses of each budget, its minimum, a line through the minima."""

from flops_fit.fitting.isoflop.curves import Akima, Cubic, IsoflopCurve, Parabola
from flops_fit.fitting.isoflop.draws import IsoflopDraws
from flops_fit.fitting.isoflop.fit import ISOFLOP, IsoflopFit
from flops_fit.fitting.isoflop.law import IsoflopLaw
from flops_fit.fitting.isoflop.optima import BudgetOptimum

__all__ = [
    "ISOFLOP",
    "Akima",
    "BudgetOptimum",
    "Cubic",
    "IsoflopCurve",
    "IsoflopDraws",
    "IsoflopFit",
    "IsoflopLaw",
    "Parabola",
]
