"""How many runs train at once here, on how many GPUs or threads, and how a sweep is stopped."""

from __future__ import annotations

import functools
import math
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from flops_fit.errors import ConfigError
from flops_fit.report.screen import say
from flops_fit.settings import MachineSettings
from flops_fit.store.execution import Execute, Inline, Patience, SideBySide, units_of
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Prepared, Spec, Trainer, Watcher
from flops_fit.study.supervised import Supervised
from flops_fit.study.workers import AtOnce, Workers
from flops_fit.training.devices import choose_device, threads_in_use
from flops_fit.training.rank_processes import SpreadTrainer
from flops_fit.training.ranks import Spread
from flops_fit.training.trainer import TorchTrainer

RUNS_PER_GPU = 16
"""Small runs in turns on one GPU, unless it is said how many."""


LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Where torchrun, srun and mpirun say which of a machine's processes this is."""


@dataclass(frozen=True)
class Machine:
    """What a sweep may use of it: processes, CPU threads of each, GPUs by number, and time.

    Where `gpus_per_run` train a run together, those of one run stand together in `gpus`, and each
    has a process with so many threads.
    """

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()
    runs_per_gpu: int = 1  # in one process
    timeout_seconds: float = math.inf  # of one run
    gpus_per_run: int = 1  # on a CPU processes
    spread: Spread = "replicas"

    @property
    def pins(self) -> dict[str, Any]:
        """What of it holds for all runs of a study, since results depend on it to a rounding."""
        several = {"spread": self.spread} if self.gpus_per_run > 1 else {}
        return {"threads": self.threads, "gpus_per_run": self.gpus_per_run, **several}


