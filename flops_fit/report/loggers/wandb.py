"""Weights & Biases: runs on disk, which `wandb sync` uploads, or online for who is logged in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flops_fit.files import within
from flops_fit.report.loggers.package import check_package
from flops_fit.store.protocols import Point, Scalar


@dataclass(frozen=True)
class Wandb:
    """A run of `project` for each of the study's and one for its answer; None: the study's name.

    Their files are under `folder`, None: in the study's. Nothing leaves the machine unless `mode`
    is online.
    """

    project: str | None = None
    mode: Literal["offline", "online"] = "offline"
    folder: str | None = None

    def __post_init__(self) -> None:
        check_package("wandb")

    def __call__(self, study: Path) -> WandbLog:
        folder = self.folder or within(study, "wandb").parent  # in which wandb makes one so named
        return WandbLog(self.project or study.name, self.mode, Path(folder))


class WandbLog:
    """Several runs at once in one process, without a word on the screen."""

    def __init__(self, project: str, mode: str, folder: Path) -> None:
        self._project, self._mode, self._folder = project, mode, folder
        self._runs: dict[str, Any] = {}

    def begin(self, run: str, settings: Mapping[str, Scalar]) -> None:
        self._runs[run] = self._begun(run, settings)

    def points(self, run: str, points: Sequence[Point]) -> None:
        for step, values in points:
            self._runs[run].log(dict(values), step=step)

    def end(self, run: str, result: Mapping[str, Scalar], *, completed: bool) -> None:
        begun = self._runs.pop(run)
        begun.summary.update(dict(result))
        begun.finish(exit_code=0 if completed else 1)

    def answer(self, summary: Mapping[str, Scalar], figures: Sequence[Path]) -> None:
        import wandb

        run = self._begun("answer", {})
        run.log({path.stem: wandb.Image(str(path)) for path in figures})
        run.summary.update(dict(summary))
        run.finish()

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)

    def _begun(self, name: str, settings: Mapping[str, Scalar]) -> Any:
        import wandb

        quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        return wandb.init(
            project=self._project,
            name=name,
            config=dict(settings),
            dir=str(self._folder),
            mode=self._mode,
            reinit="create_new",  # beside those that are under way
            settings=quiet,
        )
