"""Scaling laws as values, and what they say of a target."""

from flops_fit.laws.law import (
    FORWARD_SHARE,
    Array,
    FlopRule,
    Law,
    LawDraws,
    LossSurface,
    Optima,
    PowerLaw,
    exponent_between,
    finite_exp,
    optimal_num_params,
)
from flops_fit.settings.sweep import FLOPS_PER_PARAM_PER_TOKEN

__all__ = [
    "FLOPS_PER_PARAM_PER_TOKEN",
    "FORWARD_SHARE",
    "Array",
    "FlopRule",
    "Law",
    "LawDraws",
    "LossSurface",
    "Optima",
    "PowerLaw",
    "exponent_between",
    "finite_exp",
    "optimal_num_params",
]
