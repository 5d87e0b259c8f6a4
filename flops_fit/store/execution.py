"""Train what is missing of a plan: what to train, in which order, and what becomes of failures."""

from __future__ import annotations

import math
import re
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from filelock import BaseFileLock, Timeout

from flops_fit.errors import StudyWarning, UserError
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.plan.trunks import Chain, chains, steps_to_train
from flops_fit.store.folder import StudyFolder, missing_beside
from flops_fit.store.protocols import TakesTurns, Trainer, Turns, Watcher

ALIKE_IN_A_ROW = 3
"""Failures of one kind that end a sweep."""

OF_LARGE_RUNS = re.compile("memory|data ended|took longer")
"""In reasons that smaller runs may not have."""

POLL_SECONDS = 1.0
"""Between looks at runs that another process is training."""

Execute = Callable[[Sequence[Chain], Watcher], list[Run]]
"""Trains experiments, here or in other processes; returns the runs that came to an end."""


class SweepStopped(Exception):
    """Runs failed and the sweep ends with them; what was trained before is on disk."""


@dataclass
class Patience:
    """Ends a sweep with its first failure where that is wished, else with the third of one kind in
    a row: what ails all runs need not be tried with each.

    Want of memory, data or time is no such kind, since it may not ail smaller runs.
    """

    fail_fast: bool = False
    _kind: str = ""
    _in_a_row: int = 0

    def heed(self, run: Run) -> None:
        """Takes note of how a run ended. Raises `SweepStopped`."""
        if run.status != Status.FAILED:
            self._kind, self._in_a_row = "", 0
            return
        if self.fail_fast:
            raise SweepStopped(run.id)
        reason = run.error or ""
        kind = re.sub(r"[\d.]+", "#", reason.replace(run.id, ""))
        self._in_a_row = self._in_a_row + 1 if kind == self._kind else 1
        self._kind = kind
        if self._in_a_row >= ALIKE_IN_A_ROW and not OF_LARGE_RUNS.search(kind):
            warnings.warn(
                f"stopped, since {self._in_a_row} runs in a row failed alike ({reason}): mend the "
                "cause and run the same command again",
                StudyWarning,
                stacklevel=2,
            )
            raise SweepStopped(run.id)


def train_plan(
    plan: Plan,
    folder: StudyFolder,
    execute: Execute,
    watcher: Watcher,
    retry: Sequence[str] = (),
    *,
    waits: bool = True,
) -> list[Run]:
    """Train what is missing of the plan and make it the one in force; returns what is on disk of
    its runs."""
    folder.write_plan(plan)
    folder.put_in_force(plan)
    return train_missing(plan, folder, execute, watcher, retry, waits=waits)


def train_missing(
    plan: Plan,
    folder: StudyFolder,
    execute: Execute,
    watcher: Watcher,
    retry: Sequence[str] = (),
    *,
    waits: bool = True,
) -> list[Run]:
    """Train what is missing of the plan; returns what is on disk of its runs.

    Failed ones are tried once, be it here or by another process. Runs that another process is
    training are waited for, unless it `waits` for none; so are those behind one of them on a trunk.
    """
    tried: set[str] = set()
    before: dict[str, Run] | None = None
    while True:
        runs, _ = folder.runs_of(plan)
        now = {run.id: run for run in runs}
        before = now if before is None else before
        for name in now.keys() - tried:
            if now[name] != before.get(name):
                tried.add(name)
                watcher.found(now[name])
        todo = [e for e in missing_beside(runs, plan, retry) if e.id not in tried]
        held = {e.id for e in todo if folder.is_locked(e.id)}
        free = [chain for chain in chains(todo) if held.isdisjoint(e.id for e in chain)]
        if free:
            try:
                tried |= {run.id for run in execute(free, watcher)}
            except SweepStopped:
                return folder.runs_of(plan)[0]
        elif not (todo and waits):
            return runs
        else:
            _wait_for_one_of(held, folder, watcher)


def _wait_for_one_of(held: Iterable[str], folder: StudyFolder, watcher: Watcher) -> None:
    """Until a process leaves one of these runs. Raises `KeyboardInterrupt`."""
    while not watcher.stop_requested:
        if not all(map(folder.is_locked, held)):
            return
        time.sleep(POLL_SECONDS)
    raise KeyboardInterrupt


