"""Repeated data: one surface L(N, D, U) of runs that see U different tokens several times."""

from flops_fit.fitting.contract import MethodKind
from flops_fit.fitting.repeated.fit import RepeatedFit, exponents_of_parts
from flops_fit.fitting.repeated.law import RepeatedDraws, RepeatedLaw
from flops_fit.fitting.repeated.surface import RepeatedSurface
from flops_fit.fitting.repeated.words import RepeatedNumbers, examined
from flops_fit.records import read_as

__all__ = ["RepeatedDraws", "RepeatedFit", "RepeatedLaw", "RepeatedSurface"]

KIND = MethodKind(
    name="repeated",
    settings=RepeatedFit,
    method=lambda settings, _curves: settings,
    read_law=RepeatedLaw.from_json,
    read_draws=RepeatedDraws.from_columns,
    words="law of repeated data",
    numbers=(
        *("unique_tokens", "delta", "value", "E", "A", "B", "alpha", "beta"),
        *("R_D_star", "R_N_star", "a"),
    ),
    examined=examined,
    read_numbers=lambda data: read_as(RepeatedNumbers, data),
    exponents_of_parts=exponents_of_parts,
)
