"""Figures on paper: the values of `marks.py` as matplotlib draws them, for PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval
from flops_fit.report.figures.extents import limits
from flops_fit.report.figures.marks import (
    Axis,
    Band,
    Contours,
    Corner,
    Dashes,
    Line,
    Panel,
    Picture,
    Points,
    Rule,
    Shown,
    Symbol,
)
from flops_fit.report.figures.style import as_mathtext, count, named, palette, power

DPI = 200

LEFT, RIGHT, TOP, BOTTOM, EDGE, NOTE = 0.78, 0.15, 0.42, 0.52, 0.1, 0.17
"""Inches around a panel, for what stands there, above the title, and for a line of notes."""

PANEL_SIZE = (5.4, 4.0)
"""Inches of one panel, legend apart."""

SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "mathtext.default": "regular",
    "svg.fonttype": "none",
    "svg.hashsalt": "flops-fit",
}
"""`none`: texts of an SVG stay texts, in the reader's font. With the salt equal figures are equal
files."""

FEW_DECADES = 0.5
"""Of a logarithmic axis, below which its ticks are evenly spaced numbers."""

MANY = 2000
"""Points from which an SVG holds them as an image."""

MOST_BELOW, IN_ROW, MOST_IN_COLUMN = 14, 7, 20
"""Entries of a legend below the panels, in each row of it, and in a column beside them."""

DASHES = {Dashes.SOLID: "-", Dashes.DASHED: "--", Dashes.DOTTED: ":", Dashes.DASHDOT: "-."}

MARKERS = {
    Symbol.DOT: ("o", 4.5), Symbol.HOLLOW: ("o", 4.5), Symbol.STAR: ("*", 11.0),
    Symbol.HOLLOW_STAR: ("*", 11.0), Symbol.DIAMOND: ("D", 5.5), Symbol.SQUARE: ("s", 5.0),
    Symbol.ABOVE: ("^", 6.0), Symbol.BELOW: ("v", 6.0),
}  # fmt: skip
"""matplotlib's marker, and its size in points."""

HOLLOW = (Symbol.HOLLOW, Symbol.HOLLOW_STAR)

Colours = Callable[[str], str]
"""Role -> colour."""


def draw(picture: Picture, num_budgets: int) -> Figure:
    """The figure; `num_budgets` is how many colours of budgets there are in the report."""
    colours = {role: light for role, (light, _) in palette(num_budgets).items()}
    place = Place.of(picture)
    with rc_context(SETTINGS):
        figure = Figure(figsize=(place.width, place.height))
        all_axes = figure.subplots(1, len(picture.panels), squeeze=False)[0]
        for axes, panel in zip(all_axes, picture.panels, strict=True):
            _draw_panel(axes, panel, colours.__getitem__)
            if not picture.legend:
                _legend(axes, panel.corner)
        figure.suptitle(
            as_mathtext(picture.title), fontsize=11, ha="left", va="top",
            x=LEFT / place.width, y=1 - EDGE / place.height,
        )  # fmt: skip
        place.adjust(figure)
        if picture.legend:
            _legend_of_all(figure, all_axes, picture.legend, place)
    return figure


