"""Arguments of the Python face, for type checkers: by scripts/write_settings.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from flops_fit.fitting import FitSettings as Fit
    from flops_fit.fitting.selection import Selection
    from flops_fit.learning.schedules import Schedule
    from flops_fit.plan.rules import Rule
    from flops_fit.settings.sweep import SizeValue
    from flops_fit.store.protocols import Logger
    from flops_fit.training.recipe import Metric


class SweepKeywords(TypedDict, total=False):
    """Settings of `find_optimal`."""

    model_kwargs: Mapping[str, Any] | None
    optimizer_cls: Callable[..., Optimizer] | None
    learning_rate: float
    min_size: int
    max_size: int | None
    epochs: float | None
    output_dir: str | Path | None
    resume: bool
    schedule: Schedule | None
    learning_rate_rule: Rule | None
    batch_rule: Rule | None
    metrics: Mapping[str, Metric] | None
    sizes: Sequence[SizeValue] | None
    num_sizes: int
    span: float
    ladder: bool
    center: float | Literal["auto"] | None
    min_steps: int
    max_epochs: float
    seeds: int
    flops: Literal["formula", "counted"] | None
    flops_per_param_per_token: float
    batch_size: int | None
    seed: int
    data_seed: int | None
    clip_grad_norm: float | None
    share_trunks: bool
    micro_batch_size: int | None
    held_out: Any
    held_out_samples: int | None
    tokens_per_sample: int | None
    device: str
    precision: str
    kernels: Mapping[str, str] | Literal["auto"]
    compile_above: float | Literal["auto"] | None
    together: bool
    cuda_graphs: bool
    workers: int | None
    runs_per_gpu: int | None
    threads: int | None
    retry: Literal["diverged"] | None
    timeout_seconds: float | None
    fail_fast: bool
    checkpoint_seconds: float
    fit: str | Fit | None
    draws: int
    logger: str | Logger | None


class FitKeywords(TypedDict, total=False):
    """Settings of `fit_table`."""

    fit: str | Fit | None
    draws: int
    select: str | Selection | None
    metric: str
    seed: int
    columns: Mapping[str, Any] | None
    where: str
    pivot: str
    loss_unit: Literal["nats", "bits", "bits_per_byte"]
    bytes_per_token: float | None
    flops_per_param_per_token: float
