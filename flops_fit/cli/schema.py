"""The knobs of the command line: names, types, defaults and units.

A misspelt key or a value of the wrong type is refused by these classes. What users bring
themselves (model, dataset, loss, optimizer, schedule) stays plain YAML with a `_target_`.
Numbers that people write as 1e9 are floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class SweepConfig:
    """Of the verbs `plan`, `train` and `verify`."""

    model: Any = MISSING
    dataset: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    fit: Any = MISSING
    trainer: Any = None  # null: ours, of model, dataset, loss, optimizer and schedule

    # The plan.
    budgets: list[float] = field(default_factory=list)  # training FLOPs of one run
    batch_size: int = 64  # samples per optimizer step
    sizes: list[Any] | None = None  # train just these size values
    num_sizes: int = 7  # per budget
    span: float = 16.0  # largest N / centre = centre / smallest N
    center: Any = "auto"  # tokens per parameter at the centre of the grid
    min_steps: int = 100  # a size with fewer is dropped
    max_epochs: float = 4.0  # a size that repeats its data more often is dropped
    flops: str | None = None  # formula, counted, or null: as the model's YAML says
    flops_per_param_per_token: float = 6.0  # of the formula
    share_trunks: bool = False  # with schedule=wsd: runs of a size share all but their cooldown
    seed: int = 0  # of the initial weights, and of the order of the data unless that has its own
    data_seed: int | None = None
    seeds: int = 1  # train each experiment so many times, with seed, seed + 1 ..

    # The step.
    learning_rate_rule: Any = None  # from N and D; null: the optimizer's for all
    batch_rule: Any = None  # tokens per step from N and D; null: batch_size for all
    clip_grad_norm: float | None = None
    micro_batch_size: int | None = None  # samples in memory at once; changes no result
    metrics: Any = field(default_factory=dict)  # name: what is measured beside the loss

    # Data without a held-out part of its own.
    held_out: Any = 0.1  # fraction of the samples, or null: the first batches of a stream
    held_out_samples: int | None = None  # null: within 10% of the cheapest run's compute
    tokens_per_sample: int | None = None  # null: sequence length of token ids, 1 for rows

    # The machine.
    device: str = "auto"  # cuda, mps or cpu
    precision: str = "auto"  # fp32, bf16, or on CUDA fp16
    kernels: Any = "auto"  # the fastest here by trial, or {matmul: .., attention: ..}
    compile_above: float | None = None  # FLOPs of a run from which torch.compile is worth its start
    workers: int | None = None  # runs at once; null: one per CPU core or GPU
    threads: int | None = None  # per run; null: one where several run at once
    retry: str | None = None  # "diverged": train diverged runs again
    fail_fast: bool = False  # end with the first run that fails; else the others go on
    checkpoint_seconds: float = 30.0  # between checkpoints of a run

    # The answer.
    target: float | None = None  # FLOPs at which `verify` trains; on the command line budget=
    draws: int = 4000  # bootstrap
    study: str = MISSING
    output_root: str = "outputs"
    json: bool = False  # print the result as one JSON document on stdout


@dataclass
class AnswerConfig:
    """Of the verbs `fit`, `predict`, `report` and `status`, which train nothing."""

    study: str | None = None  # null: the last one trained under output_root
    output_root: str = "outputs"
    json: bool = False


@dataclass
class ColumnsConfig:
    """What a table calls our columns; null: looked for under our name and common ones."""

    num_params: str | None = None
    num_tokens: str | None = None
    flops: str | None = None
    loss: str | None = None
    budget: str | None = None
    id: str | None = None
    status: str | None = None
    seed: str | None = None
    loss_stderr: str | None = None
    num_params_total: str | None = None
    num_steps: str | None = None
    trunk: str | None = None


@dataclass
class FitConfig(AnswerConfig):
    """Of `fit`."""

    fit: Any = MISSING
    select: Any = MISSING  # which of several runs of one (N, D)
    metric: str = "loss"  # or another of the runs' metrics, or 1-NAME for what grows with compute
    draws: int = 4000  # bootstrap
    seed: int = 0

    # A table of runs, CSV or JSON lines, instead of the study's own.
    runs: str | None = None
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    where: str = ""  # rows to read, by the file's columns: config = base and step > 0
    loss_unit: str = "nats"  # per token; or bits, or bits_per_byte
    bytes_per_token: float | None = None  # for bits_per_byte
    flops_per_param_per_token: float = 6.0  # where one of N, D and C is not given


@dataclass
class PredictConfig(AnswerConfig):
    """Of `predict`: one of the first three says for what, else all that `fit` predicted."""

    budgets: list[float] = field(default_factory=list)  # FLOPs; on the command line budget=
    num_params: float | None = None  # the budget at which this size is the best
    num_tokens: float | None = None  # the budget at which so many tokens are the best
    instead: float | None = None  # N: what it costs to train this size instead


@dataclass
class CompareConfig(AnswerConfig):
    """Of `compare`."""

    studies: list[str] = field(default_factory=list)  # two names under output_root


def register_schemas() -> None:
    """Make the classes known to Hydra under the names that configs/*.yaml use."""
    store = ConfigStore.instance()
    store.store(name="sweep_schema", node=SweepConfig)
    store.store(name="answer_schema", node=AnswerConfig)
    store.store(name="fit_schema", node=FitConfig)
    store.store(name="predict_schema", node=PredictConfig)
    store.store(name="compare_schema", node=CompareConfig)
