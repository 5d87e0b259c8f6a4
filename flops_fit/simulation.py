"""Runs drawn from a known law, marked `simulated`: to try a fit before it costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flops_fit.laws import FlopRule, LossSurface
from flops_fit.runs import Run

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
            num_tokens = float(rule.tokens(budget, num_params))
            runs.append(
                Run(
                    id=f"C{budget:.3g}-N{num_params:.4g}",
                    status="done",
                    num_params=num_params,
                    num_tokens=num_tokens,
                    flops=float(budget),
                    loss=_noisy(surface, num_params, num_tokens, noise, generator),
                    budget=float(budget),
                    device=SIMULATED,
                )
            )
    return runs


def _noisy(
    surface: LossSurface,
    num_params: float,
    num_tokens: float,
    noise: float,
    generator: np.random.Generator,
) -> float:
    return float(surface(num_params, num_tokens) * np.exp(noise * generator.standard_normal()))
