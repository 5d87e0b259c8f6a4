"""How often the intervals cover the truth, and how biased the methods are, on simulated sweeps.

    python scripts/fit_coverage.py --seeds 600

Coverage: 5 budgets x 8 sizes of a Chinchilla-like surface with 0.5% noise; nominal 90% intervals.
The same with a trunk per size whose runs share 80% of the variance, fitted by trunk and as if they
were independent; and 2 budgets x 4 sizes x 3 seeds with 0.2% noise.
Bias: 9 budgets x 8 sizes of an asymmetric surface with 0.2% noise, the centres of the grids
drifting from a third of the optimum to three times it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from flops_fit.fitting import FitError, IsoflopFit, SurfaceFit
from flops_fit.fitting.fits import fit_all
from flops_fit.fitting.points import usable_points
from flops_fit.fitting.simulation import simulate_sweep, simulate_trunks
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.plan.run import Run

CHINCHILLA = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
ASYMMETRIC = LossSurface(E=1.69, A=406.4, B=40.0, alpha=0.465, beta=0.155)
TARGET = 1e24  # FLOPs
BUDGETS = tuple(np.geomspace(1e18, 1e20, 5))
SHARED = 0.8  # of the variance of ln loss, common to the runs of a trunk
TAILS = (0.05, 0.95)
RULE = FlopRule.constant()


def coverage(seeds: int, draws: int) -> dict[str, float]:
    """Of sweeps whose runs are independent."""

    def runs(seed: int) -> list[Run]:
        return simulate_sweep(
            CHINCHILLA, BUDGETS, sizes=np.geomspace(1 / 8, 8, 8), noise=0.005, seed=seed
        )

    return covered(runs, seeds, draws)


def trunk_coverage(seeds: int, draws: int, trunks: Callable[[Run], Run]) -> dict[str, float]:
    """Of sweeps whose runs of one size share a trunk, as `trunks` tells the fit of it."""

    def runs(seed: int) -> list[Run]:
        simulated = simulate_trunks(
            CHINCHILLA,
            BUDGETS,
            num_sizes=8,
            span=8.0,
            noise=0.005,
            shared=SHARED,
            seed=seed,
        )
        return [trunks(run) for run in simulated]

    return covered(runs, seeds, draws)


def as_it_is(run: Run) -> Run:
    return run


def without_trunk(run: Run) -> Run:
    return replace(run, trunk=None)


def seed_coverage(seeds: int, draws: int) -> dict[str, float]:
    """Of sweeps of two budgets and four sizes, too few to resample, each run with three seeds."""

    def runs(seed: int) -> list[Run]:
        found = []
        for repeat in range(3):
            sweep = simulate_sweep(
                CHINCHILLA,
                (1e18, 1e20),
                sizes=np.geomspace(1 / 6, 6, 4),
                noise=0.002,
                seed=1000 * repeat + seed,
            )
            found += [replace(run, id=f"{run.id}-{repeat}", seed=repeat) for run in sweep]
        return found

    return covered(runs, seeds, draws)


def covered(sweep: Callable[[int], list[Run]], seeds: int, draws: int) -> dict[str, float]:
    """Share of sweeps whose nominal 90% interval holds the truth, by method and quantity."""
    truth = {
        "a": CHINCHILLA.a,
        "log10 N_opt(1e20)": float(np.log10(CHINCHILLA.N_opt(BUDGETS[-1], RULE))),
        "log10 N_opt(1e24)": float(np.log10(CHINCHILLA.N_opt(TARGET, RULE))),
        "loss(1e24)": float(CHINCHILLA.loss_opt(TARGET, RULE)),
    }
    hits: dict[str, list[bool]] = {}
    for seed in range(seeds):
        points, _ = usable_points(sweep(seed), RULE)
        fits = fit_all(points, (IsoflopFit(), SurfaceFit()), SurfaceFit.method, draws, seed)
        for method, law in fits.draws.items():
            quantities = {
                "a": law.quantities()["a"],
                "log10 N_opt(1e20)": np.log10(law.N_opt(BUDGETS[-1])),
                "log10 N_opt(1e24)": np.log10(law.N_opt(TARGET)),
                "loss(1e24)": law.loss_opt(TARGET),
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
                "by trunk": trunk_coverage(options.seeds, options.draws, as_it_is),
                "trunks ignored": trunk_coverage(options.seeds, options.draws, without_trunk),
                "seeds": seed_coverage(options.seeds, options.draws),
                "bias": bias(options.bias_seeds),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
