"""What a job does on its node: train its runs of the stored plan, as every executor does."""

from __future__ import annotations

import hashlib
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import StudyError
from flops_fit.files import read_bytes
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status
from flops_fit.plan.trunks import chains
from flops_fit.report.screen import say, warnings_said
from flops_fit.settings import SweepSettings
from flops_fit.store.execution import SweepStopped
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Prepared, Spec, Watcher
from flops_fit.store.sharing import present
from flops_fit.study.sweeps import launched, retried, tuned_here
from flops_fit.training.trainer import TorchTrainer

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

SOME_FAILED = 3
"""Exit code, as that of `flops-fit train`."""


@dataclass(frozen=True)
class Packed:
    """A pickled maker of the study's spec, and what it must hash to."""

    path: Path
    sha256: str
    import_path: tuple[str, ...]  # where the user's modules are found

    def spec(self) -> Spec:
        """Raises `StudyError` where the file is not the one that was written for this job."""
        content = read_bytes(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise StudyError(f"{self.path} was changed after it was written: submit again")
        sys.path += [folder for folder in self.import_path if folder not in sys.path]
        spec: Spec = pickle.loads(content)()
        return spec


@dataclass
class TrainRuns:
    """Trains runs of a kept plan. Called by submitit, once for each start of the job.

    When its time is up it leaves checkpoints and is queued again; when it is preempted or
    cancelled it leaves them too, and the cluster knows what is to become of it.
    """

    study: Path
    plan: str  # name of its folder
    runs: tuple[str, ...]
    packed: Packed
    settings: SweepSettings
    gained: bool = False  # whether this start has come further

    def __call__(self) -> None:
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: calls `checkpoint`, queues again
        failed = self.gained = False
        with asked_to_stop() as asked, warnings_said():
            try:
                failed = self._train(asked)
            except KeyboardInterrupt:
                say(f"stopped by {asked.name}: what was trained is kept")
        if asked.number == signal.SIGUSR2 and callable(requeue):
            requeue(signal.SIGUSR2, None)
        if failed:
            raise SystemExit(SOME_FAILED)

    def checkpoint(self) -> DelayedSubmission | None:
        """What the next start is to do; None where this one came no further."""
        from submitit.helpers import DelayedSubmission

        if not self.gained:
            say("not queued again: nothing was gained in this time: set a larger executor.minutes")
            return None
        return DelayedSubmission(self)

    def _train(self, asked: Asked) -> bool:
        """Whether some failed. Raises `KeyboardInterrupt` where a stop was asked for."""
        folder = StudyFolder(self.study)
        whole = folder.plan_in(folder.path / "plans" / self.plan)
        mine = tuple(e for e in whole.experiments if e.id in set(self.runs))
        if len(mine) < len(self.runs):
            raise StudyError(f"{folder.path}: plan {self.plan} has not all runs of this job")
        todo = folder.missing(replace(whole, experiments=mine), retried(self.settings))
        if not todo:
            return False
        spec = self.packed.spec()
        with folder.deciding():
            prepared = prepared_here(spec, whole, todo, folder)
            tuned = tuned_here(todo, prepared, folder, self.settings)
        with (
            present(folder.path),
            launched(todo, spec, tuned, folder, self.settings) as (execute, watcher),
        ):
            gains = Gains(watcher)
            self.gained = not isinstance(tuned.trainer, TorchTrainer)  # a command tells nothing
            try:
                with asked.stopping(watcher):
                    runs = execute(chains(todo), gains)
            except SweepStopped:
                return True
            finally:
                self.gained = self.gained or gains.any
        return any(run.status == Status.FAILED for run in runs)


def prepared_here(
    spec: Spec, plan: Plan, todo: Sequence[Experiment], folder: StudyFolder
) -> Prepared:
    """The trainer of a kept plan: by what the study has pinned, else, first of all, planned anew.

    Raises `StudyError` where other runs are planned here than where it was submitted.
    """
    if "threads" in folder.pinned():
        trainer = spec.pinned_trainer(folder)
        device = trainer.recipe.device if isinstance(trainer, TorchTrainer) else None
        return Prepared(plan, trainer, device)
    prepared = spec.prepare(folder)
    if not {e.id for e in todo} <= {e.id for e in prepared.plan.experiments}:
        raise StudyError(
            f"{folder.path}: on this node other runs are planned than where they were submitted "
            "from: are the data and the code the same here?"
        )
    return replace(prepared, plan=plan)


class Gains:
    """Watches for another watcher, and knows whether any run has come further or ended."""

    def __init__(self, watcher: Watcher) -> None:
        self.any = False
        self._watcher = watcher
        self._first: dict[str, float] = {}  # id -> FLOPs where it was taken up

    @property
    def stop_requested(self) -> bool:
        return self._watcher.stop_requested

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        self._watcher.stop_requested = value

    def progress(self, experiment: Experiment, flops: float) -> None:
        self._watcher.progress(experiment, flops)
        self.any = self.any or flops > self._first.setdefault(experiment.id, flops)

    def finished(self, run: Run) -> None:
        self._watcher.finished(run)
        self.any = True

    def found(self, run: Run) -> None:
        self._watcher.found(run)


@dataclass
class Asked:
    """Whether this job is to stop, and by which signal; the one of its time limit goes first."""

    number: int | None = None
    watcher: Watcher | None = None

    @property
    def name(self) -> str:
        return "nobody" if self.number is None else signal.Signals(self.number).name

    def heed(self, number: int, frame: object = None) -> None:
        self.number = signal.SIGUSR2 if signal.SIGUSR2 in (number, self.number) else number
        if self.watcher is not None:
            self.watcher.stop_requested = True

    @contextmanager
    def stopping(self, watcher: Watcher) -> Iterator[None]:
        """Inside, a signal stops what the watcher watches; so does one that came before."""
        self.watcher = watcher
        if self.number is not None:
            watcher.stop_requested = True
        with _handled(self):
            yield


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """SIGTERM and the signal that time is nearly up stop nothing by themselves."""
    asked = Asked()
    with _handled(asked):
        yield asked


@contextmanager
def _handled(asked: Asked) -> Iterator[None]:
    """By this in place of whoever has the signals; a cluster may send them several times."""
    before: dict[int, Any] = {
        s: signal.signal(s, asked.heed) for s in (signal.SIGTERM, signal.SIGUSR2)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
