"""Train several experiments at once on one machine: worker processes fed from one queue.

A worker builds model, dataset and the rest from the config once and then takes experiments as
they come, so that a further run costs no start. A worker that is killed takes only its run with
it. Workers are forked off a process that has imported torch and done nothing with it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from flops_fit.errors import StudyError, StudyWarning, UserError
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.plan.trunks import Chain
from flops_fit.report.screen import warnings_told
from flops_fit.store.execution import Patience, Unit, longest_first, train_unit
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Trainer, Watcher
from flops_fit.store.unguarded import OURS, check_exit_code, starting
from flops_fit.study.supervised import Supervised, in_log, too_long, unseen
from flops_fit.study.surroundings import Place, Streams, environment

POLL_SECONDS = 0.2
"""Between looks at whether a stop was requested."""

STOP_SECONDS = 20.0
"""Workers may take to write their checkpoints before they are killed."""

HURRY_SECONDS = 1.0
"""They may take to end their commands where a second stop was requested."""

METHOD: Literal["forkserver", "spawn"] = "forkserver" if sys.platform == "linux" else "spawn"
"""How workers are started. Elsewhere the system's libraries don't bear a fork."""

PRELOADED = ["torch", "numpy", "flops_fit.building.from_config", "flops_fit.study.workers"]
"""Modules that take long to import and don't touch a GPU, which no fork survives."""

