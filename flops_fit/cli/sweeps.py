"""The verbs that compose a sweep: `plan` and `train`. Each returns the exit code."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.answers.verification import Verification
from flops_fit.building.node import Part, origins
from flops_fit.cli.answers import read_law
from flops_fit.cli.dispatch import OK, SOME_FAILED
from flops_fit.command import CHANGE_NO_RESULT, FOR_THE_PLAN
from flops_fit.errors import ConfigError
from flops_fit.files import write_json
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status
from flops_fit.plan.trunks import chains, flops_to_train
from flops_fit.report import tables
from flops_fit.report.printing import print_json, print_law
from flops_fit.report.screen import SweepProgress, duration, results, say
from flops_fit.store.folder import StudyFolder

if TYPE_CHECKING:
    from flops_fit.store.execution import Execute
    from flops_fit.store.protocols import Prepared
    from flops_fit.study.machine import Machine
    from flops_fit.study.study import Study

Config = Mapping[str, Any]

LONG_SECONDS = 86400.0
"""A sweep that takes longer than this here is warned about."""

VARIANTS: list[tables.Variant] = []
"""Of a multirun in this process, one per job; Hydra has no way to hand them back."""


def plan(config: Config) -> int:
    """Plan, show, and write plan.json."""
    from flops_fit.building.spec import build_spec

    folder = study_folder(config)
    prepared = build_spec(config, origins()).prepare(folder)
    planned = prepared.plan
    path = folder.write_plan(planned)
    if not folder.has_runs:
        folder.put_in_force(planned)
    if config["json"]:
        print_json(planned.to_json())
    else:
        results().print(tables.plan_table(planned))
        results().print(str(planned), markup=False)
    show_notes(planned)
    machine = machine_of(prepared, len(planned), folder, config)
    show_duration(prepared, machine, folder.pinned())
    say(f"plan: {path / 'plan.json'}")
    return OK


def train(config: Config) -> int:
    """Plan, train what is missing, fit, and show the answer."""
    from flops_fit.building.spec import build_spec
    from flops_fit.store.execution import train_plan
    from flops_fit.study.study import SOURCE_WARNING, fit_study, pin_sources

    folder = study_folder(config)
    spec = build_spec(config, origins())
    prepared = spec.prepare(folder)
    planned = prepared.plan
    for changed in pin_sources(spec, folder):
        say(f"warning: {SOURCE_WARNING.format(changed)}")
    retry = [config["retry"]] if config["retry"] else []
    todo = folder.missing(planned, retry)
    show_what_is_there(planned, folder, len(todo))
    with launched(todo, prepared, folder, config) as (execute, progress):
        runs = train_plan(planned, folder, execute, progress, retry)
    show_other_lengths(runs)
    answer = Part("fit", config["fit"], origins()["fit"]).build()
    study = fit_study(planned, runs, folder, answer, config["draws"], config["seed"])
    if is_multirun():
        VARIANTS.append(variant(study, len(todo)))
    show_study(study, config)
    return SOME_FAILED if any(run.status == Status.FAILED for run in runs) else OK


def verify(config: Config) -> int:
    """Train the optimum predicted for a budget; show predicted against measured loss."""
    from flops_fit.building.spec import build_spec
    from flops_fit.store.execution import train_missing

    folder = study_folder(config)
    check_same_settings(config, folder)
    prediction = read_law(folder).predict(target_of(config))
    prepared = build_spec(config, origins()).for_optimum(prediction).prepare(folder)
    planned = prepared.plan
    todo = folder.missing(planned)
    show_what_is_there(planned, folder, len(todo))
    with launched(todo, prepared, folder, config) as (execute, progress):
        (run,) = train_missing(planned, folder, execute, progress)
    if run.loss is None:
        say(f"error: {run.id} {run.status}: {run.error}")
        return SOME_FAILED
    verification = Verification.of(prediction, run)
    path = folder.latest_plan_folder() / "verifications" / f"{run.id}.json"
    write_json(path, verification.to_json())
    if config["json"]:
        print_json(verification.to_json())
    else:
        results().print(tables.verification_line(verification), markup=False, soft_wrap=True)
    say(f"verification: {path}")
    return OK


def target_of(config: Config) -> float:
    """FLOPs to verify at. Raises `ConfigError` without any."""
    if config["target"] is None:
        raise ConfigError("verify needs a budget to train at, such as budget=1e13 (FLOPs)")
    return float(config["target"])


DECIDING = ("model", "dataset", "loss", "optimizer", "schedule", "batch_size", "flops", "seed")
"""Settings in which a verification must agree with the study it verifies, as in its trainer."""


def check_same_settings(config: Config, folder: StudyFolder) -> None:
    """Raises `ConfigError` where the study in the folder was trained with other settings."""
    trained, ours = deciding(folder.read_plan().settings), deciding(config)
    differ = [name for name in ours if trained[name] != ours[name]]
    if differ:
        raise ConfigError(
            f"{folder.path} was trained with other settings for {', '.join(differ)}: give the same "
            f"as in its `train`, found in {folder.latest_plan_folder() / 'plan.json'}"
        )


def deciding(config: Config) -> Config:
    """What of the settings decides a run's result."""
    trainer = config.get("trainer") or {}
    settings = {name: config.get(name) for name in DECIDING}
    free = (*CHANGE_NO_RESULT, *FOR_THE_PLAN)
    return {**settings, "trainer": {k: v for k, v in trainer.items() if k not in free}}


