"""The Python face: the same study as on the command line, from Python objects, without Hydra."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flops_fit.datasets.adapters import as_source
from flops_fit.learning.schedules import Cosine, Schedule
from flops_fit.plan.experiment import Plan, SizeValue
from flops_fit.plan.flops import FormulaFlops
from flops_fit.plan.sweep import DataShape, Sweep, plan_sweep
from flops_fit.report.screen import SweepProgress
from flops_fit.signatures import check_argument_names, first_name, qualified_name, source_hashes
from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.study.study import SOURCE_WARNING, Study, fit_study, pin_sources
from flops_fit.training.devices import threads_in_use
from flops_fit.training.family import (
    LARGEST_SIZE,
    LossFunction,
    ModelFactory,
    SizeSpec,
    family_without_data,
)
from flops_fit.training.recipe import Metric
from flops_fit.training.spec import StudySpec, step_identity, sweep_for

__all__ = ["Study", "find_optimal"]


def find_optimal(
    *,
    model_cls: ModelFactory,
    model_size_param: str,
    compute_budgets: Sequence[float],
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: LossFunction | None = None,
    train: bool = True,
    resume: bool = True,
    output_dir: str | Path | None = None,
    optimizer_cls: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    learning_rate: float = 3e-3,
    schedule: Schedule | None = None,
    batch_size: int = 64,
    epochs: float | None = None,
    held_out: Any = 0.1,
    tokens_per_sample: int | None = None,
    sizes: Sequence[SizeValue] | None = None,
    min_size: int = 1,
    max_size: int = LARGEST_SIZE,
    num_sizes: int = 7,
    span: float = 16.0,
    center: float | None = None,
    min_steps: int = 100,
    seed: int = 0,
    seeds: int = 1,
    clip_grad_norm: float | None = None,
    micro_batch_size: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Study | Plan:
    """The scaling law of a model family on a dataset: plan, train what is missing, fit.

    `model_cls(**model_kwargs, **{model_size_param: value})` builds one size; `loss_fn(output,
    target)` is a mean over the batch. `dataset` is a map-style Dataset, an IterableDataset, a
    DataLoader (whose own batch size then counts), a tensor or a pair of tensors; `held_out` the
    fraction of it kept for the final loss, a dataset of its own, or None for a stream, whose first
    batches are then kept. `compute_budgets` are FLOPs; `epochs` is how often data may repeat
    (default 4); `center` the tokens per parameter at the centre of each budget's sizes; `seeds` how
    often each experiment is repeated; `metrics` maps names to further functions (output, target)
    whose means over the held-out samples stand in `Run.metrics`; `micro_batch_size` bounds the
    samples in memory at once and changes no result.

    With `train=False`, or without a dataset or loss, returns the `Plan`. Otherwise trains, one run
    after the other, and returns the `Study`; what `output_dir` already holds of it is not trained
    again, unless `resume=False`, which moves it aside.

    Raises `PlanError` or `ConfigError` for what can't be planned or doesn't fit together.
    """
    sweep = Sweep(
        budgets=tuple(float(budget) for budget in compute_budgets),
        batch_size=batch_size,
        sizes=None if sizes is None else tuple(sizes),
        num_sizes=num_sizes,
        span=span,
        center=center,
        min_steps=min_steps,
        max_epochs=Sweep.max_epochs if epochs is None else epochs,
        seed=seed,
        seeds=seeds,
    )
    size = SizeSpec(model_size_param, min=min_size, max=max_size)
    model_kwargs = model_kwargs or {}
    check_argument_names(model_cls, model_kwargs, qualified_name(model_cls))
    factory = functools.partial(model_cls, **model_kwargs)
    if dataset is None or loss_fn is None:
        return plan_without_data(factory, size, sweep, tokens_per_sample or 1)
    source = as_source(dataset, held_out, batch_size, seed, tokens_per_sample)
    schedule = schedule or Cosine()
    spec = StudySpec(
        factory=factory,
        size=size,
        source=source,
        loss=loss_fn,
        optimizer=functools.partial(optimizer_cls, lr=learning_rate),
        schedule=schedule,
        sweep=sweep_for(sweep, source),
        identity={
            "model": {"_target_": described(model_cls), **described(model_kwargs)},
            "dataset": {"_target_": qualified_name(dataset), "fingerprint": source.fingerprint},
            "loss": described(loss_fn),
            "optimizer": {"_target_": described(optimizer_cls), "lr": learning_rate},
            "schedule": described(schedule),
            **step_identity(clip_grad_norm, described(metrics or {})),
        },
        metrics=metrics or {},
        clip_grad_norm=clip_grad_norm,
        micro_batch_size=micro_batch_size,
        device=device,
        precision=precision,
        sources=source_hashes({qualified_name(part): part for part in (model_cls, loss_fn)}),
    )
    name = "-".join(qualified_name(part).rpartition(".")[2] for part in (model_cls, dataset))
    folder = StudyFolder(Path(output_dir) if output_dir else Path("outputs") / name)
    prepared = spec.prepare(folder)
    plan = prepared.plan
    if not train:
        return plan
    if not resume:
        folder.set_aside(plan)
    for changed in pin_sources(spec, folder):
        warnings.warn(SOURCE_WARNING.format(changed), stacklevel=2)
    todo = folder.missing(plan)
    trainer, threads = prepared.trainer, torch.get_num_threads()
    if todo:
        pinned = folder.pinned()
        threads = pinned.get("threads") or trainer.threads(plan, threads)
        trainer = trainer.tuned(plan, threads, pinned)
        folder.pin({"threads": threads, **trainer.pins})
    progress = SweepProgress(math.fsum(e.flops for e in todo), len(todo))
    with progress, threads_in_use(threads):
        runs = train_plan(plan, folder, Inline(trainer, folder), progress)
    return fit_study(plan, runs, folder)


def plan_without_data(
    factory: ModelFactory, size: SizeSpec, sweep: Sweep, tokens_per_sample: int
) -> Plan:
    """The sweep for data that never ends; C = 6ND, since nothing can be counted."""
    family = family_without_data(factory, size, tokens_per_sample)
    return plan_sweep(sweep, family, DataShape(tokens_per_sample, None), FormulaFlops())


def described(value: Any) -> Any:
    """A value as JSON that stays the same from one process to the next.

    Numbers, text and collections as they are; functions and classes by name; modules and
    dataclasses by what they print.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): described(item) for key, item in value.items()}
        case list() | tuple():
            return [described(item) for item in value]
        case functools.partial():
            return [described(value.func), described(value.args), described(value.keywords)]
        case nn.Module() | torch.dtype() | torch.device():
            return f"{qualified_name(value)} {value}"
    return repr(value) if is_dataclass(value) else first_name(qualified_name(value))
