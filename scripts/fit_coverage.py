"""How often the intervals cover the truth, and how biased the methods are, on simulated sweeps.

    python scripts/fit_coverage.py --seeds 600

Coverage: 5 budgets x 8 sizes of a Chinchilla-like surface with 0.5% noise; nominal 90% intervals.
Bias: 9 budgets x 8 sizes of an asymmetric surface with 0.2% noise, the centres of the grids
drifting from a third of the optimum to three times it.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from flops_fit.fitting import FitError, IsoflopFit, SurfaceFit
from flops_fit.fitting.fits import fit_both
from flops_fit.fitting.points import usable_points
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.simulation import simulate_sweep

CHINCHILLA = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
ASYMMETRIC = LossSurface(E=1.69, A=406.4, B=40.0, alpha=0.465, beta=0.155)
TARGET = 1e24  # FLOPs
TAILS = (0.05, 0.95)
RULE = FlopRule.constant()


def coverage(seeds: int, draws: int) -> dict[str, float]:
    """Share of sweeps whose nominal 90% interval holds the truth, by method and quantity."""
    truth = {
        "a": CHINCHILLA.a,
        "log10 N_opt": float(np.log10(CHINCHILLA.N_opt(TARGET, RULE))),
        "loss": float(CHINCHILLA.loss_opt(TARGET, RULE)),
    }
    hits: dict[str, list[bool]] = {}
    for seed in range(seeds):
        runs = simulate_sweep(
            CHINCHILLA,
            np.geomspace(1e18, 1e20, 5),
            sizes=np.geomspace(1 / 8, 8, 8),
            noise=0.005,
            seed=seed,
        )
        points, _ = usable_points(runs, RULE)
        fits = fit_both(points, IsoflopFit(), SurfaceFit(), draws, seed)
        for method, law in fits.draws.items():
            quantities = {
                "a": law.a,
                "log10 N_opt": np.log10(law.N_opt(TARGET)),
                "loss": law.loss_opt(TARGET),
            }
            for name, values in quantities.items():
                low, high = np.quantile(values, TAILS)
                hits.setdefault(f"{method} {name}", []).append(bool(low <= truth[name] <= high))
    return {name: float(np.mean(values)) for name, values in hits.items()}


def bias(seeds: int) -> dict[str, float]:
    """Mean error of log10 N_opt at the target, by method."""
    fits = {
        "surface": SurfaceFit(),
        "isoflop": IsoflopFit(),
        "isoflop, all sizes": IsoflopFit(window=None),
    }
    truth = float(np.log10(ASYMMETRIC.N_opt(TARGET, RULE)))
    errors: dict[str, list[float]] = {name: [] for name in fits}
    for seed in range(seeds):
        runs = simulate_sweep(
            ASYMMETRIC,
            np.geomspace(6e18, 3e21, 9),
            sizes=np.geomspace(1 / 8, 8, 8),
            drift=3.0,
            noise=0.002,
            seed=seed,
        )
        points, _ = usable_points(runs, RULE)
        for name, fit in fits.items():
            try:
                errors[name].append(float(np.log10(fit.law(points).N_opt(TARGET))) - truth)
            except FitError:
                continue
    return {name: float(np.mean(values)) for name, values in errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=600, help="sweeps for the coverage")
    parser.add_argument("--bias-seeds", type=int, default=200, help="sweeps for the bias")
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    print(
        json.dumps(
            {
                "coverage": coverage(options.seeds, options.draws),
                "bias": bias(options.bias_seeds),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
