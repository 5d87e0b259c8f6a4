"""How long fits take.

OMP_NUM_THREADS=1 python scripts/bench_fit.py
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from flops_fit.fitting import SurfaceFit, fit_runs
from flops_fit.fitting.points import usable_points
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface

CHINCHILLA = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
DRAWS = 4000


def sweep(budgets: int, sizes: int):
    return simulate_sweep(
        CHINCHILLA,
        np.geomspace(1e18, 1e21, budgets),
        sizes=np.geomspace(1 / 8, 8, sizes),
        noise=0.005,
        seed=0,
    )


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The fastest of `repeats`: what the work costs where nothing else runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def timings() -> dict[str, float]:
    """What was timed -> seconds."""
    points, _ = usable_points(sweep(12, 20), FlopRule.constant())
    fit = SurfaceFit()
    law = fit.law(points)

    return {
        "surface, 240 rows": seconds(lambda: fit.law(points), repeats=5),
        "4,000 refits of the surface, 240 rows": seconds(
            lambda: fit.draws(points, law, DRAWS, seed=0), repeats=3
        ),
        "everything, 240 rows, 4,000 draws": seconds(lambda: fit_runs(sweep(12, 20)), repeats=2),
        "everything, 10,000 rows, 4,000 draws": seconds(lambda: fit_runs(sweep(100, 100))),
    }


if __name__ == "__main__":
    print(json.dumps(timings(), indent=2))