@dataclass(frozen=True)
class Place:
    """How a figure is laid out, in inches: matplotlib's own ways to do so draw everything three
    times. `beside` and `below` are what a legend of all panels takes there."""

    num_panels: int
    num_notes: int
    beside: float
    below: float

    @classmethod
    def of(cls, picture: Picture) -> Place:
        marks = (mark for panel in picture.panels for mark in panel.marks)
        found = (m.name for m in marks if isinstance(m, Line | Band | Points) and m.name)
        names = named(list(dict.fromkeys(found)))
        panels, notes = len(picture.panels), max(len(panel.notes) for panel in picture.panels)
        if not picture.legend or not names:
            return cls(panels, notes, 0.0, 0.0)
        if len(picture.panels) == 1 or len(names) > MOST_BELOW:
            columns = 1 + (len(names) - 1) // MOST_IN_COLUMN
            letters = max(map(len, (*names, picture.legend)))
            return cls(panels, notes, columns * (0.45 + 0.075 * letters), 0.0)
        rows = 1 + (len(names) - 1) // IN_ROW
        return cls(panels, notes, 0.0, 0.3 + 0.18 * rows)

    @property
    def width(self) -> float:
        return PANEL_SIZE[0] * self.num_panels + self.beside

    @property
    def height(self) -> float:
        return PANEL_SIZE[1] + self.below

    def adjust(self, figure: Figure) -> None:
        """Room around and between the panels, for ticks and labels."""
        panel = (self.width - self.beside - LEFT * self.num_panels - RIGHT) / self.num_panels
        figure.subplots_adjust(
            left=LEFT / self.width,
            right=1 - (RIGHT + self.beside) / self.width,
            bottom=(BOTTOM + self.below) / self.height,
            top=1 - (TOP + NOTE * self.num_notes) / self.height,
            wspace=LEFT / panel,
        )


def save(picture: Picture, num_budgets: int, folder: Path) -> list[Path]:
    """Writes <name>.png and <name>.svg; returns their paths."""
    figure = draw(picture, num_budgets)
    paths = [folder / f"{picture.name}.{kind}" for kind in ("png", "svg")]
    with rc_context(SETTINGS):
        figure.savefig(paths[0], dpi=DPI)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _draw_panel(axes: Axes, panel: Panel, colours: Colours) -> None:
    for side, axis in (("x", panel.x), ("y", panel.y)):
        _set_axis(axes, side, axis, limits(panel, side))
    for mark in panel.marks:
        _draw(mark, axes, colours)
    for side, axis in (("x", panel.x), ("y", panel.y)):
        _set_ticks(axes, side, axis)
    if panel.notes:
        axes.set_title("\n".join(as_mathtext(note) for note in panel.notes), fontsize=8.5)


def _set_axis(axes: Axes, side: str, axis: Axis, ends: Interval) -> None:
    axes.set(**{f"{side}scale": "log" if axis.is_log else "linear"})
    axes.set(**{f"{side}label": as_mathtext(axis.label)})
    axes.set(**{f"{side}lim": ends})


def _set_ticks(axes: Axes, side: str, axis: Axis) -> None:
    """As many ticks as the range takes, written as people write such numbers."""
    one = axes.xaxis if side == "x" else axes.yaxis
    write = WRITERS[axis.shown]
    if axis.is_log:
        low, high = axes.get_xlim() if side == "x" else axes.get_ylim()
        decades = np.log10(high / low)
        subs: tuple[float, ...] = (1.0,)
        if decades < FEW_DECADES:
            one.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            one.set_minor_locator(NullLocator())
            one.set_major_formatter(FuncFormatter(lambda value, _: as_mathtext(write(value))))
            return
        if decades < 1.2:
            subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
        elif decades < 4:
            subs = (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0)
        one.set_major_locator(LogLocator(subs=subs, numticks=12))
        one.set_minor_formatter(NullFormatter())
    else:
        one.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    one.set_major_formatter(FuncFormatter(lambda value, _: as_mathtext(write(value))))


def _percent(value: float) -> str:
    return f"{100 * value:+.3g}%" if value else "0%"


WRITERS: dict[Shown, Callable[[float], str]] = {
    Shown.COUNT: count,
    Shown.FLOPS: power,
    Shown.PLAIN: lambda value: f"{value:.4g}",
    Shown.PERCENT: _percent,
    Shown.FACTOR: lambda value: f"×{value:.3g}",
}


@singledispatch
def _draw(mark: object, axes: Axes, colours: Colours) -> None:
    raise TypeError(f"nothing draws a {type(mark).__name__}")


@_draw.register
def _line(mark: Line, axes: Axes, colours: Colours) -> None:
    axes.plot(
        mark.x, mark.y, DASHES[mark.dashes], color=colours(mark.colour), lw=mark.width,
        label=as_mathtext(mark.name) or None,
    )  # fmt: skip


