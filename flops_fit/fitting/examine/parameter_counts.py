"""The same runs with N counted with and without embeddings, side by side.

Kaplan et al. 2020 left embeddings out, Hoffmann et al. 2022 counted them; at small sizes that
alone moves the exponent of N_opt from 0.5 to 0.7 (Pearce and Song 2024; Porian et al. 2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from flops_fit.fitting.contract import FittedLaw, Method
from flops_fit.fitting.examine.diagnostics import CountedBy
from flops_fit.fitting.methods import kind_of
from flops_fit.fitting.points import Points
from flops_fit.laws import FlopRule, Law, exponent_between

SAME_COUNT = 1e-3
"""Relative difference of two counts below which they are one."""


def by_parameter_counts(
    points: Points, methods: Iterable[Method], laws: Mapping[str, FittedLaw]
) -> tuple[CountedBy, ...]:
    """The methods under both counts of N; nothing where the runs tell only one.

    A method that looks at training curves is left out: these have one count.
    """
    others = with_total_params(points)
    if others is None:
        return ()
    found = []
    for method in methods:
        kind, law = kind_of(method.method), laws.get(method.method)
        if law is None or kind.reads_curves:
            continue
        found.append(_counted("num_params", method.method, law, points))
        recounted = kind.law_of_part(method, others)
        if recounted is not None:
            found.append(_counted("num_params_total", method.method, recounted, others))
    return tuple(found)


def with_total_params(points: Points) -> Points | None:
    """The points with N counted with all embeddings, their FLOPs as they are; None if no other."""
    totals = points.num_params_total
    if totals is None or np.allclose(totals, points.num_params, rtol=SAME_COUNT):
        return None
    sizes, group = np.unique(totals, return_inverse=True)
    per_token = np.bincount(group, points.flop_rule(points.num_params)) / np.bincount(group)
    rule = FlopRule(tuple(map(float, sizes)), tuple(map(float, per_token)))
    return replace(points, num_params=totals, flop_rule=rule)


def _counted(counted: str, method: str, law: Law, points: Points) -> CountedBy:
    budget = points.largest_budget
    a = float(exponent_between(law, *points.flops_range))
    return CountedBy(counted, method, a, budget, float(law.N_opt(budget)))
