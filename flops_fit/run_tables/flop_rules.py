"""Which FLOP rule a table's own columns obey."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN, FlopRule
from flops_fit.runs import Run

CONSTANT_RULE = 0.01
"""Relative spread of C / (N D) below which a table's FLOP rule is one constant."""


def table_flop_rule(runs: Sequence[Run]) -> FlopRule:
    """The FLOP rule that the runs' own C, N and D obey: a constant, or a table over N.

    A table where N explains most of the spread of C / (N D), as it does where C was counted; a
    spread for other reasons is rounding, and its median the constant.
    """
    num_params = np.array([run.num_params for run in runs])
    per_param = np.array([run.flops / run.num_tokens for run in runs]) / num_params
    sizes, group = np.unique(num_params, return_inverse=True)
    mean = np.bincount(group, np.log(per_param)) / np.bincount(group)
    unexplained = np.std(np.log(per_param) - mean[group])
    varies = np.ptp(per_param) > CONSTANT_RULE * per_param.mean()
    if varies and len(sizes) < len(runs) and unexplained < CONSTANT_RULE:
        return FlopRule(tuple(map(float, sizes)), tuple(map(float, sizes * np.exp(mean))))
    constant = float(np.median(per_param))
    if math.isclose(constant, FLOPS_PER_PARAM_PER_TOKEN, rel_tol=CONSTANT_RULE):
        return FlopRule.constant()
    return FlopRule.constant(constant)
