"""A study ready to be trained, whatever it is that trains its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from flops_fit.experiments import Plan
from flops_fit.planning import Family, Sweep
from flops_fit.prediction import Prediction
from flops_fit.runs import StudyFolder
from flops_fit.trainers import Trainer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prepared:
    """The plan of a study and what trains it. Nothing has been written yet."""

    plan: Plan
    trainer: Trainer
    device: torch.device | None  # None: the trainer's own affair


class Spec(Protocol):
    """What a study is made of: of torch objects, or of a command."""

    @property
    def sources(self) -> Mapping[str, str]:
        """Names of the user's classes and functions -> hashes of their code."""

    def prepare(self, folder: StudyFolder) -> Prepared:
        """Its plan and trainer. Raises `ConfigError` and `PlanError` for what can't be."""

    def pinned_trainer(self, folder: StudyFolder) -> Trainer:
        """Its trainer, built without planning from what the study has pinned."""

    def for_optimum(self, prediction: Prediction) -> Spec:
        """The same with one experiment: the size nearest to the predicted optimum."""


class MeasuredFamily(Family, Protocol):
    """A family that knows whether its members say themselves what a token costs."""

    @property
    def declares_flops(self) -> bool: ...


def optimum_sweep(sweep: Sweep, prediction: Prediction) -> Sweep:
    """The sweep's one experiment at the predicted optimum."""
    return replace(
        sweep,
        budgets=(prediction.budget,),
        sizes=None,
        num_sizes=1,
        seeds=1,
        center=prediction.tokens_per_param,
    )
