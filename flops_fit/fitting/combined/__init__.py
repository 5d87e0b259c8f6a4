"""Several methods as one, weighed by what their forecasts were worth."""

from flops_fit.fitting.combined.draws import CombinedDraws
from flops_fit.fitting.combined.fit import CombinedFit
from flops_fit.fitting.combined.law import CombinedLaw
from flops_fit.fitting.combined.words import CombinedNumbers, examined
from flops_fit.fitting.contract import MethodKind

__all__ = ["CombinedDraws", "CombinedFit", "CombinedLaw"]

KIND = MethodKind(
    name="combined",
    settings=CombinedFit,
    method=lambda settings, _curves: settings,
    read_law=CombinedLaw.from_json,
    read_draws=CombinedDraws.from_columns,
    words="methods weighed by back-tests",
    numbers=("a", "parts", "size", "loss", "trained"),
    always_tried=True,
    preference=0,
    probed=False,
    knows_any_size=lambda law: law.knows_any_size,
    examined=examined,
    read_numbers=CombinedNumbers.from_json,
)
