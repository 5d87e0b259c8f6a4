"""Sweeps of known surfaces that several tests fit."""

import numpy as np

from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface

SYMMETRIC = LossSurface(E=1.7, A=420.0, B=420.0, alpha=0.31, beta=0.31)
CHINCHILLA = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
ASYMMETRIC = LossSurface(E=1.69, A=406.4, B=40.0, alpha=0.465, beta=0.155)

BUDGETS = tuple(np.geomspace(1e18, 1e20, 5))
SIZES = tuple(np.geomspace(1 / 8, 8, 8))


def sweep(surface, *, budgets=BUDGETS, sizes=SIZES, rule=None, drift=1.0, noise=0.0, seed=0):
    return simulate_sweep(
        surface, budgets, sizes=sizes, rule=rule, drift=drift, noise=noise, seed=seed
    )


def points(runs, rule=None) -> Points:
    return usable_points(runs, rule or FlopRule.constant())[0]


def rows(num_params, num_tokens, loss, rule=None, budget=None) -> Points:
    n, d, y = (np.array([float(v) for v in column]) for column in (num_params, num_tokens, loss))
    rule = rule or FlopRule.constant()
    return Points(
        ids=tuple(f"row {i}" for i in range(len(n))),
        num_params=n,
        num_tokens=d,
        loss=y,
        budget=rule(n) * d if budget is None else np.array([float(b) for b in budget]),
        flop_rule=rule,
    )
