"""Approach 3: one loss surface L(N, D) through all runs."""

from flops_fit.fitting.surface.draws import SurfaceDraws
from flops_fit.fitting.surface.fit import SURFACE, SurfaceFit
from flops_fit.fitting.surface.law import SurfaceLaw
from flops_fit.fitting.surface.objectives import AbsoluteError, Huber, SquaredError

__all__ = [
    "SURFACE",
    "AbsoluteError",
    "Huber",
    "SquaredError",
    "SurfaceDraws",
    "SurfaceFit",
    "SurfaceLaw",
]
