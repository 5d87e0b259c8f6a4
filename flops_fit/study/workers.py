"""Train several experiments at once on one machine: worker processes fed from one queue.

A worker builds model, dataset and the rest from the config once and then takes experiments as
they come, so that a further run costs no start. A worker that is killed takes only its run with
it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from flops_fit.errors import StudyError, UserError
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.plan.trunks import Chain
from flops_fit.report.screen import warnings_said
from flops_fit.store.execution import Patience, Unit, train_unit
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Trainer, Watcher

POLL_SECONDS = 0.2
"""Between looks at whether a stop was requested."""

STOP_SECONDS = 20.0
"""A worker may take to write its checkpoint before it is killed."""


def each_chain(work: Sequence[Chain]) -> list[Unit]:
    """Nothing trains together."""
    return [Unit(chain) for chain in work]


@dataclass(frozen=True)
class Workers:
    """Trains in `num_workers` processes with `threads` CPU threads each, longest unit first.

    `make_trainer` is called in each process and must be picklable; `units` says what of the work
    one process should train together. `gpus`, where there are any,
    go round among the workers. `patience` ends a sweep whose runs fail.
    """

    make_trainer: Callable[[], Trainer]
    folder: StudyFolder
    num_workers: int
    threads: int
    gpus: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)
    units: Callable[[Sequence[Chain]], list[Unit]] = each_chain

    def __call__(self, work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        units = self.units(work)
        queue = deque(sorted(units, key=lambda unit: unit.length, reverse=True))
        workers: list[Worker] = []
        ended: list[Run] = []
        deaths = Deaths()
        try:
            workers += [self._start(slot) for slot in range(min(self.num_workers, len(queue)))]
            while queue or any(worker.work for worker in workers):
                _hand_out(queue, workers)
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
        finally:
            _stop(workers)
        return ended

    def _start(self, slot: int) -> Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, self.make_trainer, self.folder, self.threads)
        )
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        with _environment({"OMP_NUM_THREADS": str(self.threads), **gpu}):
            process.start()
        there.close()
        return Worker(slot, process, here)

    def _listen(self, worker: Worker, watcher: Watcher, deaths: Deaths) -> Run | None:
        """Take one message; returns the run that it says has ended."""
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._bury(worker, watcher, deaths)
        if isinstance(message, UserError):
            raise message
        if isinstance(message, Found):
            worker.work = tuple(e for e in worker.work if e.id != message.run.id)
            watcher.found(message.run)
            return message.run
        if isinstance(message, Run):
            worker.work = tuple(e for e in worker.work if e.id != message.id)
            watcher.finished(message)
            return message
        if message is None:
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


def _hand_out(queue: deque[Unit], workers: Sequence[Worker]) -> None:
    for worker in workers:
        if queue and worker.is_idle:
            unit = queue.popleft()
            now, later = unit.experiments, unit.experiments[:0]
            if not unit.together:
                now, later = unit.experiments[:1], unit.experiments[1:]
            with suppress(BrokenPipeError):  # it has just died, which its next news will say
                worker.connection.send(Unit(now, unit.together))
            worker.work, worker.is_idle = now, False
            worker.rest = (Unit(later),) if later else ()


def _with_news(workers: Sequence[Worker]) -> list[Worker]:
    """Workers that sent something or died."""
    news = wait([worker.connection for worker in workers], timeout=POLL_SECONDS)
    return [worker for worker in workers if worker.connection in news]


def _stop(workers: Sequence[Worker]) -> None:
    """End idle workers at once, busy ones when they have written a checkpoint."""
    for worker in workers:
        if not worker.work:
            worker.process.kill()
        else:
            worker.process.terminate()
    for worker in workers:
        worker.process.join(STOP_SECONDS)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """What a child process started inside sees from its first import on."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Found:
    """A worker's word of a run that another process has ended meanwhile."""

    run: Run


@dataclass
class PipeWatcher:
    """Passes on to the parent process what a worker does."""

    connection: Connection
    stop_requested: bool = False

    def progress(self, experiment: Experiment, flops: float) -> None:
        try:
            self.connection.send((experiment.id, float(flops)))
        except BrokenPipeError:  # the parent was killed: leave a checkpoint and go
            self.stop_requested = True

    def finished(self, run: Run) -> None:
        self._tell(run)

    def found(self, run: Run) -> None:
        self._tell(Found(run))

    def _tell(self, message: Run | Found) -> None:
        try:
            self.connection.send(message)
        except BrokenPipeError:  # likewise; the run is on disk
            self.stop_requested = True


def _work(
    connection: Connection, make_trainer: Callable[[], Trainer], folder: StudyFolder, threads: int
) -> None:
    """A worker's life. Ctrl-C reaches the whole process group; only the parent acts on it."""
    watcher = PipeWatcher(connection)

    def request_stop(*_: object) -> None:
        watcher.stop_requested = True

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, request_stop)
    torch.set_num_threads(threads)
    try:
        with warnings_said():
            trainer = make_trainer()
            connection.send(None)  # ready
            while not watcher.stop_requested:
                train_unit(connection.recv(), trainer, folder, watcher)
                connection.send(None)  # ready for more
    except UserError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return
