"""Predictions written down, and what their runs came to, as files beside their law."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from flops_fit.answers.verification import FrozenPrediction, Outcome, Record, Verification
from flops_fit.errors import StudyError, StudyWarning
from flops_fit.files import check_name, read_record, reading, within, write_record
from flops_fit.fitting.answer import Answer
from flops_fit.fitting.result import LAW_FILE
from flops_fit.plan.run import Run
from flops_fit.records import read_as
from flops_fit.store.folder import StudyFolder

T = TypeVar("T")

PREDICTIONS, VERIFICATIONS = "predictions", "verifications"
"""Folders beside law.json."""

SHORT_HASH = 12


class RunFailed(StudyError):
    """The run that was to put a prediction to the test came to no loss."""


def freeze(answer: Answer, folder: StudyFolder) -> Path:
    """Writes the prediction beside its law; the file of an earlier time stays as it is."""
    answer_folder = folder.latest_plan_folder()
    digest = hashlib.sha256((answer_folder / LAW_FILE).read_bytes()).hexdigest()
    budget = f"{answer.budget:.6g}".replace("e+", "e")
    path = within(answer_folder, PREDICTIONS, f"C{budget}-{digest[:SHORT_HASH]}.json")
    if not path.exists():
        now = datetime.now(UTC).isoformat(timespec="seconds")
        frozen = FrozenPrediction(answer.prediction, answer.reliance.value, digest, now)
        write_record(path, frozen.to_json())
    return path


def keep(path: Path, run: Run) -> Verification:
    """The verification of a frozen prediction by its run, written beside it.

    Raises `RunFailed` where the run came to no loss, `StudyError` for a file that is no prediction.
    """
    if run.loss is None:
        raise RunFailed(f"{run.id} {run.status}: {run.error}")
    try:
        with reading(path, "frozen prediction"):
            frozen = FrozenPrediction.from_json(read_record(path))
    except (FileNotFoundError, StudyError) as error:
        raise StudyError(
            f"{path} is no frozen prediction ({error}): `flops-fit predict` writes one"
        ) from error
    verification = Verification.of(frozen, run)
    write_record(verification_path(path, verification), verification.to_json())
    return verification


def verification_path(prediction: Path, verification: Verification) -> Path:
    """Where the verification of a frozen prediction is kept."""
    name = f"{check_name(verification.run_id, 'id of a run')}.json"
    return within(prediction.parent.parent, VERIFICATIONS, name)


def record(prediction: Path) -> Record:
    """All verifications of the study that a frozen prediction is of."""
    plans = prediction.parent.parent.parent
    return Record.of(_read_all(plans, lambda data: read_as(Outcome, data)))


def verifications_in(study: Path) -> list[Verification]:
    """All verifications of a study, those of its earlier plans too, by rising budget."""
    found = _read_all(study / "plans", Verification.from_json)
    return sorted(found, key=lambda verification: verification.prediction.budget)


def _read_all(plans: Path, read: Callable[[Mapping[str, Any]], T]) -> list[T]:
    """Of all plans. A `StudyWarning` names each that can't be read, which is left out."""
    found = []
    for path in sorted(plans.glob(f"*/{VERIFICATIONS}/*.json")):
        try:
            with reading(path, "verification"):
                found.append(read(read_record(path)))
        except (FileNotFoundError, StudyError) as error:
            warnings.warn(f"left out: {error}", StudyWarning, stacklevel=3)
    return found
