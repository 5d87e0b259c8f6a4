"""Curves and answer into a logger beside the study's own files. No run depends on it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flops_fit.errors import StudyError, StudyWarning
from flops_fit.files import parsed, read_text
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.run import Run
from flops_fit.report.files import is_current
from flops_fit.shown import short_flops
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import ForAnother, Log, Logger, Point, Scalar, Watcher
from flops_fit.study.fits import FittedStudy
from flops_fit.study.reports import report_study

LOOK_SECONDS = 2.0
"""Between looks at the curve of a run that is under way."""

LONGEST_ERROR = 500
"""Characters of a failed run's reason."""


class GuardedLog:
    """A log whose first failure is a warning and its end."""

    def __init__(self, log: Log) -> None:
        self._log: Log | None = log

    def do(self, what: Callable[[Log], None]) -> None:
        if self._log is None:
            return
        try:
            what(self._log)
        except Exception as error:  # whatever a logger raises, no run shall fail with it
            self._log = None
            warn(error)


def warn(error: Exception) -> None:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    warnings.warn(
        f"the logger failed, and nothing more is logged: {said}; the study's own files have all",
        StudyWarning,
        stacklevel=4,
    )


@contextmanager
def opened(logger: Logger | None, folder: StudyFolder) -> Iterator[GuardedLog | None]:
    """The log of the study, closed at the end; None without a logger, or where it can't begin."""
    if logger is None:
        yield None
        return
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        log = GuardedLog(logger(folder.path))
    except Exception as error:
        warn(error)
        yield None
        return
    try:
        yield log
    finally:
        log.do(lambda log: log.close())


class LoggedWatcher(ForAnother):
    """Watches runs for another watcher, and logs what their metrics.jsonl has grown by.

    In the process that hands out the work, whichever process trains.
    """

    def __init__(self, watcher: Watcher, log: GuardedLog, folder: StudyFolder) -> None:
        super().__init__(watcher)
        self._log, self._folder = log, folder
        self._steps: dict[str, int] = {}  # id -> the last that is logged
        self._looked: dict[str, float] = {}  # id -> when

    def progress(self, experiment: Experiment, flops: float) -> None:
        super().progress(experiment, flops)
        now = time.monotonic()
        if now - self._looked.get(experiment.id, -math.inf) > LOOK_SECONDS:
            self._looked[experiment.id] = now
            self._log_curve(experiment.id, settings_of(experiment))

    def finished(self, run: Run) -> None:
        super().finished(run)
        self._log_curve(run.id, settings_of(run))
        self._log.do(lambda log: log.end(run.id, result_of(run), completed=run.is_completed))

    def _log_curve(self, run: str, settings: Mapping[str, Scalar]) -> None:
        if run not in self._steps:
            self._steps[run] = 0
            self._log.do(lambda log: log.begin(run, settings))
        if points := list(self._new_points(run)):
            self._steps[run] = points[-1][0]
            self._log.do(lambda log: log.points(run, points))

    def _new_points(self, run: str) -> Iterator[Point]:
        """Of the lines that are new; one that is being written has its turn later."""
        try:
            lines = read_text(self._folder.run_folder(run) / "metrics.jsonl").splitlines()
        except (FileNotFoundError, StudyError):
            return
        for line in lines:
            try:
                point: dict[str, Any] = parsed(line)
                step = int(point.pop("step"))
            except (ValueError, TypeError, KeyError, AttributeError):
                return
            if step > self._steps[run]:
                yield step, numbers(point)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def settings_of(run: Experiment | Run) -> dict[str, Scalar]:
    """What tells a run from the others."""
    size = {} if run.size is None else {run.size.name: run.size.label}
    names = ("budget", "num_params", "num_tokens", "num_steps", "batch_tokens", "seed")
    return {**size, **numbers({name: getattr(run, name) for name in names})}


def result_of(run: Run) -> dict[str, Scalar]:
    """How a run ended."""
    names = ("loss", "loss_stderr", "flops", "wall_time_seconds", "learning_rate", "mfu")
    ends: dict[str, Any] = {name: getattr(run, name) for name in names} | dict(run.metrics)
    words = {} if run.error is None else {"error": run.error.splitlines()[0][:LONGEST_ERROR]}
    return {
        "status": str(run.status),
        **words,
        **numbers({f"final/{k}": v for k, v in ends.items()}),
    }


def log_answer(log: GuardedLog | None, study: FittedStudy) -> None:
    """The answer in numbers and words, with its figures."""
    if log is None:
        return

    def told(log: Log) -> None:
        answer = study.law or study.refusal
        if answer is not None and not (study.law and is_current(study.answer_folder)):
            report_study(study.runs, answer, study.answer_folder)
        figures = sorted((study.answer_folder / "figures").glob("*.png"))
        log.answer(summary_of(study), figures)

    log.do(told)


def summary_of(study: FittedStudy) -> dict[str, Scalar]:
    """What the law says at the largest budget and beyond; without one, why there is none."""
    law = study.law
    if law is None:
        return {"refusal": str(study.refusal)}
    found: dict[str, Scalar] = {
        "verdict": law.diagnostics.verdict,
        "method": law.answer,
        "exponent of N": law.of(law.answer).a,
    }
    for answer in (answer for answer in law.answers if answer.extrapolation >= 1):
        at = f"at {short_flops(answer.budget)} FLOPs"
        found[f"N {at}"], found[f"D {at}"] = answer.num_params, answer.num_tokens
        found[f"{law.metric} {at}"] = answer.loss
    return found
