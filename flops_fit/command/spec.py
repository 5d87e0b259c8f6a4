"""What a study of a command is made of, and its plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flops_fit.command.trainer import CommandTrainer
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Plan
from flops_fit.plan.flops import FlopCount
from flops_fit.plan.ids import with_ids
from flops_fit.plan.proposal import Bounds, Proposal, planned_or_instead, propose
from flops_fit.plan.sweep import DataShape, Family, Sweep, optimum_sweep
from flops_fit.settings import SweepSettings
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Prepared, Spec, Trainer


@dataclass(frozen=True)
class CommandSpec:
    """Everything that a study of a command is made of.

    `identity` names what of the command decides a run's result, `notes` are added to the plan's,
    `settings` are kept with it; `sources` maps names of classes to hashes of their code.
    """

    trainer: CommandTrainer
    family: Family
    data: DataShape
    sweep: Sweep
    flops: FlopCount
    identity: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    settings: SweepSettings | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def proposed(self, bounds: Bounds | None = None) -> tuple[CommandSpec, Proposal]:
        found = propose(self.sweep, self.family, self.data, self.flops, bounds=bounds)
        settings = None if self.settings is None else replace(self.settings, **found.settings)
        return replace(self, sweep=found.sweep, settings=settings), found

    def prepare(self, folder: StudyFolder) -> Prepared:
        plan = planned_or_instead(self.sweep, self.family, self.data, self.flops)
        plan = replace(
            plan,
            notes=(*plan.notes, *self.notes),
            study=folder.path.name,
            settings=self.settings,
        )
        self.trainer.check(plan.experiments)
        return Prepared(with_ids_by_size(plan, self.identity), self.trainer, device=None)

    def pinned_trainer(self, folder: StudyFolder) -> Trainer:
        return self.trainer

    def in_worker(self, trainer: Trainer | None = None) -> Callable[[], Spec]:
        return partial(_itself, self)

    def for_optimum(self, prediction: Prediction) -> CommandSpec:
        return replace(self, sweep=optimum_sweep(self.sweep, prediction))


def with_ids_by_size(plan: Plan, identity: Mapping[str, Any]) -> Plan:
    """Ids that know N as well: here it is the user's word, not what a model's class counts."""
    of_one = (
        with_ids(replace(plan, experiments=(e,)), {**identity, "num_params": e.num_params})
        for e in plan.experiments
    )
    return replace(plan, experiments=tuple(e for one in of_one for e in one.experiments))


def _itself(spec: Spec) -> Spec:
    return spec
