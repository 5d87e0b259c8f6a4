"""Which FLOP rule a table's own columns obey."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import INCONSISTENT_FLOPS
from flops_fit.laws import FLOPS_PER_PARAM_PER_TOKEN, FlopRule
from flops_fit.plan.run import Run
from flops_fit.tables.plausible import PROPOSED_CONSTANTS

CONSTANT_RULE = 0.01
"""Relative spread of C / (N D) below which a table's FLOP rule is one constant."""


def table_flop_rule(
    runs: Sequence[Run], flops_per_param_per_token: float = FLOPS_PER_PARAM_PER_TOKEN
) -> FlopRule:
    """The FLOP rule that the runs' own C, N and D obey: a constant, or a table over N.

    A table where N explains most of the spread of C / (N D), as it does where C was counted; a
    spread for other reasons is rounding, and its median the constant. Raises `FitError` where C is
    another order of magnitude than `flops_per_param_per_token` N D.
    """
    num_params = np.array([run.num_params for run in runs])
    per_param = np.array([run.flops / run.num_tokens for run in runs]) / num_params
    _check_magnitude(float(np.median(per_param)), flops_per_param_per_token)
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


def _check_magnitude(found: float, expected: float) -> None:
    ratio = found / expected
    if not 1 / INCONSISTENT_FLOPS < ratio < INCONSISTENT_FLOPS:
        low, high = PROPOSED_CONSTANTS
        is_so = f", or say that this is so with flops_per_param_per_token={found:.3g}"
        raise FitError(
            f"C of this table is {ratio:.3g} times {expected:g} N D",
            "check the units of C, N and D, which columns.flops_unit=gflops and the like name"
            f"{is_so if low <= found <= high else ''}",
        )
