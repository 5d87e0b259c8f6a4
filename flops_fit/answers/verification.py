"""A prediction frozen before anything was trained at it, and the run that puts it to the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flops_fit.errors import UserError
from flops_fit.files import plain
from flops_fit.fitting.answer import Reliance
from flops_fit.laws.prediction import CONFIDENCE_LEVELS, Prediction
from flops_fit.plan.run import Run
from flops_fit.records import read_as


@dataclass(frozen=True)
class FrozenPrediction:
    """What a law said, and when: `law_sha256` is that of its law.json, `time` ISO 8601, UTC.

    `reliance` is the word for how much of it could be relied on.
    """

    prediction: Prediction
    reliance: str
    law_sha256: str
    time: str

    def to_json(self) -> dict[str, Any]:
        return plain({**vars(self), "prediction": self.prediction.to_json()})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FrozenPrediction:
        return read_as(cls, {**data, "prediction": Prediction.from_json(data["prediction"])})


UNTOLD: Mapping[str, str] = {"reliance": Reliance.UNKNOWN.value, "law_sha256": "", "time": ""}
"""What verifications of earlier versions don't tell of their predictions."""


@dataclass(frozen=True)
class Verification:
    """A frozen prediction and the run that put it to the test, at the size nearest to the optimum.

    `measured` and `stderr` are the run's held-out loss, nats per token.
    """

    frozen: FrozenPrediction
    run_id: str
    num_params: float
    num_tokens: float
    measured: float
    stderr: float | None

    @classmethod
    def of(cls, frozen: FrozenPrediction, run: Run) -> Verification:
        """The test of a prediction by `run`. Raises `UserError` where that has no loss."""
        if run.loss is None:
            raise UserError(f"{run.id} has no loss to verify with: it is {run.status}")
        return cls(frozen, run.id, run.num_params, run.num_tokens, run.loss, run.loss_stderr)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verification:
        """Raises `StudyError` for what is no verification."""
        return read_as(cls, {**data, "frozen": {**UNTOLD, **data}})

    @property
    def prediction(self) -> Prediction:
        return self.frozen.prediction

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
        measured = {name: value for name, value in vars(self).items() if name != "frozen"}
        return {
            **self.frozen.to_json(),
            **plain({**measured, "error": self.error}),
            "inside": inside,
        }


@dataclass(frozen=True)
class Outcome:
    """What the file of a verification says came of it: `Verification.error`, `is_inside`."""

    error: float
    inside: Mapping[str, bool | None]


@dataclass(frozen=True)
class Record:
    """All verifications of a study so far: how far off, how many inside their 95% intervals.

    `error` is the median relative error of the loss, without its sign.
    """

    count: int
    error: float
    inside: int
    with_interval: int

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Record:
        """Of verifications, one or more."""
        inside = [known for o in outcomes if (known := o.inside.get("95")) is not None]
        error = float(np.median([abs(o.error) for o in outcomes]))
        return cls(len(outcomes), error, sum(inside), len(inside))

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))

    def __str__(self) -> str:
        runs = f"{self.count} verification" + ("" if self.count == 1 else "s")
        held = f"{self.inside} of {self.with_interval} inside the 95% interval"
        return f"{runs} of this study so far: median error {self.error:.2%}, {held}"