STOPS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Signals that reach a whole process group, or a worker alone."""


def _context() -> ForkServerContext | SpawnContext:
    if METHOD == "forkserver":
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


class AtOnce(KeyboardInterrupt):
    """A stop was requested for the second time."""


def each_chain(work: Sequence[Chain]) -> list[Unit]:
    """Nothing trains together."""
    return [Unit(chain) for chain in work]


@dataclass(frozen=True)
class Workers:
    """Trains in `num_workers` processes with `threads` CPU threads each, longest unit first.

    `make_trainer` is called in each process and must be picklable; `units` says what of the work
    one process should train together. `gpus`, where there are any, go round among the workers.
    `patience` ends a sweep whose runs fail. A run that takes longer than `timeout_seconds` fails.
    What runs print is in their folders, in log.txt.
    """

    make_trainer: Callable[[], Trainer]
    folder: StudyFolder
    num_workers: int
    threads: int
    gpus: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)
    units: Callable[[Sequence[Chain]], list[Unit]] = each_chain
    timeout_seconds: float = math.inf

    def __call__(self, work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        queue = deque(longest_first(self.units(work), "cuda" if self.gpus else "cpu"))
        workers: list[Worker] = []
        ended: list[Run] = []
        deaths = Deaths()
        try:
            slots = range(min(self.num_workers, len(queue)))
            workers.extend(self._start(slot) for slot in slots)  # each as soon as it is started
            while queue or any(worker.work for worker in workers):
                _hand_out(queue, workers)
                self._end_overdue(workers)
                for worker in _with_news(workers):
                    run = self._listen(worker, watcher, deaths)
                    ended += [run] if run else []
                    if not worker.work and worker.rest:
                        queue.extendleft(worker.rest)
                        worker.rest = ()
                    if worker.is_dead:
                        workers[workers.index(worker)] = self._start(worker.slot)
                    if run:
                        self.patience.heed(run)
                if watcher.stop_requested:
                    raise KeyboardInterrupt
        except AtOnce:
            _hurry(workers)
            raise
        finally:
            _stop(workers)
        return ended

    def _start(self, slot: int) -> Worker:
        context = _context()
        here, there = context.Pipe()
        of_slot = {"OMP_NUM_THREADS": str(self.threads)}
        if self.gpus:
            of_slot["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        has_one = self.gpus and "," not in self.gpus[0]  # else its own processes share them out
        gpu = slot % len(self.gpus) if has_one else None
        place = Place({**os.environ, **of_slot}, self.threads, gpu)
        make = partial(_supervised, self.make_trainer, self.timeout_seconds)
        given = (there, Streams(), place, make, self.folder)
        process = context.Process(target=_work, name=f"{OURS}-worker-{slot}", args=given)
        resource_tracker.ensure_running()  # which lets signals through again
        with environment(of_slot):
            if METHOD == "forkserver":
                with _held_back(STOPS):  # it and all that it forks begin so: see `_work`
                    forkserver.set_forkserver_preload(PRELOADED)
                    forkserver.ensure_running()
                with starting():
                    process.start()  # waits for its imports
            else:
                with _held_back(STOPS), starting():
                    process.start()
        there.close()
        return Worker(slot, process, here)

    def _end_overdue(self, workers: Sequence[Worker]) -> None:
        """Kill those that heard of no time limit, such as where data never come."""
        for worker in workers:
            allowed = self.timeout_seconds * worker.num_limits + STOP_SECONDS
            if worker.work and time.monotonic() > worker.since + allowed:
                worker.is_overdue = True
                worker.process.kill()

    def _listen(self, worker: Worker, watcher: Watcher, deaths: Deaths) -> Run | None:
        """Take one message; returns the run that it says has ended."""
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionError):
            return self._bury(worker, watcher, deaths)
        if isinstance(message, UserError):
            raise message
        if isinstance(message, Found):
            worker.work = tuple(e for e in worker.work if e.id != message.run.id)
            watcher.found(message.run)
            return message.run
        if isinstance(message, Said):
            warnings.warn(message.text, StudyWarning, stacklevel=2)
            return None
        if isinstance(message, Run):
            worker.work = tuple(e for e in worker.work if e.id != message.id)
            watcher.finished(message)
            return message
        if message is None:
            if worker.work:  # another process is at it, and goes on from there
                worker.rest = ()
            worker.is_ready, worker.is_idle, worker.work = True, True, ()
            return None
        name, flops = message
        for experiment in worker.work:
            if experiment.id == name:
                watcher.progress(experiment, flops)
        return None

    def _bury(self, worker: Worker, watcher: Watcher, deaths: Deaths) -> Run | None:
        """The run that a dead worker was at: failed, unless it had just been written. Those that
        trained together are to be tried alone, and one that was asked to stop goes on elsewhere.

        Raises `StudyError` where workers die again and again before they train.
        """
        worker.process.join()
        worker.is_dead = True
        work, worker.work = worker.work, ()
        code = worker.process.exitcode
        if not worker.is_ready:
            check_exit_code(code)
            deaths.at_start(code)
            return None
        if len(work) > 1:
            worker.rest = tuple(Unit((experiment,)) for experiment in work)
        if len(work) != 1:
            return None
        [experiment] = work
        if code == 0 and deaths.may_go_on(experiment):  # SIGTERM: it has left a checkpoint
            worker.rest = (Unit((experiment,)), *worker.rest)
            return None
        run = self.folder.completed_run(experiment)
        if run is None:
            reason = (
                f"the worker process died with exit code {code} (-9 is often want of memory): "
                "lower micro_batch_size or workers, and run the same command again"
            )
            if worker.is_overdue:
                reason = f"{too_long(self.timeout_seconds)} (it did not stop when asked to)"
            run = ended_run(experiment, Status.FAILED, reason)
            self.folder.write_run(run)
        watcher.finished(run)
        return run


PYTHON_FAILED = 1
"""Exit code of a process that an exception ended."""

MOST_DEATHS = 3
"""Workers that may die before they train, and stops of one run, until it is given up."""


@dataclass
class Deaths:
    """Of workers, in one sweep."""

    stillborn: int = 0
    stopped: Counter[str] = field(default_factory=Counter)  # id -> workers that were stopped at it

    def at_start(self, code: int | None) -> None:
        """One died before it trained. Raises `RuntimeError` where it could not make its parts,
        which no other would, and `StudyError` where it is not the first."""
        if code == PYTHON_FAILED:
            raise RuntimeError(f"a worker process ended with exit code {code} before it trained")
        self.stillborn += 1
        if self.stillborn >= MOST_DEATHS:
            raise StudyError(
                f"{self.stillborn} worker processes died before they trained, the last with exit "
                f"code {code} (-9 is often want of memory, -15 somebody's request): set fewer "
                "workers, or mend what ends them, and run the same command again"
            )

    def may_go_on(self, experiment: Experiment) -> bool:
        """Whether a run whose worker was asked to stop is tried once more."""
        self.stopped[experiment.id] += 1
        return self.stopped[experiment.id] < MOST_DEATHS


@dataclass
class Worker:
    """A process, the way to it, and what it is at."""

    slot: int
    process: BaseProcess
    connection: Connection
    work: tuple[Experiment, ...] = ()
    rest: tuple[Unit, ...] = ()  # to be trained when the work has ended
    is_ready: bool = False  # has built its parts
    is_idle: bool = False  # and waits for work
    is_dead: bool = False
    is_overdue: bool = False
    since: float = 0.0  # when it was given its work
    num_limits: int = 1  # time limits that the work may take one after the other


def _hand_out(queue: deque[Unit], workers: Sequence[Worker]) -> None:
    for worker in workers:
        if queue and worker.is_idle:
            unit = queue.popleft()
            now, later = unit.experiments, unit.experiments[:0]
            if not unit.together:
                now, later = unit.experiments[:1], unit.experiments[1:]
            with suppress(ConnectionError):  # it has just died, which its next news will say
                worker.connection.send(Unit(now, unit.together))
            worker.work, worker.is_idle, worker.since = now, False, time.monotonic()
            worker.num_limits = 1 + len(now) if unit.together else 1  # and then each alone
            worker.rest = (Unit(later),) if later else ()


def _with_news(workers: Sequence[Worker]) -> list[Worker]:
    """Workers that sent something or died."""
    news = wait([worker.connection for worker in workers], timeout=POLL_SECONDS)
    return [worker for worker in workers if worker.connection in news]


def _stop(workers: Sequence[Worker]) -> None:
    """End idle workers at once, busy ones when they have written a checkpoint, or where a second
    stop is requested meanwhile."""
    try:
        for worker in workers:
            if worker.work:
                worker.process.terminate()
            else:
                worker.process.kill()
        _join(workers, STOP_SECONDS)
    except AtOnce:
        _hurry(workers)
        raise
    finally:
        for worker in workers:
            worker.process.kill()
        _join(workers, STOP_SECONDS)
        for worker in workers:
            worker.connection.close()


def _hurry(workers: Sequence[Worker]) -> None:
    """They end what they run, without checkpoints."""
    ends = time.monotonic() + HURRY_SECONDS
    while time.monotonic() < ends and any(worker.process.is_alive() for worker in workers):
        for worker in workers:
            worker.process.terminate()
        _join(workers, POLL_SECONDS)


def _join(workers: Sequence[Worker], seconds: float) -> None:
    """Wait for all of them, so long together."""
    ends = time.monotonic() + seconds
    for worker in workers:
        worker.process.join(max(0.0, ends - time.monotonic()))


@contextmanager
def _held_back(signals: set[signal.Signals]) -> Iterator[None]:
    """Inside, they wait; processes that are started begin with them held back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Found:
    """A worker's word of a run that another process has ended meanwhile."""

    run: Run


