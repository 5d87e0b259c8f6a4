"""The training curves of a study, as the runs that its checkpoints would have been."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.files import is_name, parsed, read_text, within
from flops_fit.fitting.collapse import Curve
from flops_fit.fitting.errors import FitError
from flops_fit.plan.run import Run
from flops_fit.records import of_type
from flops_fit.store.folder import StudyFolder


def checkpoints_of(runs: Iterable[Run], folder: StudyFolder) -> list[Run]:
    """The training curves of a study's completed runs, for methods that read them."""
    completed = (run for run in runs if run.is_completed)
    curves = (_curve(run, folder.run_folder(run.id) / "metrics.jsonl") for run in completed)
    return [point for curve in curves for point in curve]


def training_curve(run: Run, folder: StudyFolder) -> Curve | None:
    """The training curve of a completed run, by its training loss; None without one."""
    if not is_name(run.id):  # of a table
        return None
    path = folder.run_folder(run.id) / "metrics.jsonl"
    names = ("num_tokens", "train_loss", "lr")
    try:
        points = [[point[name] for name in names] for point in _points(path)]
        known = [point for point in points if None not in point]
        if not known or run.loss is None:
            return None
        share, loss, rate = np.array(known, dtype=float).T
    except (KeyError, TypeError, ValueError) as error:
        raise FitError(f"{path} is no training curve ({error!r})", "delete it") from error
    return Curve(
        id=run.id,
        budget=run.budget,
        num_params=run.num_params,
        share=share / run.num_tokens,
        loss=loss,
        rate=rate,
        final=run.loss,
        num_steps=run.num_steps or 0,
    )


def _points(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no such file."""
    try:
        lines = read_text(within(path.parent, path.name)).splitlines()
        return [of_type(dict[str, float | None], parsed(line), "a line") for line in lines]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise FitError(f"{path} is no training curve ({error})", "delete it") from error


def _curve(run: Run, path: Path) -> list[Run]:
    """The checkpoints of a run from its metrics.jsonl, by their training loss; none without one.

    The training loss of a point is the mean over the steps since the last one: that of thousands of
    samples, where the held-out loss along the way is measured on a few, and an envelope picks the
    luckiest. A command's log may know the held-out one alone, which then counts.
    """
    points = _points(path)
    try:
        name = "train_loss" if any(p["train_loss"] is not None for p in points) else "held_out_loss"
        return [
            replace(
                run,
                num_tokens=point["num_tokens"],
                flops=point["flops"],
                num_steps=point["step"],
                loss=point[name],
                loss_stderr=None,
            )
            for point in points
            if point[name] is not None
        ]
    except (KeyError, TypeError) as error:
        raise FitError(f"{path} is no training curve ({error!r})", "delete it") from error
