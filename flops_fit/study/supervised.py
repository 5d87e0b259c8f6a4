"""A trainer under supervision: its runs end at a time limit, and what they print goes where it is
to go."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flops_fit.errors import StudyError
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run
from flops_fit.store.protocols import ForAnother, TakesTurns, Trainer, Turns, Watcher

LOG = "log.txt"
"""In a run's folder: what was printed while it trained, by us or by a command."""

Output = Callable[[Path], AbstractContextManager[None]]
"""What is printed inside goes where it says; given the path of a run's log."""


class TookTooLong(StudyError):
    """A run was ended at its time limit."""


def on_screen(log: Path) -> AbstractContextManager[None]:
    """Printed as it comes."""
    return nullcontext()


@contextmanager
def in_log(log: Path) -> Iterator[None]:
    """Added to the log, past Python too. Where nothing is printed, or the log can't be written,
    there is none."""
    try:
        number = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        with unseen():
            yield
        return
    try:
        with _printed_to(number):
            yield
    finally:
        if os.fstat(number).st_size == 0:
            with suppress(OSError):
                log.unlink()
        os.close(number)


@contextmanager
def unseen() -> Iterator[None]:
    """Goes nowhere."""
    with open(os.devnull, "wb") as nowhere, _printed_to(nowhere.fileno()):
        yield


@contextmanager
def _printed_to(number: int) -> Iterator[None]:
    """Inside, stdout and stderr are another file."""
    _flush()
    screen = [(stream, os.dup(stream)) for stream in (1, 2)]
    for stream, _ in screen:
        os.dup2(number, stream)
    try:
        yield
    finally:
        _flush()
        for stream, kept in screen:
            os.dup2(kept, stream)
            os.close(kept)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a full disk; closed
            stream.flush()


@dataclass(frozen=True)
class Supervised:
    """A trainer whose runs may take so many `seconds`; each has that time again when it is gone on
    with. One that takes longer leaves a checkpoint and fails by `TookTooLong`."""

    trainer: Trainer
    seconds: float = math.inf
    output: Output = on_screen

    def __call__(self, experiment: Experiment, folder: Path, watcher: Watcher) -> Run:
        clock = Clock(watcher, self.seconds)
        with self.output(folder / LOG), clock.running():
            return self.trainer(experiment, folder, clock)

    @property
    def pins(self) -> Mapping[str, Any]:
        return self.trainer.pins

    def threads(self, plan: Plan, most: int) -> int:
        return self.trainer.threads(plan, most)

    def tuned(self, plan: Plan, threads: int, pinned: Mapping[str, Any]) -> Supervised:
        return replace(self, trainer=self.trainer.tuned(plan, threads, pinned))

    @property
    def takes_turns(self) -> bool:
        return isinstance(self.trainer, TakesTurns) and self.trainer.takes_turns

    def groups(self, experiments: Sequence[Experiment]) -> list[tuple[Experiment, ...]]:
        return self.trainer.groups(experiments) if isinstance(self.trainer, TakesTurns) else []

    def in_turns(
        self,
        experiments: Sequence[Experiment],
        folders: Mapping[str, Path],
        watcher: Watcher,
        *,
        together: bool,
    ) -> Turns | None:
        """What runs that train together print goes to the first one's log."""
        if not isinstance(self.trainer, TakesTurns):
            return None
        clock, output = Clock(watcher, self.seconds), self.output(folders[experiments[0].id] / LOG)
        with output, clock.running():
            turns = self.trainer.in_turns(experiments, folders, clock, together=together)
        if turns is None:
            return None
        return SupervisedTurns(turns, clock, self.output, folders[experiments[0].id] / LOG)


@dataclass(frozen=True)
class SupervisedTurns:
    """Turns that end when the clock says so."""

    turns: Turns
    clock: Clock
    output: Output
    log: Path

    def take(self) -> list[Run]:
        with self.output(self.log), self.clock.running():
            return self.turns.take()

    def drop(self) -> None:
        self.turns.drop()


class Clock(ForAnother):
    """Watches for another watcher, and asks for a stop when the time is up as well."""

    def __init__(self, watcher: Watcher, seconds: float) -> None:
        super().__init__(watcher)
        self._seconds = seconds
        self._ends = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._ends

    @property
    def stop_requested(self) -> bool:
        return self._watcher.stop_requested or self.is_over

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        self._watcher.stop_requested = value

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside, a stop that the clock asked for raises `TookTooLong`."""
        try:
            yield
        except KeyboardInterrupt:
            if self._watcher.stop_requested or not self.is_over:
                raise
            raise TookTooLong(too_long(self._seconds)) from None


def too_long(seconds: float) -> str:
    """Why a run was ended."""
    return (
        f"the run took longer than timeout_seconds={seconds:g}: raise it, and the same command "
        "goes on from the checkpoint"
    )
