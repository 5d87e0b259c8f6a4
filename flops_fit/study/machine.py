"""How many runs train at once here, with how many threads, and how a sweep is stopped."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from flops_fit.building.spec import build_spec
from flops_fit.plan.run import Run
from flops_fit.plan.trunks import Chain
from flops_fit.report.screen import say
from flops_fit.store.execution import Execute, Inline
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Trainer, Watcher
from flops_fit.study.workers import Workers
from flops_fit.training.devices import choose_device, threads_in_use

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Machine:
    """What a sweep may use of it: runs at once, CPU threads of each, and GPUs by number."""

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()


def machine_for(
    config: Config, device: torch.device | None, num_runs: int, pinned: Config
) -> Machine:
    """As configured, else one run per GPU or CPU core, and one thread each where several run.

    Where the device is the trainer's own affair, one run that may use the whole machine. The
    threads of a study's first training are kept, since results depend on them to a rounding.
    """
    gpus = visible_gpus() if (device or choose_device(config["device"])).type == "cuda" else ()
    default = 1 if device is None else len(gpus) or cpu_cores()
    workers = max(1, min(config["workers"] or default, num_runs))
    threads = 1 if workers > 1 else torch.get_num_threads()
    return Machine(workers, config["threads"] or pinned.get("threads") or threads, gpus)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))


def cpu_cores() -> int:
    """Cores this process may use; where the system doesn't say, all there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class WithThreads:
    """Trains as `execute` does, with so many CPU threads of torch meanwhile."""

    execute: Execute
    threads: int

    def __call__(self, work: Sequence[Chain], watcher: Watcher) -> list[Run]:
        with threads_in_use(self.threads):
            return self.execute(work, watcher)


def executor(
    config: Config,
    files: Mapping[str, str],
    trainer: Trainer,
    folder: StudyFolder,
    machine: Machine,
) -> Execute:
    """Worker processes where several runs train at once, else this process.

    `files` are the configs' origins, for error messages.
    """
    fail_fast = config["fail_fast"]
    if machine.workers == 1:
        return WithThreads(Inline(trainer, folder, fail_fast), machine.threads)
    make_trainer = functools.partial(trainer_in_worker, dict(config), files, folder)
    return Workers(make_trainer, folder, machine.workers, machine.threads, machine.gpus, fail_fast)


def trainer_in_worker(config: Config, files: Mapping[str, str], folder: StudyFolder) -> Trainer:
    """The trainer, built anew in a worker process from the config and what the study has pinned."""
    return build_spec(config, files).pinned_trainer(folder)


@contextmanager
def stop_on_signals(watcher: Watcher) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a stop with a checkpoint; a second one stops at once."""

    def request_stop(number: int, frame: object) -> None:
        if watcher.stop_requested:
            raise KeyboardInterrupt
        watcher.stop_requested = True
        say("stopping: writing a checkpoint (again to stop at once)")

    before = {s: signal.signal(s, request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
