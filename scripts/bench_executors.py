"""What many runs on one machine cost beside their training, written to docs/fleet-figures.md.

    python scripts/bench_executors.py [--quick]

Each figure has a bar; the exit code is 1 where one is missed. 2 workers against 1 take turns; all
runs are of the shipped MLP on its toy data. About 8 minutes on 2 cores, which must have nothing
else to do; --quick takes one and writes nothing.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import functools
import heapq
import math
import multiprocessing
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from marked_block import write_block

from flops_fit import __version__
from flops_fit.building.from_config import build_spec
from flops_fit.cli.compose import values_of
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status, ended_run
from flops_fit.plan.trunks import chains
from flops_fit.settings import SweepSettings, from_plain
from flops_fit.store.execution import Inline, Unit, longest_first, train_missing, units_of
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Prepared, Unwatched
from flops_fit.study.machine import trainer_in_worker
from flops_fit.study.workers import Workers
from flops_fit.training.kernel_choice import processor
from flops_fit.training.timing import spread_sizes, step_seconds
from flops_fit.training.trainer import TorchTrainer

FLEET_FIGURES = Path(__file__).parents[1] / "docs" / "fleet-figures.md"

SMALL = ["model=mlp", "dataset=toy", "together=false", "threads=1", "min_steps=20", "draws=0",
         "max_epochs=1e9", "kernels={matmul: default, attention: blocks}"]  # fmt: skip

SLOTS, RUNS = 256, 2000
"""Of the simulated cluster."""

TIMED_SIZES, TIMED_OFTEN = 12, 3
"""Of which steps are timed for it, and how often: the least counts."""


@dataclass(frozen=True)
class Figure:
    """What was measured, and the bar it is held against."""

    what: str
    measured: str
    bar: str
    holds: bool

    def __str__(self) -> str:
        return f"| {self.what} | {self.measured} | {self.bar} | {'yes' if self.holds else 'NO'} |"


@dataclass(frozen=True)
class Study:
    """A planned study in a folder of its own, and what trains it."""

    spec: Any
    prepared: Prepared
    folder: StudyFolder

    @classmethod
    def of(cls, place: Path, words: Sequence[str]) -> Study:
        settings = from_plain(SweepSettings, values_of("train", [*words, f"study={place.name}"]))
        spec = build_spec(settings, {})
        folder = StudyFolder(place)
        prepared = spec.prepare(folder)
        trainer = prepared.trainer.tuned(prepared.plan, 1, folder.pinned())
        folder.pin({"threads": 1, **trainer.pins})
        return cls(spec, replace(prepared, trainer=trainer), folder)

    @property
    def plan(self) -> Plan:
        return self.prepared.plan

    def workers(self, count: int) -> Workers:
        make = self.spec.in_worker(self.prepared.trainer)
        trainer = functools.partial(trainer_in_worker, make, self.folder)
        return Workers(trainer, self.folder, count, threads=1)


@dataclass
class Timed(Unwatched):
    """Notes when each run ended, and when the first one was heard of."""

    began: float = field(default_factory=time.perf_counter)
    first: float = math.inf
    ended: dict[str, float] = field(default_factory=dict)

    def progress(self, experiment: Experiment, flops: float) -> None:
        self.first = min(self.first, time.perf_counter())

    def finished(self, run: Run) -> None:
        assert run.status == Status.COMPLETED, run.error
        self.first = min(self.first, time.perf_counter() - (run.wall_time_seconds or 0.0))
        self.ended[run.id] = time.perf_counter()


def swept(place: Path, words: Sequence[str], workers: int) -> tuple[float, float, list[Run]]:
    """Seconds of the sweep from the first step on, seconds until then, and its runs."""
    study = Study.of(place, words)
    watcher = Timed()
    runs = train_missing(study.plan, study.folder, study.workers(workers), watcher)
    last = max(watcher.ended.values())
    return last - watcher.first, watcher.first - watcher.began, runs


def side_by_side(place: Path, budgets: str, rounds: int) -> list[Figure]:
    """2 workers against 1, and against what no order could better."""
    words = [*SMALL, f"budgets={budgets}", "num_sizes=7"]
    ratios, over = [], []
    for number in range(rounds):
        one, _, _ = swept(place / f"one {number}", words, 1)
        two, _, runs = swept(place / f"two {number}", words, 2)
        seconds = [run.wall_time_seconds or 0.0 for run in runs]
        ratios.append(one / two)
        over.append(two / bound(seconds, 2))
        print(f"{len(runs)} runs: one {one:.1f} s, two {two:.1f} s", file=sys.stderr)
    ratio, longer = statistics.median(ratios), statistics.median(over)
    return [
        Figure(f"2 workers against 1, {len(runs)} small runs", f"{ratio:.2f} times as fast",
               "1.6", ratio >= 1.6),
        Figure("end of the last run over the least there can be, 2 workers", f"{longer:.3f}",
               "1.02", longer <= 1.02),
    ]  # fmt: skip


def bound(seconds: Sequence[float], slots: int) -> float:
    """Below which no order of them ends."""
    return max(math.fsum(seconds) / slots, *seconds)


def cluster(place: Path) -> Figure:
    """2,000 planned runs on 256 slots, each as long as its size's steps take here, give or take,
    handed out in the order in which workers are given them."""
    words = [*SMALL, "budgets=" + f"[{','.join(f'{10 ** (9 + k / 8):.4g}' for k in range(16))}]",
             "num_sizes=25", "span=20", "seeds=5"]  # fmt: skip
    study = Study.of(place / "cluster", words)
    trainer = study.prepared.trainer
    assert isinstance(trainer, TorchTrainer)
    experiments = study.plan.experiments
    timed = spread_sizes(experiments, TIMED_SIZES)
    flops = [math.log(e.flops_per_step) for e in timed]
    logs = [
        math.log(min(step_seconds(e, trainer.recipe) for _ in range(TIMED_OFTEN))) for e in timed
    ]
    draw = random.Random(0)

    def seconds(unit: Unit) -> float:
        noise = draw.gauss(0, 0.05)  # of the same step in another process
        return math.fsum(
            e.num_steps * math.exp(interpolated(math.log(e.flops_per_step), flops, logs) + noise)
            for e in unit.experiments
        )

    units = longest_first(units_of(chains(experiments), trainer), "cpu")
    lengths = [seconds(unit) for unit in units]
    ratio = in_order(lengths, SLOTS) / bound(lengths, SLOTS)
    return Figure(f"the same for {len(units):,} runs on {SLOTS} slots, simulated with the times of "
                  "steps here", f"{ratio:.3f}", "1.02", ratio <= 1.02)  # fmt: skip


def interpolated(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """On straight lines between points of rising x; beyond them level."""
    if x <= xs[0] or x >= xs[-1]:
        return ys[0] if x <= xs[0] else ys[-1]
    high = next(i for i, there in enumerate(xs) if there >= x)
    share = (x - xs[high - 1]) / (xs[high] - xs[high - 1])
    return ys[high - 1] + share * (ys[high] - ys[high - 1])


def in_order(lengths: Iterable[float], slots: int) -> float:
    """When the last is done, where each slot takes the next one as soon as it is free."""
    free_at = [0.0] * slots
    for length in lengths:
        heapq.heapreplace(free_at, free_at[0] + length)
    return max(free_at)


@dataclass(frozen=True)
class Nothing:
    """A trainer whose runs are over at once."""

    def __call__(self, experiment: Experiment, folder: Path, watcher: Any) -> Run:
        run = ended_run(experiment, Status.COMPLETED, None, num_steps=experiment.num_steps)
        return replace(run, loss=1.0, wall_time_seconds=1.0)

    pins: Any = None

    def threads(self, plan: Plan, most: int) -> int:
        return most

    def tuned(self, plan: Plan, threads: int, pinned: Any) -> Nothing:
        return self


def bookkeeping(place: Path) -> Figure:
    """Locks and files of a run that takes no time."""
    words = [*SMALL, "budgets=[1e9,2e9,4e9,8e9]", "num_sizes=10", "span=20", "seeds=5"]
    study = Study.of(place / "nothing", words)
    started = time.perf_counter()
    runs = train_missing(study.plan, study.folder, Inline(Nothing(), study.folder), Unwatched())
    each = (time.perf_counter() - started) / len(runs)
    return Figure("locks and JSON of a run", f"{1000 * each:.1f} ms", "1% of a second",
                  each <= 0.01)  # fmt: skip


def starts(place: Path) -> list[Figure]:
    """A further worker, and until it has its model and data and waits for work."""
    workers = Study.of(place / "starts", [*SMALL, "budgets=[1e7]", "num_sizes=3"]).workers(1)
    first, ready = ready_after(workers)
    _, alone = ready_after(replace(workers, make_trainer=Nothing))
    return [
        Figure("start of a further worker", f"{alone:.2f} s", "0.05 s", alone <= 0.05),
        Figure("the same until it has model and data",
               f"{ready:.2f} s (the first: {first:.1f} s)", "0.5 s", ready <= 0.5),
    ]  # fmt: skip


def ready_after(workers: Workers) -> tuple[float, float]:
    """Seconds until a worker waits for work: the first, and further ones."""
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        worker = workers._start(0)
        assert worker.connection.recv() is None
        seconds.append(time.perf_counter() - started)
        worker.process.kill()
        worker.process.join()
    return seconds[0], statistics.median(seconds[1:])


def lost_to_a_kill(place: Path, seconds: float) -> Figure:
    """Training that is done again after a kill -9 at a bad moment: shortly before a checkpoint."""
    words = [*SMALL, "budgets=[3e12]", "num_sizes=1", f"checkpoint_seconds={seconds}"]
    study = Study.of(place / "killed", words)
    [experiment] = study.plan.experiments
    process = multiprocessing.get_context("fork").Process(target=trained_for_ever, args=(study,))
    process.start()
    checkpoint = study.folder.run_folder(experiment.id) / "checkpoint.pt"
    while not checkpoint.exists():
        time.sleep(0.05)
    written = time.perf_counter()
    time.sleep(seconds - 1.0)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    lost = time.perf_counter() - written
    assert torch.load(checkpoint, weights_only=True)["step"] > 0
    return Figure("training lost to a kill -9 just before the next checkpoint", f"{lost:.1f} s",
                  "30 s", lost <= 30.0)  # fmt: skip


def trained_for_ever(study: Study) -> None:
    train_missing(study.plan, study.folder, Inline(study.prepared.trainer, study.folder),
                  Unwatched())  # fmt: skip


def submitted(place: Path) -> Figure:
    """The command that plans 2,000 runs and hands them to Slurm, but for the handing over."""
    budgets = ",".join(f"{10 ** (9 + k / 8):.4g}" for k in range(16))
    words = [*SMALL, f"budgets=[{budgets}]", "num_sizes=25", "span=20", "seeds=5", "device=cpu",
             "executor=slurm", "dry_run=true"]  # fmt: skip
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "flops_fit", "train", *words],
        cwd=place, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    found = re.search(r"([\d,]+) runs in [\d,]+ jobs", ended.stderr)
    assert found, ended.stderr
    return Figure(f"{found[1]} runs planned, their jobs for Slurm written", f"{seconds:.1f} s",
                  "10 s", seconds <= 10)  # fmt: skip


def told(figures: Sequence[Figure], block: str | None) -> int:
    """The exit code. Prints the figures, and writes them to this block of their page."""
    table = "\n".join(["| | measured | bar | holds |", "|---|---|---|---|", *map(str, figures)])
    print(table)
    if block is not None:
        machine = f"{processor()}, {os.cpu_count()} cores"
        made_on = f"{machine}, torch {torch.__version__}, flops-fit {__version__}:"
        write_block(FLEET_FIGURES, block, f"{made_on}\n\n{table}")
    return 0 if all(figure.holds for figure in figures) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    is_quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as name:
        place = Path(name)
        budgets, rounds = ("[1e9,2e9]", 1) if is_quick else ("[5e8,1e9,2e9,4e9]", 3)
        figures = [
            *starts(place),
            *side_by_side(place, budgets, rounds),
            cluster(place),
            bookkeeping(place),
            lost_to_a_kill(place, 3.0 if is_quick else 30.0),
            submitted(place),
        ]
    return told(figures, None if is_quick else "bench")


if __name__ == "__main__":
    sys.exit(main())
