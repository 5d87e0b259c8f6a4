"""A figure as values: what is drawn, before anything draws it.

`drawing.py` makes matplotlib figures of them, the page draws them in the browser: one figure is
decided in one place and looks the same in both. Colours are roles (`style.py`), numbers are plain.
Texts may have ^{..} and _{..} for what stands high and low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval


class Shown(StrEnum):
    """How the numbers of an axis are written."""

    COUNT = "count"  # 1.2M
    FLOPS = "flops"  # 5×10^18
    PLAIN = "plain"  # 2.33
    PERCENT = "percent"  # +1.5%, of shares
    FACTOR = "factor"  # ×1.3


@dataclass(frozen=True)
class Axis:
    """What is measured along a side of a panel; `limits` where the marks don't decide them."""

    label: str
    shown: Shown
    is_log: bool = True
    limits: Interval | None = None


class Dashes(StrEnum):
    """How a line is drawn."""

    SOLID = "solid"
    DASHED = "dashed"
    DOTTED = "dotted"
    DASHDOT = "dashdot"


@dataclass(frozen=True)
class Line:
    """A curve through x and y, (n,) each; `name` is its entry in the legend, if it has one."""

    x: Array
    y: Array
    colour: str
    name: str = ""
    dashes: Dashes = Dashes.SOLID
    width: float = 1.4  # points


@dataclass(frozen=True)
class Band:
    """What lies between `low` and `high` along x, (n,) each."""

    x: Array
    low: Array
    high: Array
    colour: str
    name: str = ""


class Symbol(StrEnum):
    """What stands for a point; hollow: not part of the fit, or not to be trusted."""

    DOT = "dot"
    HOLLOW = "hollow"
    STAR = "star"
    HOLLOW_STAR = "hollow star"
    DIAMOND = "diamond"
    SQUARE = "square"
    ABOVE = "above"  # off the panel, beyond its upper edge
    BELOW = "below"


@dataclass(frozen=True)
class Points:
    """Points at x and y, (n,) each, with bars from low to high, (n, 2) each, NaN for none.

    `texts` say what each is, for who points at it.
    """

    x: Array
    y: Array
    colour: str
    symbol: Symbol = Symbol.DOT
    name: str = ""
    x_bars: Array | None = None
    y_bars: Array | None = None
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Contours:
    """Lines of equal `z` (y, x) over points evenly spaced in ln x and ln y, at `levels`."""

    x: Array
    y: Array
    z: Array
    levels: Array
    label: str


@dataclass(frozen=True)
class Rule:
    """A line across the panel, at x or at y, with a word beside it."""

    at: float
    is_vertical: bool
    label: str = ""


Mark = Line | Band | Points | Contours | Rule


class Corner(StrEnum):
    """Where a panel has room for its legend."""

    UPPER_LEFT = "upper left"
    UPPER_RIGHT = "upper right"
    LOWER_LEFT = "lower left"


@dataclass(frozen=True)
class Panel:
    """Two axes and what is drawn on them, the first mark lowest. `notes` stand above."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    notes: tuple[str, ...] = ()
    corner: Corner = Corner.UPPER_RIGHT


@dataclass(frozen=True)
class Picture:
    """A figure: its file's name, what it shows, how it is read, and its panels side by side.

    `legend` heads the entries of the marks that have names.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: str = ""


def column(values: Sequence[float | None] | Array) -> Array:
    """Numbers as an array, NaN for None."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)
