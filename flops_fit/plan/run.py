"""One training run that happened, here or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from math import copysign, isclose
from typing import Any

from flops_fit.errors import StudyError
from flops_fit.plan.experiment import Experiment, Size
from flops_fit.plan.names import AlsoCalled, value_called
from flops_fit.plan.versions import RESULT_VERSIONS
from flops_fit.records import read_as, shortened


class Status(StrEnum):
    """How a run of ours ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    DIVERGED = "diverged"


STATUSES = frozenset(map(str, Status))

SAME_AS_PLANNED = (
    "num_params", "budget", "size", "batch_size", "batch_tokens", "seed", "data_seed",
)  # fmt: skip
"""What a run has as its experiment has it. Earlier versions did not write all of it."""

NOT_NEGATIVE = (
    "num_tokens", "flops", "num_steps", "flops_spent", "loss_stderr", "wall_time_seconds",
    "tokens_per_second", "peak_memory_bytes", "held_out_samples",
)  # fmt: skip

SAME_FLOPS = 1e-9
"""Relative difference of two ways to round the same product."""

COMPLETED_ELSEWHERE = frozenset({"done", "finished", "complete", "succeeded", "success", "ok"})
"""Other words for a completed run: of earlier versions of flops-fit, of W&B, MLflow and clouds."""


def status_called(word: str) -> str:
    """The `Status` that the word means in whatever case, else the word as it is."""
    plain = word.strip().casefold()
    if plain in COMPLETED_ELSEWHERE:
        return Status.COMPLETED
    return next((status for status in Status if status == plain), word)


@dataclass(frozen=True)
class Run:
    """One training run that happened, here or elsewhere. Runs read from a table have no size.

    `loss` is measured at the end on held-out data: nats per token for language models. `status` is
    a `Status`, or what a table says of a run that none of them describes, such as crashed.
    """

    id: str
    status: str
    num_params: float
    num_tokens: float  # tokens really trained
    flops: float  # of those tokens, by the study's FLOP rule
    loss: float | None
    budget: float  # FLOPs asked
    size: Size | None = None
    num_params_total: float | None = None
    planned_tokens: float | None = None
    num_steps: int | None = None
    batch_size: int | None = None  # samples
    batch_tokens: int | None = None
    micro_batch_size: int | None = None  # samples in memory at once, where fewer than a batch
    num_processes: int | None = None  # that trained it together, where more than one
    flops_spent: float | None = None  # less than `flops` after a shared trunk
    flops_counted: float | None = None  # of the same tokens, by counting operations
    flops_formula: float | None = None  # and by 6ND
    metrics: Mapping[str, float] = field(default_factory=dict)  # on the same held-out data
    trunk: str | None = None  # runs of one trunk share their training up to the cooldown
    learning_rate: float | None = None  # at the peak, as configured
    loss_stderr: float | None = None
    train_loss: float | None = None
    held_out_samples: int | None = None
    unique_tokens: int | None = None
    wall_time_seconds: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None  # share of the device's peak that the steps' FLOPs made use of
    mfu_of: str | None = None  # that peak, such as "H100 SXM bf16 dense, 989 TFLOP/s"
    peak_memory_bytes: int | None = None
    device: str | None = None
    precision: str | None = None
    seed: int | None = None
    data_seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    experiment_id = AlsoCalled("id")
    model_size = AlsoCalled("num_params")
    final_loss = AlsoCalled("loss")
    compute_budget = AlsoCalled("budget")
    actual_flops = AlsoCalled("flops")
    error_message = AlsoCalled("error")

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", status_called(self.status))

    def __getitem__(self, name: str) -> Any:
        """What the run has under this name: `run["final_loss"]` is `run.loss`."""
        return value_called(self, name)

    @property
    def tokens_per_param(self) -> float:
        return self.num_tokens / self.num_params

    @property
    def is_completed(self) -> bool:
        """Trained and measured. A null loss or a zero wall time says that something went wrong."""
        return (
            self.status == Status.COMPLETED
            and self.loss is not None
            and self.wall_time_seconds != 0
        )

    @property
    def is_settled(self) -> bool:
        """Nothing to gain from training it again: divergence is a result, failure is not."""
        return self.is_completed or self.status == Status.DIVERGED

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": RESULT_VERSIONS.current, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Run:
        """Raises `StudyError` for what is no record of a run of ours."""
        run = read_as(cls, RESULT_VERSIONS.upgraded(data))
        if run.status not in STATUSES:
            raise StudyError(f"status is {run.status[:40]!r}: expected {' or '.join(Status)}")
        for name in ("num_params", "budget"):
            if not getattr(run, name) > 0:
                raise StudyError(f"{name} is {getattr(run, name)}: expected more than 0")
        for name in NOT_NEGATIVE:
            value = getattr(run, name)
            if value is not None and copysign(1.0, value) < 0:
                raise StudyError(f"{name} is {getattr(run, name)}: expected 0 or more")
        if run.loss == 0 and copysign(1.0, run.loss) < 0:
            raise StudyError("loss is -0.0, which no training writes")
        return run

    def departs_from(self, e: Experiment) -> str | None:
        """What in it is of another run than the experiment; None where all agrees."""
        planned = {name: getattr(e, name) for name in SAME_AS_PLANNED}
        planned = {"id": e.id, **planned, "planned_tokens": e.num_tokens, "trunk": e.trunk or None}
        for name, expected in planned.items():
            found = getattr(self, name)
            if found != expected and (found is not None or name == "trunk"):
                return f"{name} is {shortened(found)}, planned is {shortened(expected)}"
        if not isclose(self.flops, self.num_tokens * e.flops_per_token, rel_tol=SAME_FLOPS):
            return f"flops is {self.flops:.6g}, which {self.num_tokens:,.0f} tokens don't cost"
        if self.num_steps is not None:
            missed = abs(self.num_steps * e.batch_tokens - self.num_tokens)
            if missed > e.batch_tokens:  # a command may end within a step
                return f"num_steps is {self.num_steps:,}, not what its tokens take"
        return None


def ended_run(
    experiment: Experiment, status: Status, error: str | None, *, num_steps: int = 0
) -> Run:
    """The record of a run that ended after `num_steps`, before anything was measured of it."""
    e = experiment
    num_tokens = num_steps * e.batch_tokens
    return Run(
        id=e.id,
        status=status,
        num_params=e.num_params,
        num_tokens=num_tokens,
        flops=num_tokens * e.flops_per_token,
        flops_formula=num_tokens * e.flops_per_token_formula,
        loss=None,
        budget=e.budget,
        size=e.size,
        num_params_total=e.num_params_total,
        planned_tokens=e.num_tokens,
        num_steps=num_steps,
        batch_size=e.batch_size,
        batch_tokens=e.batch_tokens,
        unique_tokens=e.unique_tokens,
        trunk=e.trunk or None,
        seed=e.seed,
        data_seed=e.data_seed,
        error=error,
    )
