"""MLflow: runs in a database of the study's, which `mlflow ui` shows, or on a tracking server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.report.loggers.package import check_package
from flops_fit.store.protocols import Scalar


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

        study.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=uri or f"sqlite:///{study / 'mlflow.db'}")
        place = None if uri else (study / "mlflow").as_uri()
        found = self._client.get_experiment_by_name(study.name)
        self._experiment: str = (
            found.experiment_id
            if found
            else self._client.create_experiment(study.name, artifact_location=place)
        )
        self._runs: dict[str, str] = {}

    def begin(self, run: str, settings: Mapping[str, Scalar]) -> None:
        self._runs[run] = self._begun(run)
        self._log(self._runs[run], settings={k: str(v) for k, v in settings.items()})

    def point(self, run: str, step: int, values: Mapping[str, float]) -> None:
        self._log(self._runs[run], values, step)

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
        self._log(run, numbers, settings=words)

    def _log(
        self,
        run: str,
        values: Mapping[str, float] | None = None,
        step: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param

        now = int(1000 * time.time())
        metrics: list[Any] = [Metric(k, float(v), now, step) for k, v in (values or {}).items()]
        params = [Param(name, value) for name, value in (settings or {}).items()]
        self._client.log_batch(run, metrics=metrics, params=params)
