"""Settings of the verbs that plan and train a sweep, in sections.

Numbers that people write as 1e9 are floats. A `Node` is what a config says of a user's class: a
mapping with its `_target_`; from Python the same setting is the object itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal

from flops_fit.settings.declaration import answer, chooses, decides, machine, pinned

Node = Mapping[str, Any]
"""A config node as plain values."""

SizeValue = int | float | Mapping[str, int | float]
"""The value of a model's size argument: a number, or a whole shape."""

FLOPS_PER_PARAM_PER_TOKEN = 6.0
"""FLOPs to train one weight on one token: a multiply and an add forward (2), and twice that
backward (4), once for the gradient of the input and once for the gradient of the weight
(Kaplan et al. 2020, section 2.1)."""

BATCH_SIZE = 64
"""Samples of a step where neither batch_size nor a rule says how many."""

TINY_NORM = 1e-12
"""Of a gradient: clipping it to less, or to nothing, leaves nothing to learn from."""


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """Parts: config groups, each a class or function with its arguments"""

    model: Node = decides(MISSING, "what is trained, with the argument that sizes it", python="")
    dataset: Node = decides(MISSING, "what it is trained on", python="")
    loss: Node = decides(MISSING, "a mean over the batch", python="")
    optimizer: Node = decides(MISSING, "with its peak learning rate", python="")
    schedule: Node = decides(MISSING, "of the learning rate over a run", python="Schedule | None")
    trainer: Node | None = decides(None, "a command of yours in place of all these", python="")
    learning_rate_rule: Node | None = decides(
        None, "peak learning rate of a run from its N and D; null: the optimizer's",
        python="Rule | None",
    )  # fmt: skip
    batch_rule: Node | None = decides(
        None,
        "tokens per step of a run from its N and D; null: the recipe's, or batch_size",
        python="Rule | None",
    )
    metrics: Node = decides(
        {}, "name: what is measured beside the loss", in_id=True,
        python="Mapping[str, Metric] | None",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """Plan: which sizes at which budgets"""

    budgets: tuple[float, ...] = chooses((), "training compute of one run", "FLOPs", python="")
    sizes: tuple[SizeValue, ...] | None = chooses(
        None, "train just these values of the size argument", python="Sequence[SizeValue] | None"
    )
    num_sizes: int = chooses(7, "sizes at each budget")
    span: float = chooses(16.0, "largest N / centre = centre / smallest N")
    ladder: bool = chooses(
        False, "sizes are rungs of one ladder, so that runs of several budgets train together"
    )
    center: float | Literal["auto"] | None = chooses(
        "auto", "at the centre of each budget's sizes; auto: 20", "tokens per parameter"
    )
    min_steps: int = chooses(100, "a size that gets fewer is dropped", "steps")
    max_epochs: float = chooses(4.0, "a size that repeats its data more often is dropped", "epochs")
    seeds: int = chooses(1, "train each experiment so many times, with seed, seed + 1 ..")
    flops: Literal["formula", "counted"] | None = decides(
        None, "what C is: formula, counted, or null: as the model's YAML says"
    )
    flops_per_param_per_token: float = decides(
        FLOPS_PER_PARAM_PER_TOKEN, "the constant of the formula C = 6ND", "FLOPs"
    )


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Training: what a step is"""

    batch_size: int | None = decides(
        None, "of an optimizer step; null: as batch_rule says, else 64", "samples", least=1
    )
    seed: int = decides(0, "of the weights, and of the order of the data", least=0)
    data_seed: int | None = decides(None, "of the order of the data; null: seed", least=0)
    clip_grad_norm: float | None = decides(
        None, "clips the gradient's norm; null: never", in_id=True, least=TINY_NORM
    )
    share_trunks: bool = decides(
        False, "with schedule=wsd: runs of a size share all but their cooldown"
    )
    micro_batch_size: int | None = machine(
        None, "in memory at once; null: the whole batch", "samples", least=1
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Data without a held-out part of its own"""

    held_out: Any = decides(
        0.1, "fraction of the samples; null: the first batches of a stream", python="Any"
    )
    held_out_samples: int | None = pinned(
        None, "measured at the end of a run; null: within 10% of the cheapest run", "samples",
        in_id=True, least=1,
    )  # fmt: skip
    tokens_per_sample: int | None = decides(
        None,
        "null: the mean length of token ids without padding, 1 for anything else",
        "tokens",
        least=1,
    )


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """Machine: where and how fast"""

    device: str = machine("auto", "cuda, mps or cpu")
    precision: str = pinned("auto", "fp32, bf16, or on CUDA fp16", in_id=True)
    kernels: Mapping[str, str] | Literal["auto"] = pinned(
        "auto", "the fastest exact ones by trial, or {matmul: .., attention: ..}"
    )
    compile_above: float | Literal["auto"] | None = machine(
        "auto", "size of a run from which torch.compile is worth its start; auto: on CUDA, where "
        "it is; null: never", "FLOPs",
    )  # fmt: skip
    together: bool = pinned(True, "small runs of one size in one batched step; false: each alone")
    cuda_graphs: bool = machine(True, "capture a run's step on CUDA once, and replay it")
    workers: int | None = machine(None, "runs at once; null: one per GPU or CPU core", least=1)
    rank: int | None = machine(
        None, "which of the `of` processes this is; rank 0 waits for all and fits", least=0,
        python="",
    )  # fmt: skip
    of: int | None = machine(
        None, "processes, here or on other machines, that were started to share the sweep", least=1,
        python="",
    )  # fmt: skip
    runs_per_gpu: int | None = machine(
        None, "small runs in turns on a GPU of one worker; null: 16", least=1
    )
    threads: int | None = pinned(None, "CPU threads of a run; null: by trial", least=1)
    gpus_per_run: int | None = pinned(
        None, "that train one run together, on a CPU processes; null: 1", least=1
    )
    spread: Literal["replicas", "shards"] | None = pinned(
        None, "what each of them holds: the whole model, or a part of it; null: replicas"
    )
    retry: Literal["diverged"] | None = chooses(None, "diverged: train diverged runs again")
    executor: Node | None = machine(
        None, "who trains: slurm, jobs of a cluster; null: this machine",
        python="str | Executor | None",
    )  # fmt: skip
    dry_run: bool = machine(
        False, "train nothing: say what would be, or show the jobs' scripts", python=""
    )
    timeout_seconds: float | None = machine(
        None, "that one run may take; it fails then, and can be gone on with; null: any", "seconds",
        least=1,
    )  # fmt: skip
    fail_fast: bool = machine(False, "end with the first run that fails; else the others go on")
    checkpoint_seconds: float = machine(30.0, "between checkpoints of a run", "seconds", least=0)


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Loggers beside the study's own files"""

    logger: Node | None = machine(
        None, "shows the curves of runs, the answer and its figures too",
        python="str | Logger | None",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """Output"""

    study: str = answer(MISSING, "name of the folder under output_root", python="")
    output_root: str = answer("outputs", "folder of all studies", python="")
    json: bool = answer(False, "print one JSON document on stdout", python="")
    predicted: str | None = answer(
        None, "file of a frozen prediction, as `predict` writes it, that this run is to test",
        python="",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LawSettings:
    """Law: how the runs are fitted"""

    fit: Node = answer(MISSING, "the method that answers", python="str | Fit | None")
    draws: int = answer(4000, "bootstrap refits behind the intervals; 0: no intervals", least=0)


@dataclass(frozen=True, kw_only=True)
class SweepSettings(
    PlaceSettings,
    LogSettings,
    LawSettings,
    MachineSettings,
    DataSettings,
    StepSettings,
    PlanSettings,
    PartSettings,
):
    """What `plan` and `train` can be told."""


@dataclass(frozen=True, kw_only=True)
class FaceSettings:
    """Python: what `find_optimal` takes beside the settings that the command line has too"""

    model_kwargs: Any = decides(
        None, "arguments that all sizes share", python="Mapping[str, Any] | None"
    )
    optimizer_cls: Any = decides(
        None, "called with lr=; None: AdamW", python="Callable[..., Optimizer] | None"
    )
    learning_rate: float = decides(3e-3, "of the optimizer, at the peak")
    min_size: int = chooses(1, "smallest value of the size argument")
    max_size: int | None = chooses(None, "largest value of the size argument; None: 2^24")
    epochs: float | None = chooses(None, "the same as max_epochs", "epochs")
    output_dir: Any = answer(
        None, "folder of the study; None: outputs/<model>-<dataset>", python="str | Path | None"
    )
    resume: bool = chooses(True, "False: what the folder holds of the plan is moved aside")


@dataclass(frozen=True, kw_only=True)
class VerifySettings(SweepSettings):
    """Verification"""

    target: float | None = chooses(
        None, "compute to train at; on the command line budget=", "FLOPs", python=""
    )


@dataclass(frozen=True, kw_only=True)
class PlanningSettings(SweepSettings):
    """Estimate"""

    machine: str | None = machine(
        None, "time and memory there: h100, rtx4090 .., or a YAML file; null: here", python=""
    )