def machine_for(
    settings: MachineSettings,
    device: torch.device | None,
    num_runs: int,
    pinned: Mapping[str, Any],
) -> Machine:
    """As configured, else one run per GPU or CPU core, and one thread each where several run.

    Where the device is the trainer's own affair, one run that may use the whole machine. One of
    several processes that share a sweep is one of these workers. The threads of a study's first
    training are kept, since results depend on them to a rounding; so is over how many GPUs or
    processes a run is spread. Raises `ConfigError` for more than there are.
    """
    device_used = device or choose_device(settings.device)
    count: int = settings.gpus_per_run or pinned.get("gpus_per_run") or 1
    spread: Spread = settings.spread or pinned.get("spread") or "replicas"
    gpus = visible_gpus() if device_used.type == "cuda" else ()
    if count > 1 and num_runs:
        check_devices(count, device_used, len(gpus))
        gpus = tuple(",".join(gpus[i : i + count]) for i in range(0, len(gpus) - count + 1, count))
    alone = device is None or settings.of
    default = 1 if alone else len(gpus) or max(1, cpu_cores() // count)
    workers = max(1, min(settings.workers or default, num_runs))
    threads = 1 if workers > 1 or settings.of else max(1, torch.get_num_threads() // count)
    threads = settings.threads or pinned.get("threads") or threads
    runs_per_gpu = settings.runs_per_gpu or RUNS_PER_GPU
    timeout = math.inf if settings.timeout_seconds is None else settings.timeout_seconds
    return Machine(workers, threads, gpus, runs_per_gpu, timeout, count, spread)


def machine_of(
    prepared: Prepared, num_runs: int, folder: StudyFolder, settings: MachineSettings
) -> Machine:
    """What the sweep may use; a single run at a time takes as many threads as it gains by.

    Raises `ConfigError` for runs that can't be spread as they should.
    """
    pinned = folder.pinned()
    machine = machine_for(settings, prepared.device, num_runs, pinned)
    if num_runs:
        check_spread(prepared, machine, settings)
    is_decided = machine.workers > 1 or settings.of or settings.threads or "threads" in pinned
    if num_runs == 0 or is_decided:
        return machine
    return replace(machine, threads=prepared.trainer.threads(prepared.plan, machine.threads))


def check_devices(count: int, device: torch.device, num_gpus: int) -> None:
    """Raises `ConfigError` where there are no `count` devices or processes for one run."""
    do = "set gpus_per_run to what there is, or leave it out"
    launcher, num_launched = started_by()
    if num_launched > 1:
        raise ConfigError(
            f"{launcher} has started {num_launched} of this, and with gpus_per_run={count} each "
            f"would start {count} processes for every run: start flops-fit once, without "
            f"{launcher}; it starts what a run needs itself"
        )
    if device.type not in ("cuda", "cpu") or not torch.distributed.is_available():
        raise ConfigError(
            f"gpus_per_run is {count}: a run can be spread over CUDA GPUs, or processes of a CPU, "
            f"with a torch that has torch.distributed; the device is {device.type}: {do}"
        )
    if device.index is not None:
        raise ConfigError(
            f"gpus_per_run is {count} and device is {device}: set device=cuda, and "
            "CUDA_VISIBLE_DEVICES where it should not be all GPUs"
        )
    if device.type == "cuda" and num_gpus < count:
        there = "1 GPU is" if num_gpus == 1 else f"{num_gpus} GPUs are"
        raise ConfigError(f"gpus_per_run is {count}, {there} there: {do}")


def check_spread(prepared: Prepared, machine: Machine, settings: MachineSettings) -> None:
    """Raises `ConfigError` for runs that `gpus_per_run` can't train together as one would."""
    trainer, count = prepared.trainer, machine.gpus_per_run
    if count == 1:
        if settings.spread == "shards":
            raise ConfigError(
                "spread=shards with gpus_per_run=1 has nothing to share out: set gpus_per_run too"
            )
        return
    said = f"gpus_per_run is {count}"
    if not isinstance(trainer, TorchTrainer):
        if machine.gpus:
            return  # the command sees so many
        raise ConfigError(f"{said}: a command starts its processes itself, leave gpus_per_run out")
    fewest = min(e.batch_size for e in prepared.plan.experiments)
    if fewest < count:
        raise ConfigError(
            f"{said}, a step has {fewest} samples to share out: set gpus_per_run to at most "
            f"{fewest}, or batch_size to at least {count}"
        )
    recipe = trainer.recipe
    if recipe.portions.depends is not None:
        raise ConfigError(
            f"{said}, and this model would train otherwise than on one: "
            f"{recipe.portions.depends}; leave gpus_per_run out"
        )
    if machine.spread == "shards" and recipe.precision == "fp16":
        raise ConfigError("spread=shards is for bf16 and fp32: set precision=bf16")


def started_by() -> tuple[str, int]:
    """What has started this process, if it is one of several, and how many these are."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ.get("WORLD_SIZE", 1))
    return "srun", int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))


def take_own_gpus(rank: int, count: int) -> None:
    """Leave all but `count` GPUs of this machine to the other processes of the sweep; to be called
    before CUDA is."""
    gpus = visible_gpus()
    if len(gpus) > count:
        place = next((os.environ[name] for name in LOCAL_RANKS if name in os.environ), f"{rank}")
        first = int(place) % (len(gpus) // count) * count
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + count])


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

    In one process a GPU has several small runs beside each other. Runs that are spread over GPUs
    or processes train one by one in each worker.
    """
    if machine.gpus_per_run > 1 and isinstance(trainer, TorchTrainer):
        with _spread(spec, trainer, folder, machine, patience) as execute:
            yield execute
        return
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


@contextmanager
def _spread(
    spec: Spec, trainer: TorchTrainer, folder: StudyFolder, machine: Machine, patience: Patience
) -> Iterator[Execute]:
    make = functools.partial(
        SpreadTrainer,
        functools.partial(trainer_in_worker, spec.in_worker(trainer), folder),
        machine.gpus_per_run,
        machine.spread,
        machine.threads,
        on_gpus=bool(machine.gpus),
    )
    count, timeout = machine.workers, machine.timeout_seconds
    if count > 1:
        yield Workers(make, folder, count, 1, machine.gpus, patience, timeout_seconds=timeout)
        return
    with closing(make()) as spread:
        yield Inline(Supervised(spread, timeout), folder, patience)


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
        if stop != signal.SIGHUP or signal.getsignal(stop) is not signal.SIG_IGN  # nohup's
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
