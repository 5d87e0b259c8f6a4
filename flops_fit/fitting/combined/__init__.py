"""Several methods as one, weighed by what their forecasts were worth."""

from flops_fit.fitting.combined.draws import CombinedDraws
from flops_fit.fitting.combined.fit import CombinedFit
from flops_fit.fitting.combined.law import CombinedLaw

__all__ = ["CombinedDraws", "CombinedFit", "CombinedLaw"]
