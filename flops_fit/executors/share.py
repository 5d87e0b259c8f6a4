"""Train a job's share of a kept plan, as every executor trains."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from flops_fit.errors import StudyError
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import SweepStopped
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import ForAnother, Prepared, Spec, Watcher
from flops_fit.store.sharing import present
from flops_fit.study.logged import opened
from flops_fit.study.sweeps import launched, retried, tuned_here
from flops_fit.training.trainer import TorchTrainer

if TYPE_CHECKING:
    from flops_fit.executors.node import Asked, TrainRuns


def train_share(job: TrainRuns, asked: Asked) -> bool:
    """Whether some failed. Runs that another process is at are left to it.

    Raises `KeyboardInterrupt` where a stop was asked for, and `StudyError`.
    """
    folder, settings = StudyFolder(job.study), job.settings
    whole = folder.plan_in(folder.path / "plans" / job.plan)
    mine = tuple(e for e in whole.experiments if e.id in set(job.runs))
    if len(mine) < len(job.runs):
        raise StudyError(f"{folder.path}: plan {job.plan} has not all runs of this job")
    todo = folder.missing(replace(whole, experiments=mine), retried(settings))
    if not todo:
        return False
    spec, logger = job.packed.unpacked()
    with folder.deciding():
        prepared = prepared_here(spec, whole, todo, folder)
        tuned = tuned_here(todo, prepared, folder, settings)
    with ExitStack() as stack:
        stack.enter_context(present(folder.path))
        log = stack.enter_context(opened(logger, folder))
        going = launched(todo, spec, tuned, folder, settings, log)
        execute, watcher = stack.enter_context(going)
        asked.gained = not isinstance(tuned.trainer, TorchTrainer)  # a command tells nothing
        try:
            with asked.stopping(watcher):
                runs = execute(chains(todo), Gains(watcher, asked))
        except SweepStopped:
            return True
    return any(run.status == Status.FAILED for run in runs)


def prepared_here(
    spec: Spec, plan: Plan, todo: Sequence[Experiment], folder: StudyFolder
) -> Prepared:
    """The trainer of a kept plan: by what the study has pinned, else, first of all, planned anew.

    Raises `StudyError` where other runs are planned here than where it was submitted.
    """
    if "threads" in folder.pinned():
        trainer = spec.pinned_trainer(folder)
        device = trainer.recipe.device if isinstance(trainer, TorchTrainer) else None
        return Prepared(plan, trainer, device)
    prepared = spec.prepare(folder)
    if not {e.id for e in todo} <= {e.id for e in prepared.plan.experiments}:
        raise StudyError(
            f"{folder.path}: on this node other runs are planned than where they were submitted "
            "from: are the data and the code the same here?"
        )
    return replace(prepared, plan=plan)


class Gains(ForAnother):
    """Watches for another watcher, and notes whether any run has come further or ended."""

    def __init__(self, watcher: Watcher, asked: Asked) -> None:
        super().__init__(watcher)
        self._asked = asked
        self._first: dict[str, float] = {}  # id -> FLOPs where it was taken up

    def progress(self, experiment: Experiment, flops: float) -> None:
        super().progress(experiment, flops)
        if flops > self._first.setdefault(experiment.id, flops):
            self._asked.gained = True

    def finished(self, run: Run) -> None:
        super().finished(run)
        self._asked.gained = True
