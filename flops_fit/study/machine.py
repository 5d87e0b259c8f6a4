"""How many runs train at once here, with how many threads, and how a sweep is stopped."""

from __future__ import annotations

import functools
import math
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from flops_fit.report.screen import say
from flops_fit.settings import MachineSettings
from flops_fit.store.execution import Execute, Inline, Patience, SideBySide, units_of
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Prepared, Spec, Trainer, Watcher
from flops_fit.study.supervised import Supervised
from flops_fit.study.workers import AtOnce, Workers
from flops_fit.training.devices import choose_device, threads_in_use

RUNS_PER_GPU = 16
"""Small runs in turns on one GPU, unless it is said how many."""


LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Where torchrun, srun and mpirun say which of a machine's processes this is."""


@dataclass(frozen=True)
class Machine:
    """What a sweep may use of it: processes, CPU threads of each, GPUs by number, and time."""

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()
    runs_per_gpu: int = 1  # in one process
    timeout_seconds: float = math.inf  # of one run


def machine_for(
    settings: MachineSettings,
    device: torch.device | None,
    num_runs: int,
    pinned: Mapping[str, Any],
) -> Machine:
    """As configured, else one run per GPU or CPU core, and one thread each where several run.

    Where the device is the trainer's own affair, one run that may use the whole machine. One of
    several processes that share a sweep is one of these workers. The threads of a study's first
    training are kept, since results depend on them to a rounding.
    """
    gpus = visible_gpus() if (device or choose_device(settings.device)).type == "cuda" else ()
    default = 1 if device is None or settings.of else len(gpus) or cpu_cores()
    workers = max(1, min(settings.workers or default, num_runs))
    threads = 1 if workers > 1 or settings.of else torch.get_num_threads()
    threads = settings.threads or pinned.get("threads") or threads
    timeout = math.inf if settings.timeout_seconds is None else settings.timeout_seconds
    return Machine(workers, threads, gpus, settings.runs_per_gpu or RUNS_PER_GPU, timeout)


def machine_of(
    prepared: Prepared, num_runs: int, folder: StudyFolder, settings: MachineSettings
) -> Machine:
    """What the sweep may use; a single run at a time takes as many threads as it gains by."""
    pinned = folder.pinned()
    machine = machine_for(settings, prepared.device, num_runs, pinned)
    is_decided = machine.workers > 1 or settings.of or settings.threads or "threads" in pinned
    if num_runs == 0 or is_decided:
        return machine
    return replace(machine, threads=prepared.trainer.threads(prepared.plan, machine.threads))


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))


def take_own_gpu(rank: int) -> None:
    """Leave the other GPUs of this machine to the other processes of the sweep; to be called before
    CUDA is."""
    gpus = visible_gpus()
    if len(gpus) > 1:
        place = next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), f"{rank}")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(place) % len(gpus)]


def cpu_cores() -> int:
    """Cores this process may use; where the system doesn't say, all there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def executor(
    spec: Spec, trainer: Trainer, folder: StudyFolder, machine: Machine, patience: Patience
) -> Iterator[Execute]:
    """Worker processes where several runs train at once, else this process with its threads.

    In one process a GPU has several small runs beside each other.
    """
    if machine.workers == 1:
        supervised = Supervised(trainer, machine.timeout_seconds)
        with threads_in_use(machine.threads):
            if supervised.takes_turns:
                at_once = machine.runs_per_gpu if machine.gpus else 1
                yield SideBySide(supervised, folder, at_once, patience)
            else:
                yield Inline(supervised, folder, patience)
        return
    make_trainer = functools.partial(trainer_in_worker, spec.in_worker(trainer), folder)
    units = functools.partial(units_of, trainer=trainer)
    yield Workers(
        make_trainer,
        folder,
        machine.workers,
        machine.threads,
        machine.gpus,
        patience,
        units,
        machine.timeout_seconds,
    )


def trainer_in_worker(make_spec: Callable[[], Spec], folder: StudyFolder) -> Trainer:
    """The trainer, built anew in a worker process with what the study has pinned."""
    return make_spec().pinned_trainer(folder)


@contextmanager
def stop_on_signals(watcher: Watcher) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that is closed ask for a stop with a checkpoint; a second one
    stops at once.

    Outside of the main thread signals are left to whoever has them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request_stop(number: int, frame: object) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        if watcher.stop_requested:
            for stop in before:
                signal.signal(stop, signal.SIG_DFL)  # a third one needs nobody's consent
            raise AtOnce
        watcher.stop_requested = True
        say("stopping: writing a checkpoint (again to stop at once)")

    before = {
        stop: signal.signal(stop, request_stop)
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(stop) is not signal.SIG_IGN  # as under nohup
    }
    try:
        yield
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)


def leave_terminal() -> None:
    """It has been closed: what is written to it would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(number).st_mode):
                os.dup2(nowhere, number)
    os.close(nowhere)
