"""What is weak of a fitted surface, and what to run next, in numbers and words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flops_fit.fitting.bootstrap import standard_error
from flops_fit.fitting.contract import WORTH_SAYING_OF_A, Examined
from flops_fit.fitting.noise import seed_noise
from flops_fit.fitting.points import Points
from flops_fit.fitting.surface.draws import SurfaceDraws
from flops_fit.fitting.surface.fit import SurfaceFit
from flops_fit.fitting.surface.law import SurfaceLaw
from flops_fit.fitting.surface.numbers import DeltaFit, Influence, NextRuns, SurfaceNumbers
from flops_fit.fitting.surface.sensitivity import (
    DELTAS,
    influential_runs,
    next_runs,
    other_deltas,
    residual_noise,
)
from flops_fit.shown import short_flops, span

LOW_AGREEMENT = 0.5
"""Share of starts at the best optimum below which it is called uncertain."""

WIDEST_EXPONENT = 0.3
"""Width of the 95% interval of alpha or beta from which on a surface is not identified."""

WORTH_NARROWING = 1.05
"""Upper over lower end of an interval of N_opt that more runs might narrow."""

WORTH_GAINING = 0.1
"""Share by which proposed runs should narrow it, in logs."""

MISFIT = 2.0
"""Scatter about the surface over that of repeated seeds from which the surface does not fit."""

UNDETERMINED = "these runs don't fix how the loss falls with N and with D"


def examined(
    fit: SurfaceFit, points: Points, law: SurfaceLaw | None, draws: SurfaceDraws | None
) -> Examined:
    """All that only a surface has."""
    if law is None:
        return Examined()
    numbers = measured(fit, points, law, draws)
    seeds = seed_noise(points)
    spent = float(points.flops.sum())
    return Examined(
        numbers=numbers,
        findings=findings(numbers, law, None if seeds is None else seeds.value),
        advice=advice(numbers, spent),
        doubt=UNDETERMINED if numbers.identifiable is False else None,
        why=f"one surface through {int(fit.entering(points).sum())} runs",
    )


def measured(
    fit: SurfaceFit, points: Points, law: SurfaceLaw, draws: SurfaceDraws | None
) -> SurfaceNumbers:
    """Its numbers; without draws those that need none."""
    noise, deltas = residual_noise(points, law.surface), other_deltas(points, fit)
    if draws is None:
        return SurfaceNumbers(noise, deltas=deltas)
    widths = [np.subtract(*np.quantile(v, (0.975, 0.025))) for v in (draws.alpha, draws.beta)]
    return SurfaceNumbers(
        noise=noise,
        identifiable=bool(max(widths) <= WIDEST_EXPONENT),
        deltas=deltas,
        influential_runs=influential_runs(points, fit, law, standard_error(draws.a)),
        next_runs=next_runs(points, law, draws),
    )


def findings(numbers: SurfaceNumbers, law: SurfaceLaw, seed_noise: float | None) -> tuple[str, ...]:
    """What is weak. `seed_noise` is the relative scatter of repeated seeds, where there are any."""
    return (
        *_identification_findings(numbers.identifiable),
        *_misfit_findings(numbers.noise, seed_noise),
        *_ending_findings(law),
        *_delta_findings(numbers.deltas),
        *_influence_findings(numbers.influential_runs, law.a),
    )


def advice(numbers: SurfaceNumbers, spent: float) -> tuple[str, ...]:
    """Which runs to run next; `spent` in FLOPs, of all runs."""
    return tuple(_next_findings(numbers.next_runs, spent))


def _identification_findings(identifiable: bool | None) -> list[str]:
    if identifiable is not False:
        return []
    return [
        f"{UNDETERMINED}: the 95% interval of alpha or beta is wider than {WIDEST_EXPONENT}; train "
        "a wider range of sizes and budgets"
    ]


def _misfit_findings(noise: float | None, seed_noise: float | None) -> list[str]:
    if noise is None or seed_noise is None or noise < MISFIT * seed_noise:
        return []
    return [
        f"losses scatter by {noise:.2%} about the surface, repeated seeds by {seed_noise:.2%}: "
        "the surface does not fit, look at its residuals before you rely on it"
    ]


def _ending_findings(law: SurfaceLaw) -> list[str]:
    found = []
    if law.at_bounds:
        found.append(
            f"{', '.join(law.at_bounds)} ended at a limit: the runs do not determine "
            + ("it" if len(law.at_bounds) == 1 else "them")
        )
    if law.start_agreement is not None and law.start_agreement < LOW_AGREEMENT:
        found.append(
            f"only {law.start_agreement:.0%} of the starts reached the best optimum: "
            "the surface has several that are nearly as good"
        )
    return found


def _delta_findings(deltas: Sequence[DeltaFit]) -> list[str]:
    values = [fit.a for fit in deltas]
    if 0 < len(values) < len(DELTAS):
        return [
            "outliers matter: where they are damped more or less strongly these losses give no "
            "surface"
        ]
    if not values or max(values) - min(values) < WORTH_SAYING_OF_A:
        return []
    return [
        f"outliers matter: the surface's exponent is {min(values):.3f} to {max(values):.3f}, "
        "depending on how strongly they are damped"
    ]


def _influence_findings(runs: Sequence[Influence], a: float) -> list[str]:
    if not runs:
        return []
    first = runs[0]
    return [
        f"check run {first.id}: without it the surface's exponent is {first.a:.3f}, not {a:.3f}"
        + (f"; {len(runs) - 1} more move it by over a standard error" if len(runs) > 1 else "")
    ]


def _next_findings(proposals: Sequence[NextRuns], spent: float) -> list[str]:
    """The most helpful proposal that costs no more than the sweep did, if there is much to gain."""
    wide = [p for p in proposals if _is_worth_it(p)]
    affordable = [p for p in wide if p.total_flops <= spent] or wide[:1]
    return [
        f"{len(p.num_params)} runs at {short_flops(p.budget)} "
        f"(N {span(min(p.num_params), max(p.num_params))}, {short_flops(p.total_flops)} FLOPs) "
        f"narrow N at {short_flops(p.target)} from {span(*p.num_params_80_now)} to "
        f"{span(*p.num_params_80)} (80%)"
        for p in affordable[-1:]
    ]


def _is_worth_it(p: NextRuns) -> bool:
    """Whether there is much to narrow, and the runs do."""
    now, then = (np.log(high / low) for low, high in (p.num_params_80_now, p.num_params_80))
    return bool(now > np.log(WORTH_NARROWING) and then < (1 - WORTH_GAINING) * now)
