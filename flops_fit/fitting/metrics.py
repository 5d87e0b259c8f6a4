"""Which number of a run is fitted: its held-out loss, or another metric of the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flops_fit.fitting.errors import FitError
from flops_fit.plan.run import Run

LOSS = "loss"

COMPLEMENT = "1-"
"""Prefix that turns a share that grows, such as accuracy, into one that falls."""


def measured_by(runs: Sequence[Run], metric: str) -> list[Run]:
    """The runs with `metric` in the place of their loss; None for those that don't have it.

    `metric` is "loss", a name in `Run.metrics`, or "1-" and such a name. Raises `FitError` for a
    name that no run has, and for a metric that grows where the loss falls.
    """
    if metric == LOSS:
        return list(runs)
    present = sorted({name for run in runs for name in run.metrics})
    if metric not in present and complement(metric) not in present:
        raise FitError(
            f"no run has a metric {metric!r}",
            f"use {', '.join([LOSS, *present])}" if present else "these runs have their loss only",
        )
    _check_that_it_falls(runs, metric)
    return [replace(run, loss=_value(run, metric), loss_stderr=None) for run in runs]


def label(metric: str) -> str:
    """The metric in words, for axes and tables."""
    if metric.startswith(COMPLEMENT):
        return f"1 - {metric.removeprefix(COMPLEMENT)}"
    return metric.replace("_", " ")


def complement(metric: str) -> str:
    """The name of 1 - `metric`."""
    if metric.startswith(COMPLEMENT):
        return metric.removeprefix(COMPLEMENT)
    return f"{COMPLEMENT}{metric}"


def _value(run: Run, metric: str) -> float | None:
    if metric in run.metrics:
        return run.metrics[metric]
    share = run.metrics.get(complement(metric))
    return None if share is None else 1 - share


def _check_that_it_falls(runs: Sequence[Run], metric: str) -> None:
    pairs = [(run.loss, _value(run, metric)) for run in runs if run.is_completed]
    known = np.array([pair for pair in pairs if None not in pair], dtype=float)
    if len(known) < 2 or not np.all(np.std(known, axis=0) > 0):
        return
    if np.corrcoef(known.T)[0, 1] < 0:
        raise FitError(
            f"{metric} grows where the loss falls, and a law needs what falls with compute",
            f"fit its complement: metric={complement(metric)}, as error_rate is to accuracy",
        )
