"""One training run that happened, here or elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from flops_fit.plan.experiment import Experiment, Size, known
from flops_fit.plan.names import AlsoCalled, value_called
from flops_fit.plan.versions import RESULT_VERSIONS


class Status(StrEnum):
    """How a run of ours ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    DIVERGED = "diverged"


COMPLETED_ELSEWHERE = frozenset({"done", "finished"})
"""Other words for a completed run: of earlier versions of flops-fit, and of W&B."""


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
        values = known(cls, RESULT_VERSIONS.upgraded(data))
        if values.get("size") is not None:
            values["size"] = Size(**values["size"])
        return cls(**values)


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
