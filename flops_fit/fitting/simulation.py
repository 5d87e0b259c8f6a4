"""Runs drawn from a known law, marked `simulated`: to try a fit before it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flops_fit.laws import FlopRule, LossSurface
from flops_fit.plan.run import Run, Status

SIMULATED = "simulated"
"""`device` of a run that no machine trained."""


def simulate_sweep(
    surface: LossSurface,
    budgets: Sequence[float],
    *,
    sizes: Sequence[float],
    rule: FlopRule | None = None,
    drift: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> list[Run]:
    """An IsoFLOP sweep of `surface`: at each budget the sizes N_opt * `sizes` (ratios).

    `drift` moves the centres of the grids off N_opt, from 1/drift at the smallest budget to drift
    at the largest. The loss is multiplied by exp(noise * normal).
    """
    rule = rule or FlopRule.constant()
    generator = np.random.default_rng(seed)
    centres = np.geomspace(1 / drift, drift, len(budgets)) if drift != 1 else np.ones(len(budgets))
    runs = []
    for budget, centre in zip(budgets, centres, strict=True):
        for ratio in sizes:
            num_params = float(surface.N_opt(budget, rule)) * float(centre) * ratio
            error = noise * float(generator.standard_normal())
            runs.append(_run(surface, rule, float(budget), num_params, error))
    return runs


def simulate_trunks(
    surface: LossSurface,
    budgets: Sequence[float],
    *,
    num_sizes: int,
    span: float,
    noise: float,
    shared: float,
    seed: int = 0,
) -> list[Run]:
    """A sweep whose runs of one size branched from one trunk, C = 6ND.

    At each budget the `num_sizes` rungs nearest to N_opt of one ladder, which reaches from
    N_opt / span to N_opt * span. `shared` is the share of the variance of ln loss (`noise`
    squared) that the runs of a trunk have in common.
    """
    rule = FlopRule.constant()
    generator = np.random.default_rng(seed)
    rung = 2 * np.log(span) / (num_sizes - 1)  # in ln N
    of_trunks: dict[int, float] = {}
    runs = []
    for budget in budgets:
        middle = np.log(float(surface.N_opt(budget, rule))) / rung
        lowest = round(middle - (num_sizes - 1) / 2)
        for step in range(lowest, lowest + num_sizes):
            common = of_trunks.setdefault(step, float(generator.standard_normal()))
            own = float(generator.standard_normal())
            error = noise * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
            run = _run(surface, rule, float(budget), float(np.exp(rung * step)), float(error))
            runs.append(replace(run, trunk=f"trunk {step}"))
    return runs


def _run(
    surface: LossSurface, rule: FlopRule, budget: float, num_params: float, error: float
) -> Run:
    """A run at `budget` FLOPs whose ln loss is off by `error`."""
    num_tokens = float(rule.tokens(budget, num_params))
    return Run(
        id=f"C{budget:.3g}-N{num_params:.4g}",
        status=Status.COMPLETED,
        num_params=num_params,
        num_tokens=num_tokens,
        flops=budget,
        loss=float(surface(num_params, num_tokens) * np.exp(error)),
        budget=budget,
        device=SIMULATED,
    )
