"""The training curves of a study, as the runs that its checkpoints would have been."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flops_fit.fitting.errors import FitError
from flops_fit.plan.run import Run
from flops_fit.store.folder import StudyFolder


def checkpoints_of(runs: Iterable[Run], folder: StudyFolder) -> list[Run]:
    """The training curves of a study's completed runs, for methods that read them."""
    completed = (run for run in runs if run.is_completed)
    curves = (_curve(run, folder.run_folder(run.id) / "metrics.jsonl") for run in completed)
    return [point for curve in curves for point in curve]


def _curve(run: Run, path: Path) -> list[Run]:
    """The checkpoints of a run from its metrics.jsonl, by their training loss; none without one.

    The training loss of a point is the mean over the steps since the last one: that of thousands of
    samples, where the held-out loss along the way is measured on a few, and an envelope picks the
    luckiest.
    """
    if not path.exists():
        return []
    try:
        points = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            replace(
                run,
                num_tokens=point["num_tokens"],
                flops=point["flops"],
                num_steps=point["step"],
                loss=point["train_loss"],
                loss_stderr=None,
            )
            for point in points
            if point["train_loss"] is not None
        ]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise FitError(f"{path} is no training curve ({error!r})", "delete it") from error
