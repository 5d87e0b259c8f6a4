"""Which budgets a table's runs were meant for, told from the FLOPs they spent."""

from __future__ import annotations

import numpy as np

from flops_fit.laws import Array

HALF_WIDTH = 0.08
"""ln FLOPs to either side of a budget within which its runs lie (8%: points read off published
IsoFLOP figures scatter by 5%)."""

FEWEST_ROWS = 3
"""Runs that make a budget: a parabola needs three."""

CROWDED = 2.0
"""How many times as many rows a budget holds as the equally wide margins beside it. Runs spread
evenly over C have 1, and no budgets."""

SIGNIFICANT_DIGITS = 3


def snapped_budgets(flops: Array) -> Array:
    """The budget of each run (n,): where runs crowd, their common mean, else the run's own FLOPs.

    The fullest window goes first, until none is left that stands out from its margins.
    """
    order = np.argsort(flops)
    everything = np.log(flops[order])
    # The margin of a window is what one of twice the width holds more, rows already gathered
    # into other budgets included.
    rows = _count(everything, everything, HALF_WIDTH)
    stands_out = rows >= CROWDED * (_count(everything, everything, 2 * HALF_WIDTH) - rows)
    budgets = flops.copy()
    left = np.ones(len(flops), dtype=bool)
    while True:
        remaining = np.where(left & stands_out, _count(everything[left], everything, HALF_WIDTH), 0)
        if not len(flops) or remaining.max() < FEWEST_ROWS:
            return budgets
        inside = left & (np.abs(everything - everything[np.argmax(remaining)]) <= HALF_WIDTH)
        budgets[order[inside]] = _rounded(float(np.exp(everything[inside].mean())))
        left &= ~inside


def _count(ordered: Array, centres: Array, half_width: float) -> Array:
    """How many of the ordered values lie within `half_width` of each centre."""
    upper = np.searchsorted(ordered, centres + half_width, side="right")
    return np.asarray(upper - np.searchsorted(ordered, centres - half_width, side="left"))


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS - 1}e}")