def train_one(
    experiment: Experiment, trainer: Trainer, folder: StudyFolder, watcher: Watcher
) -> Run | None:
    """Train the experiment and write its result; None where another process is at it.

    What another process has finished is returned as it is. An exception in the model's, the
    data's or the loss's code makes a failed run, with its traceback in error.txt.
    """
    try:
        with folder.taken(experiment.id):
            completed = folder.completed_run(experiment)  # by another process, meanwhile
            run = completed or _trained(experiment, trainer, folder, watcher)
    except Timeout:
        return None
    if completed:
        watcher.found(run)
    else:
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
    reason = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    run = ended_run(experiment, Status.FAILED, reason)
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
    patience: Patience = field(default_factory=Patience)

    def __call__(self, work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        ended: list[Run] = []
        for chain in work:
            for experiment in chain:
                run = train_one(experiment, self.trainer, self.folder, watcher)
                if run is None:  # whoever is at it goes on from there
                    break
                ended.append(run)
                self.patience.heed(run)
        return ended


STEP_FLOPS = {"cpu": 2e7, "cuda": 1e11}
"""FLOPs that would take as long as what a step costs beside its arithmetic: 0.7 ms at 32 GFLOP/s on
one core of a CPU, a millisecond on an H100. In this order 2,000 runs on 256 slots end 0.2% after
the least there can be; by budget, then steps, it was 19% (docs/fleet-figures.md)."""


@dataclass(frozen=True)
class Unit:
    """Experiments for one worker: one after the other, or `together` in one batched step."""

    experiments: tuple[Experiment, ...]
    together: bool = False

    def length(self, step_flops: float) -> float:
        """FLOPs that take as long as its training: for the same budget small models, which have the
        most steps, are the slow ones."""
        if self.together:
            arithmetic = math.fsum(e.flops for e in self.experiments)
            return arithmetic + step_flops * max(e.num_steps for e in self.experiments)
        work = steps_to_train(self.experiments)
        return math.fsum(steps * (e.flops_per_step + step_flops) for e, steps in work)


def longest_first(units: Iterable[Unit], device: str) -> list[Unit]:
    """The order in which workers on such devices are given them."""
    step_flops = STEP_FLOPS.get(device, STEP_FLOPS["cuda"])
    return sorted(units, key=lambda unit: unit.length(step_flops), reverse=True)


def units_of(work: Sequence[Chain], trainer: Trainer) -> list[Unit]:
    """The chains, those of single runs that should train together as one."""
    if not isinstance(trainer, TakesTurns):
        return [Unit(chain) for chain in work]
    groups = trainer.groups([chain[0] for chain in work if len(chain) == 1])
    grouped = {e.id for group in groups for e in group}
    others = [Unit(chain) for chain in work if chain[0].id not in grouped]
    return [*(Unit(group, together=True) for group in groups), *others]


def begun_with_longest(execute: Execute, device: str) -> Execute:
    """The same in another order, so that processes that share a sweep end together."""

    def train(work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        units = longest_first((Unit(chain) for chain in work), device)
        return execute([unit.experiments for unit in units], watcher)

    return train


def train_unit(unit: Unit, trainer: Trainer, folder: StudyFolder, watcher: Watcher) -> list[Run]:
    """Train all of it here, to the end; returns the runs that ended."""
    if not unit.together:
        runs = [train_one(e, trainer, folder, watcher) for e in unit.experiments]
        return [run for run in runs if run]
    ended: list[Run] = []
    underway = _InTurns(unit, trainer, folder, watcher)
    try:
        while not (underway.is_over or underway.needs_room):
            ended += underway.take_turn()
    finally:
        underway.drop()
    apart = train_unit(Unit(underway.rest), trainer, folder, watcher)
    _tell_of(underway.problem, apart)
    return ended + apart


@dataclass(frozen=True)
class SideBySide:
    """Trains up to `at_once` units in turns in this process, on one device, longest first.

    Those that fill the device, or found no room beside the others, are trained alone after them.
    """

    trainer: Trainer
    folder: StudyFolder
    at_once: int
    patience: Patience = field(default_factory=Patience)

    def __call__(self, work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        units = units_of(work, self.trainer)
        queue = deque(longest_first(units, "cuda"))  # which alone has several at once
        alone: list[Experiment] = []
        ended: list[Run] = []
        running: list[_InTurns] = []
        problem: Exception | None = None
        try:
            while queue or running:
                while queue and len(running) < self.at_once:
                    running.append(_InTurns(queue.popleft(), self.trainer, self.folder, watcher))
                for underway in tuple(running):
                    runs = underway.take_turn()
                    ended += runs
                    for run in runs:
                        self.patience.heed(run)
                    if underway.is_over or underway.needs_room:
                        running.remove(underway)
                        alone += underway.rest
                        problem = problem or underway.problem
        except KeyboardInterrupt:
            for underway in running:  # each writes its checkpoints
                with suppress(KeyboardInterrupt):
                    underway.take_turn()
            raise
        finally:
            for underway in running:
                underway.drop()
        ids = {e.id for e in alone}
        left = [tuple(e for e in chain if e.id in ids) for chain in work]  # in the plan's order
        apart = Inline(self.trainer, self.folder, self.patience)(left, watcher)
        _tell_of(problem, apart)
        return ended + apart


def _tell_of(problem: Exception | None, apart: Sequence[Run]) -> None:
    """A problem that runs had together and don't have alone is ours, and costs the user time."""
    if problem is not None and all(run.status != Status.FAILED for run in apart):
        said = str(problem) or type(problem).__name__
        warnings.warn(f"{len(apart)} runs were trained alone, not together: {said}", stacklevel=3)


class _InTurns:
    """A unit on its way."""

    def __init__(self, unit: Unit, trainer: Trainer, folder: StudyFolder, watcher: Watcher) -> None:
        self.rest = unit.experiments  # that are still to be trained
        self.needs_room = False
        self.problem: Exception | None = None  # that they had together
        self._together = unit.together
        self._trainer, self._folder, self._watcher = trainer, folder, watcher
        self._turns: Turns | None = None
        self._locks: dict[str, BaseFileLock] = {}

    @property
    def is_over(self) -> bool:
        return not self.rest

    def take_turn(self) -> list[Run]:
        """One turn of what is at it; the records of what came to an end."""
        try:
            if self._turns is None:
                return [self._let_go(run) for run in self._begun()]
            runs = self._turns.take()
        except MemoryError:
            self._set_aside()
            return []
        except Exception as error:  # the sweep goes on, whatever a user's code raises
            if self._together:  # whose fault it is shows when each trains alone
                self.problem = error
                self._set_aside()
                return []
            return [self._ended(_failed(self.rest[0], self._folder, error))]
        return [self._ended(_written(run, self._folder)) for run in runs]

    def _set_aside(self) -> None:
        self.needs_room = True
        self.drop()

    def _begun(self) -> list[Run]:
        """Start the next ones. Those that another process is at are left to it."""
        for experiment in self.rest if self._together else self.rest[:1]:
            try:
                self._locks[experiment.id] = self._folder.taken(experiment.id).lock
            except Timeout:
                self.rest = tuple(e for e in self.rest if e is not experiment)
        mine = [e for e in self.rest if e.id in self._locks]
        completed = [self._folder.completed_run(e) for e in mine]  # by another process, meanwhile
        if any(completed) or not mine:
            return [run for run in completed if run]
        assert isinstance(self._trainer, TakesTurns)
        folders = {e.id: self._folder.run_folder(e.id) for e in mine}
        self._turns = self._trainer.in_turns(mine, folders, self._watcher, together=self._together)
        if self._turns is None:
            self._set_aside()
        return []

    def _ended(self, run: Run) -> Run:
        self._leave(run)
        self._watcher.finished(run)
        return run

    def _let_go(self, run: Run) -> Run:
        """One that another process has ended."""
        self._leave(run)
        self._watcher.found(run)
        return run

    def _leave(self, run: Run) -> None:
        self.rest = tuple(e for e in self.rest if e.id != run.id)
        lock = self._locks.pop(run.id, None)
        if not self._locks:
            self.drop()
        if lock is not None:
            lock.release()

    def drop(self) -> None:
        """Give back the device and the locks; what is on disk stays."""
        if self._turns is not None:
            self._turns.drop()
            self._turns = None
        for lock in self._locks.values():
            lock.release()
        self._locks = {}
