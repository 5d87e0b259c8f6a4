"""What a page hands to its scripts: figures and runs as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval
from flops_fit.plan.run import Run
from flops_fit.report.figures.extents import limits
from flops_fit.report.figures.marks import (
    Axis,
    Band,
    Contours,
    Line,
    Mark,
    Panel,
    Picture,
    Points,
    Rule,
)
from flops_fit.report.figures.style import as_html, named

DIGITS = 6
"""Of a number that is drawn."""

LABELS_AT = 0.88
"""Share of the width of contours at which they are labelled."""

MOST_DRAWN = 1500
"""Points of one panel that are drawn: of more every other, or third."""

ROOM_FOR_RUNS = 480_000
"""Characters that the table of runs may take of a page: of more runs it has the first."""


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: nothing in it ends that."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def figure_data(picture: Picture) -> dict[str, Any]:
    """A picture as the scripts draw it; its texts as HTML."""
    return {
        "name": picture.name,
        "panels": [
            {
                "x": _axis(panel.x, limits(panel, "x")),
                "y": _axis(panel.y, limits(panel, "y")),
                "marks": [mark_data(mark, stride(panel)) for mark in panel.marks],
            }
            for panel in picture.panels
        ],
    }


def _axis(axis: Axis, ends: Interval) -> dict[str, Any]:
    return {
        "label": as_html(axis.label),
        "shown": axis.shown.value,
        "log": axis.is_log,
        "limits": list(ends),
    }


@singledispatch
def mark_data(mark: object, step: int) -> dict[str, Any]:
    """A mark as JSON, with every `step`-th of its points."""
    raise TypeError(f"a page can't draw a {type(mark).__name__}")


@mark_data.register
def _line(mark: Line, step: int) -> dict[str, Any]:
    return {
        "kind": "line", "x": numbers(mark.x), "y": numbers(mark.y), "colour": mark.colour,
        "name": mark.name, "dashes": mark.dashes.value, "width": mark.width,
    }  # fmt: skip


@mark_data.register
def _band(mark: Band, step: int) -> dict[str, Any]:
    return {
        "kind": "band", "x": numbers(mark.x), "low": numbers(mark.low),
        "high": numbers(mark.high), "colour": mark.colour, "name": mark.name,
    }  # fmt: skip


@mark_data.register
def _points(mark: Points, step: int) -> dict[str, Any]:
    bars = {
        side: None if values is None else [numbers(pair) for pair in values[::step]]
        for side, values in (("xBars", mark.x_bars), ("yBars", mark.y_bars))
    }
    return {
        "kind": "points", "x": numbers(mark.x[::step]), "y": numbers(mark.y[::step]),
        "colour": mark.colour, "symbol": mark.symbol.value, "name": mark.name,
        "texts": list(mark.texts[::step]), **bars,
    }  # fmt: skip


def stride(panel: Panel) -> int:
    """Every which of the points of a panel is drawn."""
    count = sum(len(mark) for mark in panel.marks if isinstance(mark, Points))
    return -(-count // MOST_DRAWN) or 1


@mark_data.register
def _contours(mark: Contours, step: int) -> dict[str, Any]:
    places = [(level, *place) for level in mark.levels if (place := _on_the_right(mark, level))]
    return {
        "kind": "contours", "x": [mark.x[0], mark.x[-1]], "y": [mark.y[0], mark.y[-1]],
        "width": len(mark.x), "height": len(mark.y), "z": numbers(mark.z.ravel()),
        "levels": numbers(mark.levels), "label": mark.label,
        "places": [numbers(np.array(place)) for place in places],
    }  # fmt: skip


def _on_the_right(mark: Contours, level: float) -> tuple[float, float] | None:
    """Where a level crosses a column on the right, for its label: away from the best path."""
    column = int(LABELS_AT * (len(mark.x) - 1))
    along = mark.z[:, column]
    crossed = np.flatnonzero((along[:-1] >= level) & (along[1:] < level))
    return (mark.x[column], mark.y[crossed[0]]) if len(crossed) else None


@mark_data.register
def _rule(mark: Rule, step: int) -> dict[str, Any]:
    return {"kind": "rule", "at": mark.at, "vertical": mark.is_vertical, "label": mark.label}


def numbers(values: Array) -> list[float | None]:
    """Numbers to `DIGITS` digits, None for what is not finite."""
    return [_number(value) for value in values.tolist()]


def _number(value: float | None, digits: int = DIGITS) -> float | int | None:
    if value is None or not np.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def thinned(picture: Picture) -> int:
    """The largest stride of its panels: 1 where all points are drawn."""
    return max(map(stride, picture.panels))


Cell = float | int | str | None

COLUMNS: tuple[tuple[str, str, Callable[[Run], Cell]], ...] = (
    ("run", "text", lambda run: run.id),
    ("status", "text", lambda run: run.status),
    ("size", "text", lambda run: None if run.size is None else run.size.label),
    ("budget, FLOPs", "flops", lambda run: run.budget),
    ("N", "count", lambda run: run.num_params),
    ("D", "count", lambda run: run.num_tokens),
    ("D/N", "plain", lambda run: _number(run.tokens_per_param, 4)),
    ("loss", "loss", lambda run: run.loss),
    ("± s.e.", "plain", lambda run: run.loss_stderr and _number(run.loss_stderr, 2)),
    ("learning rate", "plain", lambda run: run.learning_rate),
    ("seed", "plain", lambda run: run.seed),
    ("seconds", "plain", lambda run: run.wall_time_seconds and _number(run.wall_time_seconds, 3)),
)
"""Of the table of runs: header, how it is written, and where a run has it."""

ALL_SHOWN = ("run", "status", "N", "D", "loss")
"""Columns that are there even where they say nothing."""


def run_columns(runs: Sequence[Run], answer: ScalingLaw | Refusal) -> list[dict[str, Any]]:
    """The table of as many runs as there is room for, without columns that say nothing."""
    whole = _columns(runs, answer)
    size = len(embedded({"runs": whole}))
    return whole if size <= ROOM_FOR_RUNS else _columns(runs[: _fitting(runs, size)], answer)


def _fitting(runs: Sequence[Run], size: int) -> int:
    """How many runs there is room for where all take so many characters: a round number."""
    count = len(runs) * ROOM_FOR_RUNS // size
    return count // 100 * 100 or count


def _columns(runs: Sequence[Run], answer: ScalingLaw | Refusal) -> list[dict[str, Any]]:
    reasons = {dropped.id: dropped.reason for dropped in answer.dropped}
    metrics = sorted({name for run in runs for name in run.metrics})
    columns = [(name, shown, [cell(run) for run in runs]) for name, shown, cell in COLUMNS]
    columns += [(name, "loss", [run.metrics.get(name) for run in runs]) for name in metrics]
    why: list[Cell] = [
        reasons.get(run.id) or (run.error or "").split("\n")[0] or None for run in runs
    ]
    columns.append(("left out because", "text", why))
    return [
        {"name": name, "shown": shown, **_packed([_finite(cell) for cell in cells])}
        for name, shown, cells in columns
        if name in ALL_SHOWN or _says_something(cells)
    ]


def _finite(cell: Cell) -> Cell:
    return _number(cell, DIGITS) if isinstance(cell, float) else cell


def _packed(cells: list[Cell]) -> dict[str, Any]:
    """The cells, or where few differ those that do and their numbers: a tenth of the size."""
    distinct = list(dict.fromkeys(cells))
    if len(distinct) > len(cells) // 4:
        return {"cells": cells}
    place = {cell: number for number, cell in enumerate(distinct)}
    return {"distinct": distinct, "cells": [place[cell] for cell in cells]}


def _says_something(cells: Sequence[Cell]) -> bool:
    return any(cell is not None for cell in cells) and (
        len({*cells}) > 1 or isinstance(cells[0], str)
    )


@dataclass(frozen=True)
class Legend:
    """The entries of a figure: of all its panels together where it has a heading for them, else of
    each panel."""

    shared: tuple[Mapping[str, str], ...]
    panels: tuple[tuple[Mapping[str, str], ...], ...]


def legend(picture: Picture) -> Legend:
    """Each name once, with the mark that it stands for."""
    if picture.legend:
        marks = [mark for panel in picture.panels for mark in panel.marks]
        return Legend(_entries(marks), tuple(() for _ in picture.panels))
    return Legend((), tuple(_entries(panel.marks) for panel in picture.panels))


def _entries(marks: Sequence[Mark]) -> tuple[Mapping[str, str], ...]:
    found: dict[str, Mapping[str, str]] = {}
    for mark in marks:
        if isinstance(mark, Line | Band | Points) and mark.name:
            look = mark.symbol if isinstance(mark, Points) else getattr(mark, "dashes", "band")
            entry = {"name": mark.name, "colour": mark.colour, "look": str(look)}
            found.setdefault(mark.name, entry)
    return tuple(found[name] for name in named(list(found)))