@dataclass(frozen=True)
class Said:
    """A warning of a worker, for whoever looks on."""

    text: str


@dataclass
class PipeWatcher:
    """Passes on to the parent process what a worker does."""

    connection: Connection
    stop_requested: bool = False
    _lock: Any = field(default_factory=threading.Lock)  # user's code may warn in a thread

    def progress(self, experiment: Experiment, flops: float) -> None:
        self.send((experiment.id, float(flops)))

    def finished(self, run: Run) -> None:
        self.send(run)

    def found(self, run: Run) -> None:
        self.send(Found(run))

    def said(self, text: str) -> None:
        self.send(Said(text))

    def send(self, message: Any) -> None:
        try:
            with self._lock:
                self.connection.send(message)
        except ConnectionError:  # the parent was killed: leave a checkpoint and go
            self.stop_requested = True

    def request_stop(self, *_: object) -> None:
        """As a signal does: a second one ends what is under way without a checkpoint."""
        if self.stop_requested:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise KeyboardInterrupt
        self.stop_requested = True


def _supervised(make_trainer: Callable[[], Trainer], timeout_seconds: float) -> Trainer:
    """What a worker trains with: what runs print is in their folders. What parts print as they are
    made was seen when the parent process made them."""
    with unseen():
        trainer = make_trainer()
    return Supervised(trainer, timeout_seconds, in_log)


def _work(
    connection: Connection,
    streams: Streams,
    place: Place,
    make_trainer: Callable[[], Trainer],
    folder: StudyFolder,
) -> None:
    """A worker's life. Signals of the terminal reach the whole process group; only the parent acts
    on them."""
    watcher = PipeWatcher(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, watcher.request_stop)
    streams.take()
    place.take()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        with warnings_told(watcher.said):
            trainer = make_trainer()
            watcher.send(None)  # ready
            while not watcher.stop_requested:
                if (unit := _next_unit(connection)) is None:
                    return
                train_unit(unit, trainer, folder, watcher)
                watcher.send(None)  # ready for more
    except UserError as error:
        watcher.send(error)
    except KeyboardInterrupt:
        return


def _next_unit(connection: Connection) -> Unit | None:
    """What to train next; None where nobody is there any more who would say it."""
    try:
        unit: Unit = connection.recv()
    except (EOFError, ConnectionError):
        return None
    return unit
