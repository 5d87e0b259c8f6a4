"""The same runs with N counted as fitted and in full, side by side.

Kaplan et al. 2020 left embeddings out, Hoffmann et al. 2022 counted them; at small sizes that
alone moves the exponent of N_opt from 0.5 to 0.7 (Pearce and Song 2024; Porian et al. 2024). Of
mixtures of experts one count has the active parameters, the other all.
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


SAME_FLOPS = 1e-2
"""Relative difference of the FLOPs per token of one full count below which they are one."""


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
    """The points with N counted in full, their FLOPs as they are.

    None where that is no other count, or where sizes of one full count cost different FLOPs per
    token (experts of which more or fewer are active): no rule from N to FLOPs holds for these.
    """
    totals = points.num_params_total
    if totals is None or np.allclose(totals, points.num_params, rtol=SAME_COUNT):
        return None
    sizes, group = np.unique(totals, return_inverse=True)
    each = points.flop_rule(points.num_params)
    per_token = np.bincount(group, each) / np.bincount(group)
    if not np.allclose(each, per_token[group], rtol=SAME_FLOPS):
        return None
    rule = FlopRule(tuple(map(float, sizes)), tuple(map(float, per_token)))
    return replace(points, num_params=totals, flop_rule=rule)


def _counted(counted: str, method: str, law: Law, points: Points) -> CountedBy:
    budget = points.largest_budget
    a = float(exponent_between(law, *points.flops_range))
    return CountedBy(counted, method, a, budget, float(law.N_opt(budget)))
