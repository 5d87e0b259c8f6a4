"""The recipe: everything that the runs of a study share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flops_fit.datasets.source import Source
from flops_fit.learning.schedules import Phases, Schedule, progress_of
from flops_fit.plan.experiment import Experiment
from flops_fit.settings import MachineSettings
from flops_fit.training.family import LossFunction, ModelFamily
from flops_fit.training.kernels import DEFAULT, KernelPlan, in_force
from flops_fit.training.portions import Portions
from flops_fit.training.ranks import ALONE, Ranks

OptimizerFactory = Callable[[list[dict[str, Any]]], Optimizer]

Metric = Callable[[Any, Any], Tensor | float]
"""(prediction, target) of a batch -> one number, the mean over it."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> type of the operations that gain by it; fp32 has none."""


@dataclass(frozen=True)
class Recipe:
    """What all runs of a study share.

    `micro_batch_size` (samples) bounds what is in memory at once, not what a step learns from;
    `portions` says how the losses of its parts are weighed.
    """

    family: ModelFamily
    source: Source
    loss: LossFunction
    optimizer: OptimizerFactory
    schedule: Schedule
    device: torch.device
    precision: str  # fp32, bf16 or fp16
    held_out_samples: int = 0
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    clip_grad_norm: float | None = None
    micro_batch_size: int | None = None
    checkpoint_seconds: float = MachineSettings.checkpoint_seconds
    compile_above: float | Literal["auto"] | None = None  # FLOPs of a run, see `compiling`
    cuda_graphs: bool = True  # on CUDA each run's step is captured once and replayed
    together: bool = True  # runs of one size in one batched step, where they gain by it
    kernels: KernelPlan | None = None  # None: not chosen yet
    portions: Portions = field(default_factory=Portions)
    ranks: Ranks = ALONE  # the processes that train each run

    def learning_rate_factor(self, experiment: Experiment) -> Callable[[int], float]:
        """Step (from 0) -> factor on the peak learning rate of its update."""
        e, schedule = experiment, self.schedule
        if e.warmup_steps is not None and e.cooldown_steps is not None:
            return Phases(e.warmup_steps, e.cooldown_steps, e.num_steps)
        return lambda step: schedule(progress_of(step, e.num_steps))

    def kernels_in_force(self) -> AbstractContextManager[None]:
        return in_force(self.kernels or DEFAULT)

    def autocast(self) -> AbstractContextManager[Any]:
        dtype = AUTOCAST.get(self.precision)
        if dtype is None:
            return nullcontext()
        # Each weight is cast once a step anyway, and casts that are kept outlive a CUDA graph.
        keeps_casts = self.device.type != "cuda"
        return torch.autocast(self.device.type, dtype=dtype, cache_enabled=keeps_casts)


@runtime_checkable
class ChoosesAttention(Protocol):
    """A model with several ways of attention on a CPU, which compute the same in different time."""

    def use_attention_kernel(self, name: str) -> None:
        """From now on the one of `flops_fit.training.kernels.ATTENTION`."""


@runtime_checkable
class GroupsParams(Protocol):
    """A model that says how its parameters are to be grouped for the optimizer.

    Each group may have an `lr_scale`, so that one learning rate serves all sizes.
    """

    def param_groups(self) -> list[dict[str, Any]]: ...


def param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The optimizer's groups: as the model has it, else all parameters in one."""
    if isinstance(model, GroupsParams):
        return model.param_groups()
    return [{"params": list(model.parameters())}]


def configured_rate(optimizer: Optimizer, rate: float | None) -> float:
    """The peak rate as people say it, before any `lr_scale`: `rate`, else the optimizer's own."""
    return float(optimizer.param_groups[0]["lr"]) if rate is None else rate


def peak_learning_rates(optimizer: Optimizer, rate: float | None) -> list[float]:
    """The peak rate of each group: its own or the optimizer's rate times the group's `lr_scale`.

    `rate` stands in the place of the first group's rate; the others keep their ratio to it.
    """
    groups = optimizer.param_groups
    factor = 1.0 if rate is None else rate / groups[0]["lr"]
    return [factor * group["lr"] * group.get("lr_scale", 1.0) for group in groups]
