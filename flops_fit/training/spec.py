"""What a study of torch models is made of, and its plan."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch

from flops_fit.datasets.adapters import FixedBatchSource
from flops_fit.datasets.source import HasNotes, Source
from flops_fit.errors import ConfigError
from flops_fit.files import within
from flops_fit.laws.prediction import Prediction
from flops_fit.learning.schedules import Schedule
from flops_fit.plan.experiment import Plan
from flops_fit.plan.flops import CountedFlops, FlopCount, FormulaFlops
from flops_fit.plan.ids import with_ids
from flops_fit.plan.proposal import Bounds, Proposal, planned_or_instead, propose
from flops_fit.plan.sweep import (
    DataShape,
    Sweep,
    held_out_samples,
    note_on_trunks,
    optimum_sweep,
)
from flops_fit.settings import MachineSettings, SweepSettings
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import MeasuredFamily, Prepared, Spec, Trainer
from flops_fit.training.checks import check_fit, check_sizes
from flops_fit.training.devices import choose_device, choose_precision
from flops_fit.training.family import LossFunction, ModelFactory, ModelFamily, SizeSpec
from flops_fit.training.in_words import trains_with
from flops_fit.training.kernels import KernelPlan
from flops_fit.training.own_loss import with_labels
from flops_fit.training.portion_trial import portions_of
from flops_fit.training.portions import Portions, Said
from flops_fit.training.recipe import Metric, OptimizerFactory, Recipe
from flops_fit.training.state import Trunks
from flops_fit.training.trainer import TorchTrainer

HALF_GAINS_FLOPS = 1e9
"""FLOPs of a step up to which a GPU gains nothing by products of 16 bits: their arithmetic takes a
microsecond, and every cast a kernel of its own."""


@dataclass(frozen=True)
class StudySpec:
    """Everything a study is made of, as objects.

    `identity` names, as plain values, what of them decides a run's result; `hints` say where each
    config group is set, for error messages; `settings` are kept with the plan; `sources` maps names
    of classes and functions to hashes of their code. `remade` makes it anew in a worker process;
    None: it is sent there as it is.
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
    device: str = MachineSettings.device
    precision: str = MachineSettings.precision
    held_out_samples: int | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    clip_grad_norm: float | None = None
    micro_batch_size: int | None = None
    checkpoint_seconds: float = MachineSettings.checkpoint_seconds
    compile_above: float | Literal["auto"] | None = MachineSettings.compile_above  # FLOPs
    cuda_graphs: bool = MachineSettings.cuda_graphs
    together: bool = MachineSettings.together
    kernels: KernelPlan | None = None  # None: the fastest here, by trial
    hints: Mapping[str, str] = field(default_factory=dict)
    settings: SweepSettings | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    remade: Callable[[], Spec] | None = None
    portions: Portions | None = None  # None: found out by a trial
    auto_precision: str | None = None  # of another device, for which is planned; None: of this one

    def in_worker(self, trainer: Trainer | None = None) -> Callable[[], Spec]:
        found = trainer.recipe.portions if isinstance(trainer, TorchTrainer) else None
        if found is None or isinstance(found.weights, Said):  # the user's loss, which stays here
            return self._made_anew()
        return partial(with_portions, self._made_anew(), found)

    def _made_anew(self) -> Callable[[], Spec]:
        if self.remade is not None:
            return self.remade
        try:
            return partial(pickle.loads, pickle.dumps(self))
        except Exception as error:  # whatever a user's class raises
            raise ConfigError(
                f"worker processes can't be given this study ({error}): define model, loss and "
                "data in a module that can be imported, not in a function or at a prompt, or set "
                "workers=1"
            ) from error

    def for_optimum(self, prediction: Prediction) -> StudySpec:
        """The same with one experiment: the size nearest to the predicted optimum."""
        return replace(self, sweep=optimum_sweep(self.sweep, prediction))

    def proposed(self, bounds: Bounds | None = None) -> tuple[StudySpec, Proposal]:
        """The same with budgets that data and sizes carry, within the bounds."""
        recipe = self.recipe(self.device, "fp32", 0)
        check_fit(recipe, self.sweep.batch_size, self.hints)
        found = propose(
            self.sweep,
            recipe.family,
            self.data_shape,
            self.flops or default_flops(recipe.family),
            may_change_batch=not isinstance(self.source, FixedBatchSource),
            bounds=bounds,
        )
        settings = None if self.settings is None else replace(self.settings, **found.settings)
        return replace(self, sweep=found.sweep, settings=settings), found

    @property
    def data_shape(self) -> DataShape:
        return DataShape(self.source.tokens_per_sample, self.source.unique_samples)

    def prepare(self, folder: StudyFolder) -> Prepared:
        """Its plan and trainer, see `plan_study`."""
        plan, recipe = plan_study(self, folder)
        how = trains_with(plan, recipe, self.identity)
        return Prepared(plan, torch_trainer(recipe, folder), recipe.device, how)

    def pinned_trainer(self, folder: StudyFolder) -> TorchTrainer:
        """Its trainer, built without planning from what the study has pinned."""
        pinned = folder.pinned()
        recipe = self.recipe(self.device, pinned["precision"], pinned["held_out_samples"])
        kernels = KernelPlan.from_json(pinned["kernels"])
        together = pinned.get("together", False)
        return torch_trainer(replace(recipe, kernels=kernels, together=together), folder)

    def recipe(self, device: str, precision: str, held_out: int) -> Recipe:
        """What all runs share, with these choices made."""
        source = self.source
        sample = next(source.training_batches(self.sweep.batch_size, seed=self.sweep.seed))
        per_sample, asked = source.tokens_per_sample, self.sweep.sizes
        family = ModelFamily(self.factory, self.size, sample, per_sample, self.loss, asked)
        loss = with_labels(family, self.loss)
        if loss is not self.loss:
            family.use_loss(loss)
        recipe = Recipe(
            family=family,
            source=source,
            loss=loss,
            optimizer=self.optimizer,
            schedule=self.schedule,
            device=choose_device(device),
            precision=precision,
            held_out_samples=held_out,
            metrics=self.metrics,
            clip_grad_norm=self.clip_grad_norm,
            micro_batch_size=self.micro_batch_size,
            checkpoint_seconds=self.checkpoint_seconds,
            compile_above=self.compile_above,
            cuda_graphs=self.cuda_graphs,
            together=self.together,
            kernels=self.kernels,
        )
        return replace(recipe, portions=self.portions or portions_of(recipe))


