"""Approach 3: one loss surface L(N, D) through all runs."""

from flops_fit.fitting.contract import MethodKind
from flops_fit.fitting.surface.draws import SurfaceDraws
from flops_fit.fitting.surface.fit import SurfaceFit
from flops_fit.fitting.surface.law import SurfaceLaw
from flops_fit.fitting.surface.numbers import SurfaceNumbers
from flops_fit.fitting.surface.objectives import AbsoluteError, Huber, SquaredError
from flops_fit.fitting.surface.sensitivity import exponents_of_parts
from flops_fit.fitting.surface.words import examined

__all__ = [
    "AbsoluteError",
    "Huber",
    "SquaredError",
    "SurfaceDraws",
    "SurfaceFit",
    "SurfaceLaw",
]

KIND = MethodKind(
    name="surface",
    settings=SurfaceFit,
    method=lambda settings, _curves: settings,
    read_law=SurfaceLaw.from_json,
    read_draws=SurfaceDraws.from_columns,
    approach=3,
    words="loss surface",
    numbers=("objective", "delta", "value", "E", "A", "B", "alpha", "beta", "kappa", "a", "b", "G"),
    always_tried=True,
    preference=1,
    examined=examined,
    read_numbers=SurfaceNumbers.from_json,
    exponents_of_parts=exponents_of_parts,
)
