"""Seconds and memory of the commands where a study holds 10,000 results and a table 100,000 rows.

    python scripts/bench_large.py [--quick]

The study is planned by the tool and its results written as training would, with losses of a known
law. Each figure has a bar; the exit code is 1 where one is missed. About 4 minutes, on a machine
that has nothing else to do; --quick takes a tenth of everything and writes nothing.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # of the commands too

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_executors import Figure, Study, told

from flops_fit.laws import LossSurface
from flops_fit.plan.run import Status, ended_run

TRUTH = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
NOISE = 0.005

WORDS = [
    "model=mlp", "dataset=toy", "together=false", "threads=1", "max_epochs=1e12", "min_steps=20",
    "kernels={matmul: default, attention: blocks}", "held_out_samples=256", "num_sizes=20",
    "span=20", "device=cpu",
]  # fmt: skip

BUDGETS = 25
ROWS = 100_000


@dataclass(frozen=True)
class Command:
    """`flops-fit` with these words, the bar of its seconds, and the exit codes it may have."""

    what: str
    words: tuple[str, ...]
    bar: float
    codes: tuple[int, ...] = (0,)

    def timed(self, place: Path) -> Figure:
        arguments = [sys.executable, "-m", "flops_fit", *self.words]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        ended = subprocess.run(arguments, cwd=place, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ended.returncode in self.codes, ended.stderr
        work = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{self.what}: {seconds:.1f} s, {work:.1f} s of them work, the largest so far "
              f"{after.ru_maxrss / 2**20:.2f} GiB", file=sys.stderr)  # fmt: skip
        return Figure(self.what, f"{seconds:.1f} s", f"{self.bar:g} s", seconds <= self.bar)


def filled(place: Path, words: Sequence[str]) -> int:
    """Plan a study and write all its results; returns how many there are."""
    study = Study.of(place, words)
    study.folder.write_plan(study.plan)
    study.folder.put_in_force(study.plan)
    noise = np.random.default_rng(0).normal(0, NOISE, len(study.plan))
    for experiment, error in zip(study.plan.experiments, noise, strict=True):
        run = ended_run(experiment, Status.COMPLETED, None, num_steps=experiment.num_steps)
        loss = float(TRUTH(run.num_params, run.num_tokens)) + float(error)
        study.folder.write_run(replace(run, loss=loss, wall_time_seconds=1.0))
    return len(study.plan)


def write_table(path: Path, rows: int) -> None:
    """A table of runs as wide as people have them."""
    draw = np.random.default_rng(0)
    budgets = draw.choice(np.geomspace(1e18, 1e21, 16), rows)
    num_params = np.sqrt(budgets / 120) * draw.choice(np.geomspace(1 / 8, 8, 24), rows)
    num_tokens = budgets / (6 * num_params)
    loss = TRUTH(num_params, num_tokens) + draw.normal(0, NOISE, rows)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["N", "D", "loss", "budget", "note"])
        cells = zip(num_params, num_tokens, loss, budgets, strict=True)
        writer.writerows([f"{n:.0f}", f"{d:.0f}", f"{lost:.5f}", f"{c:.6g}", "a run"]
                         for n, d, lost, c in cells)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    is_quick = parser.parse_args().quick
    budgets = ",".join(f"{b:.4g}" for b in np.geomspace(1e9, 1e12, BUDGETS))
    sweep = (*WORDS, f"budgets=[{budgets}]", f"seeds={2 if is_quick else 20}")
    rows = ROWS // 10 if is_quick else ROWS
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as name:
        place = Path(name)
        many = f"{filled(place / 'outputs' / 'many', sweep):,} results"
        write_table(place / "runs.csv", rows)
        commands = [
            Command(f"`status` of {many}", ("status", "study=many"), 2),
            Command(f"`plan` of {many}", ("plan", "study=many", *sweep), 20),
            Command(f"`fit` of {many}", ("fit", "study=many"), 20, (0, 3)),
            Command(f"`train` where {many} are there", ("train", "study=many", *sweep), 20, (0, 3)),
            Command(f"`report` of {many}", ("report", "study=many"), 20),
            Command(f"`fit` of a table of {rows:,} rows", ("fit", "runs=runs.csv"), 60, (0, 3)),
        ]
        figures = [command.timed(place) for command in commands]
    return told(figures, None if is_quick else "large")


if __name__ == "__main__":
    sys.exit(main())