def with_portions(make: Callable[[], Spec], portions: Portions) -> Spec:
    """The spec of a worker, which need not try again what the parent process has found out."""
    spec = make()
    return replace(spec, portions=portions) if isinstance(spec, StudySpec) else spec


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
    recipe = spec.recipe(spec.device, _precision(precision, device, spec.auto_precision), 0)
    check_fit(recipe, spec.sweep.batch_size, spec.hints)
    flops = spec.flops or default_flops(recipe.family)
    plan = planned_or_instead(spec.sweep, recipe.family, spec.data_shape, flops)
    check_sizes(recipe, plan.experiments, spec.hints)
    if precision == "auto" and all(e.flops_per_step < HALF_GAINS_FLOPS for e in plan.experiments):
        recipe = replace(recipe, precision="fp32")
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
    if isinstance(spec.source, HasNotes):
        plan = replace(plan, notes=(*plan.notes, *spec.source.notes))
    plan = replace(plan, study=folder.path.name, settings=spec.settings)
    decides = {"precision": recipe.precision, "held_out_samples": held_out, **spec.identity}
    if portion_decides(plan, recipe):
        decides["micro_batch_size"] = recipe.micro_batch_size
        plan = replace(plan, notes=(*plan.notes, note_on_portions(recipe)))
    plan = with_ids(plan, decides)
    if spec.sweep.trunks is not None:
        plan = replace(plan, notes=(*plan.notes, note_on_trunks(plan)))
    kept = pinned.get("kernels")
    if spec.kernels is not None and kept not in (None, spec.kernels.to_json()):
        note = f"this study keeps {kept} of its first training: name another to train with others"
        plan = replace(plan, notes=(*plan.notes, f"kernels: {note}"))
    return plan, recipe


def _precision(name: str, device: torch.device, of_other: str | None) -> str:
    """As asked for, where `auto` is what suits the device; of another one, what suits that."""
    if of_other is None:
        return choose_precision(name, device)
    return of_other if name == "auto" else choose_precision(name, torch.device("cuda"))


def portion_decides(plan: Plan, recipe: Recipe) -> bool:
    """Whether runs with portions of this size are other ones than with whole batches."""
    size = recipe.micro_batch_size
    is_split = size is not None and any(size < e.batch_size for e in plan.experiments)
    return is_split and recipe.portions.depends is not None


def note_on_portions(recipe: Recipe) -> str:
    """For `portion_decides`."""
    return (
        f"micro_batch_size={recipe.micro_batch_size} changes the result and so is part of the "
        f"runs' ids: {recipe.portions.depends}"
    )


def torch_trainer(recipe: Recipe, folder: StudyFolder) -> TorchTrainer:
    """What trains the study's runs here."""
    return TorchTrainer(recipe, Trunks(within(folder.path, "trunks")))


def sweep_for(sweep: Sweep, source: Source) -> Sweep:
    """The sweep with the data's own batch size, where it has one. Raises `ConfigError`."""
    if not isinstance(source, FixedBatchSource):
        return sweep
    if sweep.batch_tokens is not None:
        raise ConfigError(
            f"the data come in batches of {source.batch_size}, so no rule can set the batch: "
            "leave out batch_rule, or bring a dataset in place of a DataLoader or stream"
        )
    return replace(sweep, batch_size=source.batch_size)


def default_flops(family: MeasuredFamily) -> FlopCount:
    """As the model says itself, where it does, else the formula."""
    return CountedFlops() if family.declares_flops else FormulaFlops()
