"""Runs that several processes of this machine train together, each with its own GPU or threads.

The processes are started with the first run and stay for those to come, since a start takes
seconds. Among each other they talk through torch: gloo, on GPUs nccl. The process that started
them hands them their runs, hears how these go, and ends all of them with the first that fails:
what the others wait for would never come.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run
from flops_fit.store.protocols import Trainer, Unwatched, Watcher
from flops_fit.store.unguarded import OURS, check_exit_code, starting
from flops_fit.training.devices import is_out_of_memory
from flops_fit.training.kernels import keep_freed_memory
from flops_fit.training.ranks import Ranks, Spread
from flops_fit.training.trainer import TorchTrainer, in_halves, portion_of, train

POLL_SECONDS = 0.2
"""Between looks at whether a stop was requested, and whether all processes live."""

PATIENCE_SECONDS = 600.0
"""That a process waits for the others in one exchange: to compile, or to read from a slow disk,
takes minutes."""

LOST_SECONDS = 5.0
"""Between what the others notice of a process's end, and the end itself, at most."""

LAST_WORDS_SECONDS = 20.0
"""For a checkpoint, where the process that started them has died."""

FIRST_STEP = ["torch.distributed.fsdp", "torch._dynamo"]
"""Modules that torch loads with the first step, which takes 2 s: once for all processes of a CPU.
Whether they touch a GPU, which no fork survives, was not tried."""

LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"
"""A variable of the environment that torch reads when it is loaded."""

STOP = "stop"
"""Said to the first process of a run."""


@dataclass(frozen=True)
class Task:
    """A run; `portion` (samples): what a process is given at once, where the recipe's and what
    memory allows was too much."""

    experiment: Experiment
    folder: Path
    portion: int | None


@dataclass(frozen=True)
class Stopped:
    """It was asked to stop, and a checkpoint is there."""


@dataclass(frozen=True)
class Failure:
    """What was raised, with its traceback; `portion` is what a process was given at once."""

    error: Exception
    trace: str
    portion: int | None


@dataclass(frozen=True)
class Warned:
    """What was warned of."""

    message: Warning
    filename: str
    line: int


@dataclass(frozen=True)
class Start:
    """What a process begins with: which of how many it is, the port where they meet, and the
    environment of who starts it, of which the server that forks it may know nothing."""

    rank: int
    count: int
    spread: Spread
    threads: int
    on_gpu: bool
    port: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


class OutOfMemory(MemoryError):
    """Of one process, with so many samples at once."""

    def __init__(self, message: str, portion: int) -> None:
        super().__init__(message)
        self.portion = portion


class SpreadTrainer:
    """The `Trainer` of runs over `count` processes.

    `make_trainer` is called in each of them and must be picklable; it makes a `TorchTrainer`, with
    what the study has pinned.
    """

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        count: int,
        spread: Spread,
        num_threads: int,
        *,
        on_gpus: bool,
    ) -> None:
        self._make_trainer = make_trainer
        self._starts = [Start(r, count, spread, num_threads, on_gpus) for r in range(count)]
        self._running: list[Processes] = []
        # A process waits for its children before it ends, and these would wait for a run.
        util.Finalize(self, _end, args=(self._running,), exitpriority=0)

    def __call__(self, experiment: Experiment, folder: Path, watcher: Watcher) -> Run:
        def attempt(portion: int | None) -> Run:
            try:
                return self._processes().train(Task(experiment, folder, portion), watcher)
            except BaseException:
                self.close()
                raise

        try:
            return attempt(None)
        except OutOfMemory as error:
            if error.portion == 1:
                raise
            portion = error.portion
        return in_halves(portion, attempt)

    @property
    def pins(self) -> Mapping[str, Any]:
        """Nothing: what it starts is made with the pins of the study."""
        return {}

    def threads(self, plan: Plan, most: int) -> int:
        return self._starts[0].threads

    def tuned(self, plan: Plan, threads: int, pinned: Mapping[str, Any]) -> SpreadTrainer:
        return self

    def _processes(self) -> Processes:
        if not self._running:
            self._running.append(Processes(self._make_trainer, self._starts))
        return self._running[0]

    def close(self) -> None:
        """End the processes; the next run starts others."""
        _end(self._running)


