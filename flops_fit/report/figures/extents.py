"""How far the axes of a panel go, where its marks decide that."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

import numpy as np

from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval
from flops_fit.report.figures.marks import Axis, Band, Contours, Line, Panel, Points, Rule

MARGIN = 0.05
"""Of the range, on both sides."""

LEAST = 0.05
"""Of a number, to both sides where it is the only one."""

ROUNDING = 1e-9
"""Relative difference of numbers that are the same."""


def limits(panel: Panel, side: str) -> Interval:
    """The lowest and the highest number along the "x" or "y" side, with a little room."""
    axis: Axis = getattr(panel, side)
    if axis.limits is not None:
        return axis.limits
    found = np.concatenate([np.ravel(v) for mark in panel.marks for v in _along(mark, side)])
    known = found[np.isfinite(found) & ((found > 0) | (not axis.is_log))]
    low, high = float(known.min()), float(known.max())
    if axis.is_log:
        room = _room(np.log(high / low), 1.0)
        return float(low * np.exp(-room)), float(high * np.exp(room))
    room = _room(high - low, abs(low) or 1.0)
    return low - room, high + room


def _room(span: float, size: float) -> float:
    """Beyond both ends of a range; of numbers that are one but for rounding, by their size."""
    return MARGIN * span if span > ROUNDING * size else LEAST * size


@singledispatch
def _along(mark: object, side: str) -> Iterator[Array]:
    """The numbers of a mark along a side."""
    raise TypeError(f"a {type(mark).__name__} has no extent")


@_along.register
def _line(mark: Line, side: str) -> Iterator[Array]:
    yield mark.x if side == "x" else mark.y


@_along.register
def _band(mark: Band, side: str) -> Iterator[Array]:
    if side == "x":
        yield mark.x
    else:
        yield mark.low
        yield mark.high


@_along.register
def _points(mark: Points, side: str) -> Iterator[Array]:
    place, bars = (mark.x, mark.x_bars) if side == "x" else (mark.y, mark.y_bars)
    yield place
    if bars is not None:
        yield bars


@_along.register
def _contours(mark: Contours, side: str) -> Iterator[Array]:
    yield mark.x if side == "x" else mark.y


@_along.register
def _rule(mark: Rule, side: str) -> Iterator[Array]:
    if mark.is_vertical == (side == "x"):
        yield np.array([mark.at])
