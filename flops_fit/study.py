"""The study: plan a sweep, train what is missing of it, fit what is there.

Both faces, the command line and `find_optimal`, bring a `StudySpec` and do the same things here.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from filelock import Timeout

from flops_fit.checks import check_fit
from flops_fit.datasets.adapters import FixedBatchSource
from flops_fit.datasets.source import Source
from flops_fit.devices import choose_device, choose_precision
from flops_fit.errors import ConfigError, StudyError, UserError
from flops_fit.experiments import Experiment, Plan
from flops_fit.fitting import (
    FitError,
    IsoflopFit,
    ScalingLaw,
    SurfaceFit,
    fit_runs,
    is_fit_of,
)
from flops_fit.flop_counts import CountedFlops, FlopCount, FormulaFlops
from flops_fit.identity import with_ids
from flops_fit.laws import FlopRule
from flops_fit.planning import DataShape, Sweep, held_out_samples, plan_sweep
from flops_fit.prediction import Prediction
from flops_fit.runs import Run, StudyFolder, ended_run
from flops_fit.schedules import Schedule
from flops_fit.sizing import LossFunction, ModelFactory, ModelFamily, SizeSpec
from flops_fit.training import OptimizerFactory, Recipe, Watcher, train

POLL_SECONDS = 1.0
"""Between looks at runs that another process is training."""

Execute = Callable[[Sequence[Experiment], Watcher], list[Run]]
"""Trains experiments, here or in other processes; returns the runs that came to an end."""


@dataclass(frozen=True)
class StudySpec:
    """Everything a study is made of, as objects.

    `identity` names, as plain values, what of them decides a run's result; `hint` says where they
    are configured, for error messages; `settings` is the config to be kept with the plan;
    `sources` maps names of classes and functions to hashes of their code.
    """

    factory: ModelFactory
    size: SizeSpec
    source: Source
    loss: LossFunction
    optimizer: OptimizerFactory
    schedule: Schedule
    sweep: Sweep
    identity: Mapping[str, Any]
    flops: FlopCount | None = None  # None: as the model declares, else 6ND
    device: str = "auto"
    precision: str = "auto"
    held_out_samples: int | None = None
    hint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def for_optimum(self, prediction: Prediction) -> StudySpec:
        """The same with one experiment: the size nearest to the predicted optimum."""
        one = replace(
            self.sweep,
            budgets=(prediction.budget,),
            sizes=None,
            num_sizes=1,
            center=prediction.tokens_per_param,
        )
        return replace(self, sweep=one)

    def recipe(self, device: str, precision: str, held_out: int) -> Recipe:
        """What all runs share, with these choices made."""
        source = self.source
        sample = next(source.training_batches(self.sweep.batch_size, seed=self.sweep.seed))
        return Recipe(
            family=ModelFamily(
                self.factory, self.size, sample, source.tokens_per_sample, self.loss
            ),
            source=source,
            loss=self.loss,
            optimizer=self.optimizer,
            schedule=self.schedule,
            device=choose_device(device),
            precision=precision,
            held_out_samples=held_out,
        )


def plan_study(spec: StudySpec, folder: StudyFolder) -> tuple[Plan, Recipe]:
    """The plan of the study and the recipe its runs share. Writes nothing.

    What the study's first training has pinned holds. Raises `ConfigError` where model, dataset
    and loss don't fit each other, and `PlanError`.
    """
    pinned = folder.pinned()
    device = choose_device(spec.device)
    precision = spec.precision
    if precision == "auto":
        precision = pinned.get("precision", "auto")
    recipe = spec.recipe(spec.device, choose_precision(precision, device), 0)
    check_fit(recipe, spec.sweep.batch_size, spec.hint)
    plan = plan_sweep(
        spec.sweep,
        recipe.family,
        DataShape(spec.source.tokens_per_sample, spec.source.unique_samples),
        spec.flops or default_flops(recipe.family),
    )
    held_out = (
        spec.held_out_samples
        or pinned.get("held_out_samples")
        or held_out_samples(plan, spec.source.held_out_samples)
    )
    available = spec.source.held_out_samples
    if available is not None and held_out > available:
        raise ConfigError(
            f"held_out_samples is {held_out:,}, the data hold out {available:,}: ask for fewer, "
            "hold out more, or name another study"
        )
    recipe = replace(recipe, held_out_samples=held_out)
    plan = replace(plan, study=folder.path.name, settings=spec.settings)
    decides = {"precision": recipe.precision, "held_out_samples": held_out, **spec.identity}
    return with_ids(plan, decides), recipe


def pin_sources(spec: StudySpec, folder: StudyFolder) -> list[str]:
    """Remember the code that the study is trained with; returns the names whose code has changed.

    Ids know names and arguments, not code, so that a new comment makes no run worthless.
    """
    pinned = folder.pinned()
    sources = {f"source of {name}": code for name, code in spec.sources.items()}
    folder.pin(sources)
    return [
        key.removeprefix("source of ")
        for key, code in sources.items()
        if pinned.get(key, code) != code
    ]


SOURCE_WARNING = (
    "the code of {} has changed since this study's first training; finished runs keep the old "
    "code's losses: name another study to train all of them anew"
)


def sweep_for(sweep: Sweep, source: Source) -> Sweep:
    """The sweep with the data's own batch size, where it has one."""
    if isinstance(source, FixedBatchSource):
        return replace(sweep, batch_size=source.batch_size)
    return sweep