def _end(running: list[Processes]) -> None:
    while running:
        running.pop().end()


class Processes:
    """Of one run after the other."""

    def __init__(self, make_trainer: Callable[[], Trainer], starts: list[Start]) -> None:
        here = "127.0.0.1"
        self._store = TCPStore(here, 0, is_master=True, wait_for_workers=False)
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._is_idle = False
        context = multiprocessing.get_context("forkserver")
        further = [] if starts[0].on_gpu else FIRST_STEP
        context.set_forkserver_preload([__name__, *further])  # torch is loaded once for all
        for start in starts:
            mine, theirs = context.Pipe()
            start = replace(start, port=self._store.port, environment=dict(os.environ))
            process = context.Process(
                target=_live, name=f"{OURS}-rank-{start.rank}", args=(theirs, make_trainer, start)
            )
            with _as_they_start(), starting():
                process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(mine)

    def train(self, task: Task, watcher: Watcher) -> Run:
        """Raises what one of them raised, `RuntimeError` where one died, and `KeyboardInterrupt`
        when the watcher asked to stop and a checkpoint is there."""
        self._is_idle = False
        self._say_to_all(task)
        busy = set(self._connections)
        run: Run | None = None
        is_told = was_stopped = False
        while busy:
            for connection in wait(list(busy), POLL_SECONDS):
                assert isinstance(connection, Connection)
                match message := self._heard(connection):
                    case Failure():
                        raise self._failed(connection, message)
                    case Warned():
                        place = message.filename, message.line
                        warnings.warn_explicit(message.message, type(message.message), *place)
                    case float():
                        watcher.progress(task.experiment, message)
                    case _:
                        busy.remove(connection)
                        was_stopped = was_stopped or isinstance(message, Stopped)
                        run = message if isinstance(message, Run) else run
            self._check_alive(busy)
            if watcher.stop_requested and not is_told:
                with suppress(ConnectionError):  # its death is noticed in the next round
                    self._connections[0].send(STOP)
                is_told = True
        self._is_idle = True
        if was_stopped:
            raise KeyboardInterrupt
        assert run is not None  # of the first process
        return run

    def end(self) -> None:
        """Those that wait for a run leave by themselves, and others could wait for ever."""
        for connection in self._connections:
            connection.close()
        for process in self._processes if self._is_idle else ():
            process.join(LOST_SECONDS)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _say_to_all(self, task: Task) -> None:
        for connection in self._connections:
            try:
                connection.send(task)
            except ConnectionError:
                raise self._died(connection) from None

    def _heard(self, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, ConnectionError):
            raise self._died(connection) from None

    def _check_alive(self, busy: set[Connection]) -> None:
        """A process that it has started itself may hold its end of the pipe open."""
        for process, connection in zip(self._processes, self._connections, strict=True):
            if connection in busy and process.exitcode is not None and not connection.poll():
                raise self._died(connection)

    def _process(self, connection: Connection) -> BaseProcess:
        return self._processes[self._connections.index(connection)]

    def _name(self, connection: Connection) -> str:
        return f"process {self._connections.index(connection) + 1} of {len(self._connections)}"

    def _died(self, connection: Connection) -> RuntimeError:
        process = self._process(connection)
        process.join(LOST_SECONDS)
        check_exit_code(process.exitcode)
        return RuntimeError(
            f"{self._name(connection)} that trained the run died with exit code "
            f"{process.exitcode} (-9 is often want of memory): lower micro_batch_size, or raise "
            "gpus_per_run with spread=shards, and run the same command again, which goes on from "
            "the last checkpoint"
        )

    def _failed(self, connection: Connection, failure: Failure) -> Exception:
        """What is to be said of it: where another has died, that."""
        error = failure.error
        others = [c for c in self._connections if c is not connection]
        sentinels = {self._process(c).sentinel: c for c in others}
        may_be_of_a_loss = isinstance(error, dist.DistError) or "gloo" in str(error)
        dead = wait(list(sentinels), LOST_SECONDS if may_be_of_a_loss else 0.0)
        if dead:
            return self._died(next(c for sentinel, c in sentinels.items() if sentinel in dead))
        if failure.portion is not None and is_out_of_memory(error):
            error = OutOfMemory(f"{self._name(connection)}: {error}", failure.portion)
        error.add_note(f"in {self._name(connection)}:\n{failure.trace}")
        return error


