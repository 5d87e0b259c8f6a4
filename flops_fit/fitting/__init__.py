"""Scaling laws from runs by several methods, and how sure they are.

result = fit_runs(runs)  # or answer= the settings of a method, or a frozen dataclass of your own
result.predict(1e21)

What the methods' rooms offer in their `__all__` can be imported from here too, by its class name.
"""

from importlib import import_module
from typing import Any

from flops_fit.fitting.contract import FitSettings
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.fit import fit_runs, is_fit_of
from flops_fit.fitting.methods import kinds
from flops_fit.fitting.metrics import measured_by
from flops_fit.fitting.result import ScalingLaw
from flops_fit.fitting.selection import EveryRun, LowestLoss

__all__ = [
    "EveryRun",
    "FitError",
    "FitSettings",
    "LowestLoss",
    "ScalingLaw",
    "fit_runs",
    "is_fit_of",
    "measured_by",
]


def __getattr__(name: str) -> Any:
    """A class of one of the methods."""
    if name[:1].isupper():
        for kind in kinds():
            room = import_module(f"{__name__}.{kind.name}")
            if name in room.__all__:
                return getattr(room, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
