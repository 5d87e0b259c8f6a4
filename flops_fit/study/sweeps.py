"""Plan and train: the same for both faces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import PlanError, StudyError
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.proposal import Bounds, Proposal
from flops_fit.plan.run import Run
from flops_fit.plan.trunks import chains, flops_to_train
from flops_fit.report.screen import SweepProgress, say
from flops_fit.settings import PartSettings, SweepSettings, declared
from flops_fit.store.execution import Patience, begun_with_longest, train_plan
from flops_fit.store.folder import StudyFolder, missing_beside
from flops_fit.store.protocols import Logger, Prepared, Spec, Trainer, Watcher
from flops_fit.store.sharing import check_file_system, present
from flops_fit.study.estimates import (
    Estimate,
    estimate_elsewhere,
    estimate_here,
    notes_on_memory,
)
from flops_fit.study.fits import FittedStudy, Fitting, Tell, fit_trained
from flops_fit.study.logged import GuardedLog, LoggedWatcher, log_answer, opened

if TYPE_CHECKING:
    from flops_fit.store.execution import Execute
    from flops_fit.study.machine import Machine
    from flops_fit.training.hardware import Hardware

SOURCE_WARNING = (
    "the code of {} has changed since this study's first training; finished runs keep the old "
    "code's losses: name another study to train all of them anew"
)


A_NIGHT = 8 * 3600.0
"""Seconds that proposed budgets may take, where any do."""


@dataclass(frozen=True)
class Planned:
    """A plan that was written, and what its training takes."""

    plan: Plan
    path: Path
    estimate: Estimate
    trains_with: str


def plan_study(
    spec: Spec, folder: StudyFolder, settings: SweepSettings, hardware: Hardware | None = None
) -> Planned:
    """Plans, writes plan.json, and puts it in force where the study has no runs yet.

    Estimates the training here, or on the `hardware`.
    """
    prepared = spec.prepare(folder)
    plan = prepared.plan
    path = folder.write_plan(plan)
    if not folder.has_runs:
        folder.put_in_force(plan)
    estimate = estimated(prepared, folder, settings, hardware)
    return Planned(plan, path / "plan.json", estimate, prepared.trains_with)


@dataclass(frozen=True)
class Proposed:
    """Budgets that data and sizes carry, and what their training takes. Nothing was written."""

    proposal: Proposal
    estimate: Estimate

    @property
    def budgets(self) -> tuple[float, ...]:
        """FLOPs."""
        return self.proposal.budgets

    @property
    def plan(self) -> Plan:
        """The runs that they would train."""
        return self.proposal.plan

    @property
    def arguments(self) -> dict[str, Any]:
        """What `find_optimal` is to be given: the budgets, and what has to change for them."""
        return {"compute_budgets": list(self.budgets), **self.proposal.changes}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the changes mean, and what to know of the plan and its estimate."""
        return (*self.proposal.notes, *self.plan.notes, *self.estimate.notes)

    def __str__(self) -> str:
        return ", ".join(filter(None, (*self.proposal.overrides, self.estimate.duration)))


def propose_study(
    spec: Spec, folder: StudyFolder, settings: SweepSettings, hardware: Hardware | None = None
) -> Proposed:
    """Budgets for a study without; where these take longer than a night or more memory than there
    is, others that don't, if there are. Raises `PlanError` where nothing is carried.
    """
    found = _proposed(spec, folder, settings, hardware)
    bounds = _bounds(found)
    if bounds == Bounds():
        return found
    try:
        return _proposed(spec, folder, settings, hardware, bounds)
    except PlanError:
        return found


def _proposed(
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    hardware: Hardware | None,
    bounds: Bounds | None = None,
) -> Proposed:
    with_budgets, proposal = spec.proposed(bounds)
    prepared = with_budgets.prepare(folder)
    return Proposed(proposal, estimated(prepared, folder, settings, hardware))


def _bounds(found: Proposed) -> Bounds:
    """What a proposal has to keep within, where it takes too long or too much memory."""
    seconds, flops = found.estimate.seconds, math.inf
    if seconds is not None and seconds > A_NIGHT:
        flops = found.proposal.plan.total_flops * A_NIGHT / seconds
    too_large = [m.num_params - 1.0 for m in found.estimate.memory if not m.fits]
    return Bounds(flops, min(too_large, default=math.inf))


