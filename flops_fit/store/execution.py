"""Train what is missing of a plan: what to train, in which order, and what becomes of failures."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from filelock import Timeout

from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.plan.trunks import Chain, chains
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Trainer, Watcher

POLL_SECONDS = 1.0
"""Between looks at runs that another process is training."""

Execute = Callable[[Sequence[Chain], Watcher], list[Run]]
"""Trains experiments, here or in other processes; returns the runs that came to an end."""


class SweepStopped(Exception):
    """A run failed and the sweep was to end with it; what was trained before is on disk."""


def train_plan(
    plan: Plan,
    folder: StudyFolder,
    execute: Execute,
    watcher: Watcher,
    retry: Sequence[str] = (),
) -> list[Run]:
    """Train what is missing of the plan and make it the one in force; returns all its runs."""
    folder.write_plan(plan)
    folder.put_in_force(plan)
    return train_missing(plan, folder, execute, watcher, retry)


def train_missing(
    plan: Plan,
    folder: StudyFolder,
    execute: Execute,
    watcher: Watcher,
    retry: Sequence[str] = (),
) -> list[Run]:
    """Train what is missing of the plan; returns all its runs.

    Runs that another process is training are waited for. Failed ones are tried once.
    """
    tried: set[str] = set()
    while todo := [e for e in folder.missing(plan, retry) if e.id not in tried]:
        free = [e for e in todo if not folder.is_locked(e.id)]
        if free:
            try:
                tried |= {run.id for run in execute(chains(free), watcher)}
            except SweepStopped:
                break
        elif watcher.stop_requested:
            raise KeyboardInterrupt
        else:
            time.sleep(POLL_SECONDS)
    runs, _ = folder.runs_of(plan)
    return runs


def train_one(
    experiment: Experiment, trainer: Trainer, folder: StudyFolder, watcher: Watcher
) -> Run | None:
    """Train the experiment and write its result; None where another process is at it.

    What another process has finished is returned as it is. An exception in the model's, the
    data's or the loss's code makes a failed run, with its traceback in error.txt.
    """
    try:
        with folder.lock(experiment.id).acquire(timeout=0):
            completed = folder.completed_run(experiment.id)  # by another process, meanwhile
            run = completed or _trained(experiment, trainer, folder, watcher)
    except Timeout:
        return None
    watcher.finished(run)
    return run


def _trained(
    experiment: Experiment, trainer: Trainer, folder: StudyFolder, watcher: Watcher
) -> Run:
    """Train the experiment, whatever result is on disk, and write its own."""
    run_folder = folder.run_folder(experiment.id)
    try:
        run = trainer(experiment, run_folder, watcher)
    except Exception as error:  # the sweep goes on, whatever a user's code raises
        with suppress(OSError):  # a full disk: the result says what it needs
            (run_folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        run = ended_run(experiment, Status.FAILED, f"{type(error).__name__}: {error}")
        folder.write_run(run)
        return run
    folder.write_run(run)
    for leftover in ("error.txt", "checkpoint.pt"):
        (run_folder / leftover).unlink(missing_ok=True)
    return run


@dataclass(frozen=True)
class Inline:
    """Trains in this process, one experiment after the other."""

    trainer: Trainer
    folder: StudyFolder
    fail_fast: bool = False  # end the sweep with the first run that fails

    def __call__(self, work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        ended: list[Run] = []
        for experiment in (e for chain in work for e in chain):
            run = train_one(experiment, self.trainer, self.folder, watcher)
            ended += [run] if run else []
            if run and run.status == Status.FAILED and self.fail_fast:
                raise SweepStopped(run.id)
        return ended
