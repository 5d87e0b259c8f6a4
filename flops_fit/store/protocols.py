"""What a study is made of and what trains it, as those who plan and launch sweeps see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.proposal import Bounds, Proposal
from flops_fit.plan.run import Run
from flops_fit.plan.sweep import Family
from flops_fit.settings import SweepSettings
from flops_fit.store.folder import StudyFolder

if TYPE_CHECKING:
    import torch


class Watcher(Protocol):
    """Whoever looks on while runs train, and may ask to stop."""

    stop_requested: bool

    def progress(self, experiment: Experiment, flops: float) -> None:
        """`flops` have been spent on this experiment."""

    def finished(self, run: Run) -> None:
        """This run has ended and is on disk."""

    def found(self, run: Run) -> None:
        """Another process has ended this run meanwhile."""


Scalar = float | str
"""A number or a word that a logger keeps."""


Point = tuple[int, Mapping[str, float]]


class Log(Protocol):
    """Where curves and answer of one study go beside its own files.

    Whatever it raises is one warning and the end of it; runs go on.
    """

    def begin(self, run: str, settings: Mapping[str, Scalar]) -> None:
        """A run, by its id, and what tells it from the others."""

    def points(self, run: str, points: Sequence[Point]) -> None:
        """New ones of its curve: steps, and what a line of metrics.jsonl has of each."""

    def end(self, run: str, result: Mapping[str, Scalar], *, completed: bool) -> None:
        """How it ended."""

    def answer(self, summary: Mapping[str, Scalar], figures: Sequence[Path]) -> None:
        """What the law says, or why there is none, and the paths of its PNGs."""

    def close(self) -> None:
        """The study's training is over; runs that have not ended were stopped."""


class Logger(Protocol):
    """Opens the log of a study, given its folder."""

    def __call__(self, study: Path, /) -> Log: ...


class Executor(Protocol):
    """Has runs trained in places that nobody here waits for, such as the jobs of a cluster."""

    def planned(self, spec: Spec, settings: SweepSettings) -> Spec:
        """The same, planned here as it is there: ids know the precision of that device."""

    def submit(
        self,
        spec: Spec,
        prepared: Prepared,
        missing: Sequence[Experiment],
        folder: StudyFolder,
        settings: SweepSettings,
        logger: Logger | None,
    ) -> Submitted:
        """Has those trained of what is missing of the prepared plan that are not under way, their
        curves in the logger too.

        The settings say whether it is a dry run. Raises `ConfigError` for what can't be had there.
        """


class Submitted(Protocol):
    """What an executor has taken on."""

    @property
    def waits(self) -> bool:
        """Whether runs of the plan are still to come."""

    @property
    def lines(self) -> Sequence[str]:
        """What was submitted, in sentences."""

    @property
    def scripts(self) -> Sequence[str]:
        """What a dry run would submit."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass
class Unwatched:
    """Trains in silence."""

    stop_requested: bool = False

    def progress(self, experiment: Experiment, flops: float) -> None:
        pass

    def finished(self, run: Run) -> None:
        pass

    def found(self, run: Run) -> None:
        pass


class ForAnother:
    """Watches for another watcher; those who add something to it say what."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    @property
    def stop_requested(self) -> bool:
        return self._watcher.stop_requested

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        self._watcher.stop_requested = value

    def progress(self, experiment: Experiment, flops: float) -> None:
        self._watcher.progress(experiment, flops)

    def finished(self, run: Run) -> None:
        self._watcher.finished(run)

    def found(self, run: Run) -> None:
        self._watcher.found(run)


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


class Turns(Protocol):
    """Training piece by piece, while others on the same device have their turns."""

    def take(self) -> list[Run]:
        """One turn; the records of the runs that ended in it.

        Raises what a `Trainer` raises, and `MemoryError` where there is no room beside the others.
        """

    def drop(self) -> None:
        """Give back what it holds on the device; checkpoints stay."""


@runtime_checkable
class TakesTurns(Protocol):
    """A `Trainer` that can train several runs on one device at once."""

    @property
    def takes_turns(self) -> bool:
        """Whether it does so here, in this study."""

    def groups(self, experiments: Sequence[Experiment]) -> list[tuple[Experiment, ...]]:
        """Those that should train together, as one; the others are in none."""

    def in_turns(
        self,
        experiments: Sequence[Experiment],
        folders: Mapping[str, Path],
        watcher: Watcher,
        *,
        together: bool,
    ) -> Turns | None:
        """Of those that train `together`, or of a single one; each id has a folder for its files.

        None where the run should have the device for itself.
        """


@dataclass(frozen=True)
class Prepared:
    """The plan of a study and what trains it. Nothing has been written yet."""

    plan: Plan
    trainer: Trainer
    device: torch.device | None  # None: the trainer's own affair
    trains_with: str = ""  # loss, rate, batch and held-out part, in a sentence


class Spec(Protocol):
    """What a study is made of: of torch objects, or of a command."""

    @property
    def sources(self) -> Mapping[str, str]:
        """Names of the user's classes and functions -> hashes of their code."""

    def proposed(self, bounds: Bounds | None = None) -> tuple[Spec, Proposal]:
        """The same with budgets that data and sizes carry, within the bounds.

        Raises `PlanError` where there are none.
        """

    def prepare(self, folder: StudyFolder) -> Prepared:
        """Its plan and trainer. Raises `ConfigError` and `PlanError` for what can't be."""

    def pinned_trainer(self, folder: StudyFolder) -> Trainer:
        """Its trainer, built without planning from what the study has pinned."""

    def in_worker(self, trainer: Trainer | None = None) -> Callable[[], Spec]:
        """What makes it in a worker process, with what its `trainer` here has found out about its
        parts; can be pickled.

        Raises `ConfigError` where it can't be had there.
        """

    def for_optimum(self, prediction: Prediction) -> Spec:
        """The same with one experiment: the size nearest to the predicted optimum."""


class MeasuredFamily(Family, Protocol):
    """A family that knows whether its members say themselves what a token costs."""

    @property
    def declares_flops(self) -> bool: ...
