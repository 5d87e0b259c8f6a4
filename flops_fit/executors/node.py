"""What a job is, and how it ends: submitit unpickles it on a node and calls it.

Imports nothing heavy: signals that come before it is called end the job.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import StudyError
from flops_fit.files import read_bytes
from flops_fit.report.screen import say, warnings_said
from flops_fit.settings import SweepSettings
from flops_fit.study.jobs import asked as ask_cluster

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

    from flops_fit.store.protocols import Logger, Spec, Watcher

SOME_FAILED = 3
"""Exit code, as that of `flops-fit train`."""


@dataclass(frozen=True)
class Packed:
    """A pickled maker of the study's spec, its logger, and what they must hash to."""

    path: Path
    sha256: str
    import_path: tuple[str, ...]  # where the user's modules are found

    def unpacked(self) -> tuple[Spec, Logger | None]:
        """Raises `StudyError` where the file is not the one that was written for this job."""
        content = read_bytes(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise StudyError(f"{self.path} was changed after it was written: submit again")
        sys.path += [folder for folder in self.import_path if folder not in sys.path]
        make, logger = pickle.loads(content)
        return make(), logger


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
        failed = False
        with asked_to_stop() as asked, warnings_said():
            from flops_fit.executors.share import train_share

            try:
                failed = train_share(self, asked)
            except KeyboardInterrupt:
                say(f"stopped by {asked.name}: what was trained is kept")
        self.gained = asked.gained
        if asked.number == signal.SIGTERM and is_left_running():
            self.gained, asked.number = True, signal.SIGUSR2
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


def is_left_running() -> bool:
    """Whether the cluster takes this job, which it has sent SIGTERM, for one that runs.

    So it does while a preempted job has its grace: one that ends in it counts as done, and is not
    queued again. One that is cancelled or requeued already doesn't run any more.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    with suppress(StudyError, OSError):
        said = ask_cluster(["squeue", "--noheader", f"--jobs={job}", "--format=%T"]).stdout
        return said.split() == ["RUNNING"]
    return False


@dataclass
class Asked:
    """Whether this job is to stop, and by which signal; the one of its time limit goes first.

    `gained` says whether it has come further since its start.
    """

    number: int | None = None
    gained: bool = False
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
    """SIGTERM and the signal that time is nearly up stop nothing by themselves.

    The latter goes to all processes of a job and would end those that are started inside, workers
    and commands: they inherit that it is blocked, and a thread waits for it here.
    """
    asked = Asked()
    with _handled(asked):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        threading.Thread(target=_wait_for_it, args=(asked,), daemon=True).start()
        try:
            yield asked
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_it(asked: Asked) -> None:
    while True:
        asked.heed(signal.sigwait({signal.SIGUSR2}))


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