@_draw.register
def _band(mark: Band, axes: Axes, colours: Colours) -> None:
    axes.fill_between(
        mark.x, mark.low, mark.high, color=colours(mark.colour), alpha=0.13, lw=0,
        label=as_mathtext(mark.name) or None,
    )  # fmt: skip


@_draw.register
def _points(mark: Points, axes: Axes, colours: Colours) -> None:
    colour, (marker, size) = colours(mark.colour), MARKERS[mark.symbol]
    is_star = mark.symbol in (Symbol.STAR, Symbol.HOLLOW_STAR)
    for bars, error in ((mark.x_bars, "xerr"), (mark.y_bars, "yerr")):
        if bars is not None and len(mark):
            _bars(axes, mark, error, bars, colour, width=1.8 if is_star else 0.8)
    axes.plot(
        mark.x, mark.y, marker, color=colour, ms=size,
        mew=0.4 if mark.symbol is Symbol.DOT else 0.8,
        mfc="white" if mark.symbol in HOLLOW else colour,
        mec="black" if is_star else ("white" if mark.symbol is Symbol.DOT else colour),
        label=as_mathtext(mark.name) or None, rasterized=len(mark) > MANY, clip_on=False,
        zorder=4 if is_star else 3,
    )  # fmt: skip


def _bars(axes: Axes, mark: Points, error: str, bars: Array, colour: str, width: float) -> None:
    """From low to high of each point that has both."""
    centre = mark.x if error == "xerr" else mark.y
    known = np.isfinite(bars).all(axis=1) & np.isfinite(centre)
    low, high = bars[known].T
    ends = np.maximum(np.stack([centre[known] - low, high - centre[known]]), 0.0)
    axes.errorbar(
        mark.x[known], mark.y[known], fmt="none", ecolor=colour, elinewidth=width,
        capsize=2.0 if width > 1 else 0.0, zorder=2, **{error: ends},
    )  # fmt: skip


@_draw.register
def _contours(mark: Contours, axes: Axes, colours: Colours) -> None:
    lines = axes.contour(
        mark.x, mark.y, mark.z, mark.levels, cmap="Greys_r", vmax=2 * mark.levels[-1],
        linewidths=0.9,
    )  # fmt: skip
    axes.clabel(lines, fontsize=7, fmt="%.3g")


@_draw.register
def _rule(mark: Rule, axes: Axes, colours: Colours) -> None:
    draw_at = axes.axvline if mark.is_vertical else axes.axhline
    draw_at(mark.at, color=colours("muted"), lw=0.8, ls=":", zorder=1)
    if not mark.label:
        return
    transform, spot, side = axes.get_yaxis_transform(), (0.01, mark.at), "left"
    if mark.is_vertical:
        transform, spot, side = axes.get_xaxis_transform(), (mark.at, 0.01), "right"
    axes.text(
        *spot, f" {mark.label} ", transform=transform, fontsize=7.5, color=colours("muted"),
        ha=side, va="bottom",
    )  # fmt: skip


def _legend(axes: Axes, corner: Corner) -> None:
    """Inside of the panel."""
    handles, names = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles, names, loc=corner.value, frameon=True, framealpha=0.85, edgecolor="none"
        )


def _legend_of_all(figure: Figure, all_axes: Iterable[Axes], title: str, place: Place) -> None:
    """Each name once, beside the panels or below them."""
    entries: dict[str, Artist] = {}
    for axes in all_axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    names = named(list(entries))
    handles = [entries[name] for name in names]
    if place.beside:
        spot = 1 - place.beside / place.width, 0.5
        columns = 1 + (len(names) - 1) // MOST_IN_COLUMN
        figure.legend(
            handles, names, title=title, loc="center left", bbox_to_anchor=spot, ncols=columns
        )
    elif names:
        figure.legend(
            handles, names, title=title, loc="lower center", ncols=min(len(names), IN_ROW)
        )