def estimated(
    prepared: Prepared, folder: StudyFolder, settings: SweepSettings, hardware: Hardware | None
) -> Estimate:
    """What training takes here, or on the `hardware`."""
    from flops_fit.study.machine import machine_of

    if hardware is not None:
        return estimate_elsewhere(prepared, hardware, settings)
    machine = machine_of(prepared, len(prepared.plan), folder, settings)
    return estimate_here(prepared, machine, folder)


def train_study(
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    how: Fitting,
    *,
    logger: Logger | None = None,
    tell: Tell = say,
    warn: Tell | None = None,
) -> FittedStudy:
    """Plans, trains what is missing, fits. `warn` says what `tell` would say as a warning.

    One of several processes that share the sweep waits for what the others are at.
    """
    with opened(logger, folder) as log:
        sweep, runs = _trained(spec, folder, settings, tell, warn, log)
        tell_of_other_lengths(runs, tell)
        study = fit_trained(sweep.plan, runs, folder, how, spec)
        log_answer(log, study)
    return replace(study, num_trained=len(sweep.todo))


def train_share(
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    *,
    logger: Logger | None = None,
    tell: Tell = say,
) -> list[Run]:
    """Plans and trains what no other process is at; returns what is on disk of the plan's runs when
    nothing is left that it could take."""
    with opened(logger, folder) as log:
        _, runs = _trained(spec, folder, settings, tell, None, log, waits=False)
    return runs


def _trained(
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    tell: Tell,
    warn: Tell | None,
    log: GuardedLog | None,
    *,
    waits: bool = True,
) -> tuple[Decided, list[Run]]:
    """What was decided, and what is on disk of the plan's runs when it has been trained here."""
    from flops_fit.study.machine import started_by

    with ExitStack() as stack:
        launcher, num_started = started_by()
        if settings.of:
            check_file_system(folder.path)
            stack.enter_context(present(folder.path))
        elif num_started > 1:
            tell(
                f"note: {launcher} has started {num_started} of this: to share the sweep give "
                "each rank= and of=, see docs/fleet.md; for several GPUs in one run start "
                "flops-fit once, with gpus_per_run"
            )
        sweep = decided(spec, folder, settings, tell, warn)
        going = launched(sweep.todo, spec, sweep.tuned, folder, settings, log)
        execute, watcher = stack.enter_context(going)
        if settings.of:
            device = "cuda" if sweep.tuned.machine.gpus else "cpu"
            execute = begun_with_longest(execute, device)
        runs = train_plan(sweep.plan, folder, execute, watcher, retried(settings), waits=waits)
    return sweep, runs


@dataclass(frozen=True)
class Decided:
    """A plan, what is to be trained of it, and with what; all that the study pins is pinned."""

    plan: Plan
    todo: Sequence[Experiment]
    tuned: Tuned


def decided(
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    tell: Tell = say,
    warn: Tell | None = None,
) -> Decided:
    """Plan, and decide what is not decided yet: one process at a time."""
    with deciding(spec, folder) as prepared:
        for said in pin_sources(spec, folder):
            if warn is None:
                tell(f"warning: {said}")
            else:
                warn(said)
        todo = to_train(prepared, folder, settings, tell)
        return Decided(prepared.plan, todo, tuned_here(todo, prepared, folder, settings))


@contextmanager
def deciding(spec: Spec, folder: StudyFolder) -> Iterator[Prepared]:
    """Inside, with the plan by all that is pinned, no other process decides for the study."""
    known = folder.pinned()
    prepared = spec.prepare(folder)
    with folder.deciding():
        yield prepared if folder.pinned() == known else spec.prepare(folder)


def to_train(
    prepared: Prepared, folder: StudyFolder, settings: SweepSettings, tell: Tell
) -> list[Experiment]:
    """What is missing of the plan; its notes are told, files that can't be read, and how much."""
    plan = prepared.plan
    runs, problems = folder.runs_of(plan)
    todo = missing_beside(runs, plan, retried(settings))
    for note in plan.notes:
        tell(f"note: {note}")
    for problem in problems:
        tell(f"warning: {problem}: this run is trained again")
    tell(f"{plan}: +{len(todo)} new, {len(plan) - len(todo)} completed already")
    if todo and prepared.trains_with:
        tell(f"trains with {prepared.trains_with}")
    return todo


