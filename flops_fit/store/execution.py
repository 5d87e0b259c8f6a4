"""Train what is missing of a plan: what to train, in which order, and what becomes of failures."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from filelock import BaseFileLock, Timeout

from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.plan.trunks import Chain, chains
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import TakesTurns, Trainer, Turns, Watcher

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
        return _failed(experiment, folder, error)
    return _written(run, folder)


def _failed(experiment: Experiment, folder: StudyFolder, error: Exception) -> Run:
    """Its record, with the traceback in error.txt."""
    with suppress(OSError):  # a full disk: the result says what it needs
        path = folder.run_folder(experiment.id) / "error.txt"
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    run = ended_run(experiment, Status.FAILED, f"{type(error).__name__}: {error}")
    folder.write_run(run)
    return run


def _written(run: Run, folder: StudyFolder) -> Run:
    folder.write_run(run)
    for leftover in ("error.txt", "checkpoint.pt"):
        (folder.run_folder(run.id) / leftover).unlink(missing_ok=True)
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


@dataclass(frozen=True)
class SideBySide:
    """Trains up to `at_once` experiments in turns in this process, on one device, longest first.

    Those that fill the device, or found no room beside the others, are trained alone after them.
    """

    trainer: Trainer
    folder: StudyFolder
    at_once: int
    fail_fast: bool = False  # end the sweep with the first run that fails

    def __call__(self, work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        queue = deque(sorted(work, key=lambda chain: chain[-1].num_steps, reverse=True))
        alone: list[Chain] = []
        ended: list[Run] = []
        running: list[_InTurns] = []
        try:
            while queue or running:
                while queue and len(running) < self.at_once:
                    running.append(_InTurns(queue.popleft(), self.trainer, self.folder, watcher))
                for chain in tuple(running):
                    run = chain.take_turn()
                    ended += [run] if run else []
                    if run and run.status == Status.FAILED and self.fail_fast:
                        raise SweepStopped(run.id)
                    if chain.is_over or chain.needs_room:
                        running.remove(chain)
                        alone += [chain.rest] if chain.rest else []
        except KeyboardInterrupt:
            for chain in running:  # each writes its checkpoint
                with suppress(KeyboardInterrupt):
                    chain.take_turn()
            raise
        finally:
            for chain in running:
                chain.drop()
        return ended + Inline(self.trainer, self.folder, self.fail_fast)(alone, watcher)


class _InTurns:
    """A chain on its way, one experiment after the other."""

    def __init__(
        self, chain: Chain, trainer: Trainer, folder: StudyFolder, watcher: Watcher
    ) -> None:
        self.rest = chain  # that is still to be trained
        self.needs_room = False
        self._trainer, self._folder, self._watcher = trainer, folder, watcher
        self._turns: Turns | None = None
        self._lock: BaseFileLock | None = None

    @property
    def is_over(self) -> bool:
        return not self.rest

    def take_turn(self) -> Run | None:
        """One turn of the experiment that is at it; its record where it came to an end."""
        experiment = self.rest[0]
        try:
            run = self._begun(experiment) if self._turns is None else self._turns.take()
        except MemoryError:
            self.needs_room = True
            self.drop()
            return None
        except Exception as error:  # the sweep goes on, whatever a user's code raises
            run = _failed(experiment, self._folder, error)
        else:
            if run is None:
                return None
            run = _written(run, self._folder)
        return self._ended(run)

    def _begun(self, experiment: Experiment) -> Run | None:
        """Its record where another process has trained it meanwhile."""
        lock = self._folder.lock(experiment.id)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.rest = self.rest[1:]
            return None
        self._lock = lock
        completed = self._folder.completed_run(experiment.id)
        if completed is None:
            assert isinstance(self._trainer, TakesTurns)
            folder = self._folder.run_folder(experiment.id)
            self._turns = self._trainer.in_turns(experiment, folder, self._watcher)
            self.needs_room = self._turns is None
            if self.needs_room:
                self.drop()
        return completed

    def _ended(self, run: Run) -> Run:
        self.rest = self.rest[1:]
        self.drop()
        self._watcher.finished(run)
        return run

    def drop(self) -> None:
        """Give back the device and the lock; what is on disk stays."""
        if self._turns is not None:
            self._turns.drop()
            self._turns = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
