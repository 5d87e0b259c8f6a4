"""Scaling laws from runs: approach 1 (envelope), 2 (IsoFLOP) and 3 (surface), and how sure.

    result = fit_runs(runs, answer=SurfaceFit())
    result.predict(1e21)
"""

from flops_fit.fitting.errors import FitError

__all__ = ["FitError"]