@contextmanager
def _as_they_start() -> Iterator[None]:
    """What is started inside gets none of Ctrl-C and SIGTERM until it asks for them; here they
    come afterwards. Of torch's own log it says errors alone: with each run torch would warn that
    it looks for unused parameters and finds none."""
    told = os.environ.get(LOG_LEVEL)
    os.environ[LOG_LEVEL] = told or "ERROR"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if told is None:
            del os.environ[LOG_LEVEL]


@dataclass
class PipedWatcher:
    """Passes on what the first process does, and what it is told."""

    connection: Connection
    _is_asked: bool = field(default=False, init=False)

    @property
    def stop_requested(self) -> bool:
        """Whether it was asked to stop, or whoever would ask has died."""
        with suppress(OSError, EOFError):
            if self.connection.poll():
                self._is_asked = self.connection.recv() == STOP or self._is_asked
            return self._is_asked
        return True

    @stop_requested.setter
    def stop_requested(self, is_asked: bool) -> None:
        self._is_asked = is_asked

    def progress(self, experiment: Experiment, flops: float) -> None:
        with suppress(ConnectionError):
            self.connection.send(float(flops))

    def finished(self, run: Run) -> None:
        pass

    def found(self, run: Run) -> None:
        pass


def _live(connection: Connection, make_trainer: Callable[[], Trainer], start: Start) -> None:
    """A process's life. Ctrl-C and SIGTERM may reach all processes; only the one that started
    them acts on it."""
    os.environ.update(start.environment)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    _pass_on_warnings(connection, start)
    task: Task | None = None
    portion: int | None = None
    try:
        trainer = _ready(make_trainer, start)
        while True:
            task = _next_task(connection)
            recipe = trainer.fitted_to(task.experiment)
            if task.portion is not None:
                recipe = replace(recipe, micro_batch_size=task.portion)
            portion = portion_of(task.experiment, recipe)
            watcher: Watcher = Unwatched() if start.rank else PipedWatcher(connection)
            try:
                with recipe.kernels_in_force():
                    run = train(task.experiment, recipe, task.folder, watcher, trainer.trunks)
            except KeyboardInterrupt:
                connection.send(Stopped())
            else:
                connection.send(None if start.rank else run)
    except Exception as error:
        trace = traceback.format_exc()
        with suppress(OSError, EOFError):
            connection.send(Failure(_picklable(error), trace, portion))
            while True:  # if it ended, others that wait for it would tell of that instead
                connection.recv()


def _next_task(connection: Connection) -> Task:
    try:
        while not isinstance(task := connection.recv(), Task):
            pass  # asked to stop a run that had just ended
    except (EOFError, ConnectionError):  # nobody is there any more
        raise SystemExit(0) from None
    return task


def _ready(make_trainer: Callable[[], Trainer], start: Start) -> TorchTrainer:
    """The trainer, which knows of the other processes."""
    torch.set_num_threads(start.threads)
    if start.on_gpu:
        torch.cuda.set_device(start.rank)
    else:
        keep_freed_memory()
    trainer = make_trainer()
    assert isinstance(trainer, TorchTrainer)
    if sys.platform == "linux":  # all are on this machine, whatever its name leads to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    patience = timedelta(seconds=PATIENCE_SECONDS)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if start.on_gpu else "gloo",
        store=TCPStore("127.0.0.1", start.port, is_master=False, timeout=patience),
        rank=start.rank,
        world_size=start.count,
        timeout=patience,
    )
    group = dist.new_group(backend="gloo", timeout=patience)
    ranks = Ranks(start.rank, start.count, start.spread, group)
    return replace(trainer, recipe=replace(trainer.recipe, ranks=ranks, together=False))


def _leave_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    time.sleep(LAST_WORDS_SECONDS)
    os._exit(1)


def _pass_on_warnings(connection: Connection, start: Start) -> None:
    """What the first process warns of, all others do too."""
    if start.rank:
        warnings.simplefilter("ignore")
        return

    def show(message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
        with suppress(ConnectionError):
            connection.send(Warned(message, filename, line))

    warnings.showwarning = show  # type: ignore[assignment]


def _picklable(error: Exception) -> Exception:
    """The error, or where it can't be sent its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a user's class raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
