"""MLflow: runs in a database of the study's, which `mlflow ui` shows, or on a tracking server."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flops_fit.files import within
from flops_fit.report.loggers.package import check_package
from flops_fit.store.protocols import Point, Scalar

MOST_METRICS = 1000
"""Of one request, by MLflow's documentation."""


@dataclass(frozen=True)
class Mlflow:
    """An experiment of the study's name with a run for each of its runs and one for its answer.

    `uri` is that of a tracking server or store; None: mlflow.db in the study's folder.
    """

    uri: str | None = None

    def __post_init__(self) -> None:
        check_package("mlflow")

    def __call__(self, study: Path) -> MlflowLog:
        return MlflowLog(self.uri, study.resolve())


class MlflowLog:
    """By the client, which has no run of its own in force: the user's stay as they are."""

    def __init__(self, uri: str | None, study: Path) -> None:
        from mlflow import MlflowClient

        self._runs: dict[str, str] = {}
        with _without_news():
            self._client = MlflowClient(
                tracking_uri=uri or f"sqlite:///{within(study, 'mlflow.db')}"
            )
            found = self._client.get_experiment_by_name(study.name)
        if found is None:
            place = None if uri else within(study, "mlflow").as_uri()
            self._experiment = str(self._client.create_experiment(study.name, place))
        else:
            self._experiment = str(found.experiment_id)

    def begin(self, run: str, settings: Mapping[str, Scalar]) -> None:
        self._runs[run] = self._begun(run)
        self._log(self._runs[run], (), {name: str(value) for name, value in settings.items()})

    def points(self, run: str, points: Sequence[Point]) -> None:
        self._log(self._runs[run], points)

    def end(self, run: str, result: Mapping[str, Scalar], *, completed: bool) -> None:
        begun = self._runs.pop(run)
        self._log_result(begun, result)
        self._client.set_terminated(begun, "FINISHED" if completed else "FAILED")

    def answer(self, summary: Mapping[str, Scalar], figures: Sequence[Path]) -> None:
        run = self._begun("answer")
        self._log_result(run, summary)
        for path in figures:
            self._client.log_artifact(run, str(path), "figures")
        self._client.set_terminated(run)

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")

    def _begun(self, name: str) -> str:
        run = self._client.create_run(self._experiment, run_name=name)
        return str(run.info.run_id)

    def _log_result(self, run: str, result: Mapping[str, Scalar]) -> None:
        numbers = {name: value for name, value in result.items() if not isinstance(value, str)}
        words = {name: value for name, value in result.items() if isinstance(value, str)}
        self._log(run, [(0, numbers)], words)

    def _log(self, run: str, points: Sequence[Point], words: Mapping[str, str] = {}) -> None:
        """All at once: each time costs a transaction."""
        from mlflow.entities import Metric, Param

        now = int(1000 * time.time())
        metrics = [Metric(k, float(v), now, step) for step, of in points for k, v in of.items()]
        params = [Param(name, value) for name, value in words.items()]
        for start in range(0, len(metrics) or 1, MOST_METRICS):
            batch = metrics[start : start + MOST_METRICS]
            self._client.log_batch(run, metrics=batch, params=params if not start else ())


@contextmanager
def _without_news() -> Iterator[None]:
    """A database that is made says so in ten lines."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