@contextmanager
def launched(
    todo: Sequence[Experiment], prepared: Prepared, folder: StudyFolder, config: Config
) -> Iterator[tuple[Execute, SweepProgress]]:
    """What trains `todo` here, with its progress on screen and signals caught."""
    from flops_fit.study.machine import executor, stop_on_signals

    machine = machine_of(prepared, len(todo), folder, config)
    trainer = prepared.trainer
    if todo:
        trainer = trainer.tuned(prepared.plan, machine.threads, folder.pinned())
        folder.pin({"threads": machine.threads, **trainer.pins})
    progress = SweepProgress(math.fsum(map(flops_to_train, chains(todo))), len(todo))
    with progress, stop_on_signals(progress):
        yield executor(config, origins(), trainer, folder, machine), progress


def machine_of(prepared: Prepared, num_runs: int, folder: StudyFolder, config: Config) -> Machine:
    """What the sweep may use; a single run at a time takes as many threads as it gains by."""
    from flops_fit.study.machine import machine_for

    pinned = folder.pinned()
    machine = machine_for(config, prepared.device, num_runs, pinned)
    if num_runs == 0 or machine.workers > 1 or config["threads"] or "threads" in pinned:
        return machine
    return replace(machine, threads=prepared.trainer.threads(prepared.plan, machine.threads))


def study_folder(config: Config) -> StudyFolder:
    return StudyFolder(Path(config["output_root"]) / config["study"])


def show_notes(planned: Plan) -> None:
    for note in planned.notes:
        say(f"note: {note}")


def show_duration(prepared: Prepared, machine: Machine, pinned: Config) -> None:
    """How long our own training would take; nobody can say of a command."""
    from flops_fit.training.timing import estimated_seconds
    from flops_fit.training.trainer import TorchTrainer

    trainer = prepared.trainer.tuned(prepared.plan, machine.threads, pinned)
    if not isinstance(trainer, TorchTrainer):
        return
    recipe = trainer.recipe
    seconds = estimated_seconds(prepared.plan, recipe, machine.workers, machine.threads)
    warning = "warning: " if seconds > LONG_SECONDS else ""
    at_once = f"{recipe.device}, {machine.workers} at once"
    say(f"{warning}about {duration(seconds)} here ({at_once})")


def show_what_is_there(planned: Plan, folder: StudyFolder, num_todo: int) -> None:
    show_notes(planned)
    for problem in folder.runs_of(planned)[1]:
        say(f"warning: {problem}: this run is trained again")
    say(f"{planned}: +{num_todo} new, {len(planned) - num_todo} completed already")


def show_other_lengths(runs: Sequence[Run]) -> None:
    """Runs that trained more or fewer tokens than planned, by more than a step."""
    for run in runs:
        planned, step = run.planned_tokens, run.batch_tokens
        if run.is_completed and planned and step and abs(run.num_tokens - planned) > step:
            say(
                f"warning: {run.id} trained {run.num_tokens:,.0f} tokens, {planned:,.0f} were "
                "planned: the law is fitted to what was trained"
            )


def show_study(study: Study, config: Config) -> None:
    """The answer of a sweep that was trained: law, figures, files."""
    from flops_fit.report.files import is_current, write_report

    for run in study:
        if run.status != Status.COMPLETED:
            say(f"warning: {run.id} {run.status}: {run.error}")
    if study.law is None:
        say(str(study.refusal))
        if config["json"]:
            print_json({"answer": None, "refusal": study.refusal})
        return
    answer_folder = study.folder.plan_folder(study.plan)
    if not is_current(answer_folder):
        write_report(study.runs, study.law, answer_folder)
    if config["json"]:
        print_json(study.law.to_json())
    else:
        print_law(study.law)
    say(f"law, runs.csv and figures: {answer_folder}")


def is_multirun() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.get().mode is RunMode.MULTIRUN)


def variant(study: Study, num_trained: int) -> tables.Variant:
    from hydra.core.hydra_config import HydraConfig

    losses = [run.loss for run in study if run.loss is not None]
    return tables.Variant(
        overrides=list(HydraConfig.get().overrides.task),
        num_trained=num_trained,
        num_runs=len(study),
        best_loss=min(losses, default=None),
        exponent=tables.exponent(study.law, study.law.answer) if study.law else "",
    )


def print_variants() -> None:
    """After a multirun of `train`: its jobs side by side."""
    if VARIANTS:
        results().print(tables.variants_table(VARIANTS))
        VARIANTS.clear()