def default_flops(family: ModelFamily) -> FlopCount:
    """As the model says itself, where it does, else the formula."""
    return CountedFlops() if family.declares_flops else FormulaFlops()


def train_plan(
    plan: Plan,
    recipe: Recipe,
    folder: StudyFolder,
    execute: Execute,
    watcher: Watcher,
    retry: Sequence[str] = (),
) -> list[Run]:
    """Train what is missing of the plan and make it the one in force; returns all its runs."""
    folder.write_plan(plan)
    folder.put_in_force(plan)
    return train_missing(plan, recipe, folder, execute, watcher, retry)


def train_missing(
    plan: Plan,
    recipe: Recipe,
    folder: StudyFolder,
    execute: Execute,
    watcher: Watcher,
    retry: Sequence[str] = (),
) -> list[Run]:
    """Train what is missing of the plan; returns all its runs.

    Runs that another process is training are waited for. Failed ones are tried once.
    """
    folder.pin({"precision": recipe.precision, "held_out_samples": recipe.held_out_samples})
    tried: set[str] = set()
    while todo := [e for e in folder.missing(plan, retry) if e.id not in tried]:
        free = [e for e in todo if not folder.is_locked(e.id)]
        if free:
            tried |= {run.id for run in execute(free, watcher)}
        elif watcher.stop_requested:
            raise KeyboardInterrupt
        else:
            time.sleep(POLL_SECONDS)
    runs, _ = folder.runs_of(plan)
    return runs


def train_one(
    experiment: Experiment,
    recipe: Recipe,
    folder: StudyFolder,
    watcher: Watcher,
) -> Run | None:
    """Train the experiment and write its result; None where another process is at it.

    What another process has finished is returned as it is. An exception in the model's, the
    data's or the loss's code makes a failed run, with its traceback in error.txt.
    """
    try:
        with folder.lock(experiment.id).acquire(timeout=0):
            finished = folder.finished_run(experiment.id)  # by another process, meanwhile
            run = finished or _trained(experiment, recipe, folder, watcher)
    except Timeout:
        return None
    watcher.finished(run)
    return run


def _trained(experiment: Experiment, recipe: Recipe, folder: StudyFolder, watcher: Watcher) -> Run:
    """Train the experiment, whatever result is on disk, and write its own."""
    run_folder = folder.run_folder(experiment.id)
    try:
        run = train(experiment, recipe, run_folder, watcher)
    except Exception as error:  # the sweep goes on, whatever a user's code raises
        (run_folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        run = ended_run(experiment, "failed", f"{type(error).__name__}: {error}")
        folder.write_run(run)
        return run
    folder.write_run(run)
    for leftover in ("error.txt", "checkpoint.pt"):
        (run_folder / leftover).unlink(missing_ok=True)
    return run


@dataclass(frozen=True)
class Inline:
    """Trains in this process, one experiment after the other."""

    recipe: Recipe
    folder: StudyFolder

    def __call__(self, experiments: Sequence[Experiment], watcher: Watcher) -> list[Run]:
        ended = (train_one(e, self.recipe, self.folder, watcher) for e in experiments)
        return [run for run in ended if run is not None]


@dataclass(frozen=True)
class Study:
    """A plan with what was trained of it and the law that follows.

    Iterates over the runs, in the plan's order. `law` is None where nothing trustworthy can be
    fitted; `refusal` says why.
    """

    plan: Plan
    runs: tuple[Run, ...]
    law: ScalingLaw | None
    refusal: str | None
    folder: StudyFolder

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def predict(self, budget: float) -> Prediction:
        """The compute-optimal run at `budget` FLOPs. Raises `StudyError` without a law."""
        if self.law is None:
            raise StudyError(f"no law to predict with: {self.refusal}")
        return self.law.predict(budget)


def fit_study(
    plan: Plan,
    runs: Sequence[Run],
    folder: StudyFolder,
    answer: IsoflopFit | SurfaceFit | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Study:
    """Fit the plan's runs and keep law.json beside plan.json; a law that is there is kept."""
    answer_folder = folder.plan_folder(plan)
    how: FitArguments = {
        "flop_rule": plan.flop_rule,
        "answer": answer or SurfaceFit(),
        "draws": draws,
        "seed": seed,
    }
    try:
        law = law_on_disk(answer_folder)
        if law is None or not is_fit_of(law, runs, **how):
            law = fit_runs(runs, **how)
            law.save(answer_folder)
    except FitError as error:
        return Study(plan, tuple(runs), None, str(error), folder)
    return Study(plan, tuple(runs), law, None, folder)


class FitArguments(TypedDict):
    """How a study is fitted: the arguments of `fit_runs` beside the runs."""

    flop_rule: FlopRule
    answer: IsoflopFit | SurfaceFit
    draws: int
    seed: int


def law_on_disk(answer_folder: Path) -> ScalingLaw | None:
    """The law that was fitted before; None where there is none that can be read."""
    try:
        return ScalingLaw.load(answer_folder)
    except (FileNotFoundError, UserError):
        return None
