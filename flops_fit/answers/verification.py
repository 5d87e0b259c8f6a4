"""A prediction put to the test by the run that was trained at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flops_fit.errors import UserError
from flops_fit.files import plain
from flops_fit.laws.prediction import CONFIDENCE_LEVELS, Prediction
from flops_fit.plan.run import Run


@dataclass(frozen=True)
class Verification:
    """A prediction and the run that put it to the test, at the size nearest to the optimum.

    `measured` and `stderr` are the run's held-out loss, nats per token.
    """

    prediction: Prediction
    run_id: str
    num_params: float
    num_tokens: float
    measured: float
    stderr: float | None

    @classmethod
    def of(cls, prediction: Prediction, run: Run) -> Verification:
        """The test of `prediction` by `run`. Raises `UserError` where that has no loss."""
        if run.loss is None:
            raise UserError(f"{run.id} has no loss to verify with: it is {run.status}")
        return cls(prediction, run.id, run.num_params, run.num_tokens, run.loss, run.loss_stderr)

    @property
    def error(self) -> float:
        """Predicted over measured loss, minus 1."""
        return self.prediction.loss / self.measured - 1

    def is_inside(self, level: str) -> bool | None:
        """Whether the interval ("80" or "95") holds the measured loss; None without intervals."""
        interval = self.prediction.intervals.get("loss", {}).get(level)
        return None if interval is None else interval[0] <= self.measured <= interval[1]

    def to_json(self) -> dict[str, Any]:
        inside = {str(level): self.is_inside(str(level)) for level in CONFIDENCE_LEVELS}
        return plain({**vars(self), "error": self.error, "inside": inside})
