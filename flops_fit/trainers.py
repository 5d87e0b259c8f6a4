"""What trains an experiment, as those who plan and launch sweeps see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flops_fit.experiments import Experiment, Plan
from flops_fit.runs import Run


class Watcher(Protocol):
    """Whoever looks on while runs train, and may ask to stop."""

    stop_requested: bool

    def progress(self, experiment: Experiment, flops: float) -> None:
        """`flops` have been spent on this experiment."""

    def finished(self, run: Run) -> None:
        """This run has ended and is on disk."""


@dataclass
class Unwatched:
    """Trains in silence."""

    stop_requested: bool = False

    def progress(self, experiment: Experiment, flops: float) -> None:
        pass

    def finished(self, run: Run) -> None:
        pass


class Trainer(Protocol):
    """Trains one experiment, with `folder` for its files, and returns what came of it.

    Divergence and failures of its own are results; whatever a user's code raises is raised, and
    `KeyboardInterrupt` when the watcher asked to stop and the way back is on disk.
    """

    def __call__(self, experiment: Experiment, folder: Path, watcher: Watcher) -> Run: ...

    @property
    def pins(self) -> Mapping[str, Any]:
        """Its choices that hold for all runs of a study, from the first one on."""

    def threads(self, plan: Plan, most: int) -> int:
        """CPU threads, up to `most`, with which it trains the plan fastest here."""

    def tuned(self, plan: Plan, threads: int, pinned: Mapping[str, Any]) -> Trainer:
        """The same, made to train the plan as fast as may be with so many CPU threads.

        Choices that the study has `pinned` already are kept.
        """