def retried(settings: SweepSettings) -> list[str]:
    """Statuses of runs that are tried once more, beside failed ones."""
    return [settings.retry] if settings.retry else []


def spec_of(study: FittedStudy) -> tuple[Spec, SweepSettings]:
    """What the study is made of: as it was trained just now, else by the settings in its plan.

    Raises `StudyError` where these name anything but classes that come with flops-fit: a plan is
    data and runs no code.
    """
    from flops_fit.building.from_config import build_spec
    from flops_fit.building.node import foreign_targets

    if study.plan is None:
        raise StudyError(
            f"{study.folder.path} was fitted from a table of runs: there is nothing to train"
        )
    settings = study.plan.settings
    if study.spec is not None and settings is not None:
        return study.spec, settings
    if settings is None or not (settings.model or settings.trainer):
        raise StudyError(
            f"{study.folder.path} was trained from Python objects: call find_optimal again, which "
            "trains nothing anew, and verify the study that it returns"
        )
    parts = {s.name: getattr(settings, s.name) for s in declared(PartSettings)}
    foreign = sorted(set(foreign_targets(parts)))
    if settings.trainer or foreign:
        named = ", ".join(foreign) or "a command"
        raise StudyError(
            f"{study.folder.path} was trained with {named}, and plan.json runs no code: use "
            "`flops-fit verify` with the settings of its `train`"
        )
    return build_spec(settings, {}), settings


@dataclass(frozen=True)
class Tuned:
    """What trains here, with all that the study pins, and what of the machine it uses."""

    trainer: Trainer
    machine: Machine


def tuned_here(
    todo: Sequence[Experiment], prepared: Prepared, folder: StudyFolder, settings: SweepSettings
) -> Tuned:
    """The trainer as fast as may be here; its choices are pinned where there is anything to do."""
    from flops_fit.study.machine import machine_of

    machine = machine_of(prepared, len(todo), folder, settings)
    trainer = prepared.trainer
    if todo:
        for note in notes_on_memory(trainer, todo, machine):
            say(f"note: {note}")
        if prepared.device is not None and "kernels" not in folder.pinned():
            say("trying which kernels are fastest here ..")
        trainer = trainer.tuned(prepared.plan, machine.threads, folder.pinned())
        folder.pin({**machine.pins, **trainer.pins})
    return Tuned(trainer, machine)


@contextmanager
def launched(
    todo: Sequence[Experiment],
    spec: Spec,
    tuned: Tuned,
    folder: StudyFolder,
    settings: SweepSettings,
    log: GuardedLog | None = None,
) -> Iterator[tuple[Execute, Watcher]]:
    """What trains `todo` here, with its progress on screen and in the log, and signals caught."""
    from flops_fit.study.machine import executor, stop_on_signals

    flops = math.fsum(map(flops_to_train, chains(todo)))
    progress = SweepProgress(flops, len(todo), has_bar=not settings.rank)
    patience = Patience(settings.fail_fast)
    running = executor(spec, tuned.trainer, folder, tuned.machine, patience)
    watcher = progress if log is None else LoggedWatcher(progress, log, folder)
    with progress, stop_on_signals(progress), running as execute:
        yield execute, watcher


def pin_sources(spec: Spec, folder: StudyFolder) -> list[str]:
    """Remember the code that the study is trained with; returns a warning of each change to it.

    Ids know names and arguments, not code, so that a new comment makes no run worthless.
    """
    pinned = folder.pinned()
    sources = {f"source of {name}": code for name, code in spec.sources.items()}
    folder.pin(sources)
    return [
        SOURCE_WARNING.format(key.removeprefix("source of "))
        for key, code in sources.items()
        if pinned.get(key, code) != code
    ]


def tell_of_other_lengths(runs: Sequence[Run], tell: Callable[[str], None]) -> None:
    """Runs that trained more or fewer tokens than planned, by more than a step."""
    for run in runs:
        planned, step = run.planned_tokens, run.batch_tokens
        if run.is_completed and planned and step and abs(run.num_tokens - planned) > step:
            tell(
                f"warning: {run.id} trained {run.num_tokens:,.0f} tokens, {planned:,.0f} were "
                "planned: the law is fitted to what was trained"
            )
