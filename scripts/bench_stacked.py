"""How much faster runs of one shape train in one batched step than one after the other.

    python scripts/bench_stacked.py

Prints a table. Both take turns on one thread at the same batches; times are CPU seconds of this
process, a ratio is the median of the rounds. About 3 minutes.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

import torch
from engine_contenders import Work

from flops_fit.datasets.batches import Batch, stacked
from flops_fit.plan.experiment import Experiment
from flops_fit.training.kernels import keep_freed_memory
from flops_fit.training.recipe import Recipe
from flops_fit.training.stackable import why_alone
from flops_fit.training.stacked import Stacked
from flops_fit.training.state import TrainingState, seeded
from flops_fit.training.steps import train_step

STEPS = 20
"""Of each turn."""

WORKS = {
    "MLP, 3 hidden layers of 32, 64 rows": Work(32, 0, 0, 0, 64, STEPS, lr=0.01),
    "MLP, 3 hidden layers of 128, 64 rows": Work(128, 0, 0, 0, 64, STEPS, lr=0.01),
    "transformer, width 16, 16 x 64 tokens": Work(16, 2, 2, 64, 16, STEPS, lr=0.01),
}


@dataclass(frozen=True)
class Turns:
    """CPU seconds of each round, and of recording the batched step."""

    alone: list[float]
    together: list[float]
    recording: float

    @property
    def ratio(self) -> float:
        return statistics.median(a / t for a, t in zip(self.alone, self.together, strict=True))


def turns(work: Work, num_runs: int, rounds: int) -> Turns:
    """`num_runs` that differ in their seeds, a round of STEPS at a time."""
    first, recipe = work.planned()
    experiments = [
        replace(first, seed=seed, num_steps=STEPS * (rounds + 1)) for seed in range(num_runs)
    ]
    reason = why_alone(recipe, experiments)
    assert reason is None, reason
    alone = [started(e, recipe) for e in experiments]
    streams = [recipe.source.training_batches(e.batch_size, e.order_seed) for e in experiments]
    together = Stacked([started(e, recipe) for e in experiments], recipe)
    rates = torch.full((num_runs,), work.lr)
    recording = 0.0
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for turn in range(rounds + 1):  # the first is not counted
        batches = [list(islice(stream, STEPS)) for stream in streams]  # of each run
        steps = [stacked(of_runs) for of_runs in zip(*batches, strict=True)]
        if not turn:
            recording = cpu_seconds(lambda batch=steps[0]: together.prepare(batch))
        took_alone = cpu_seconds(
            lambda batches=batches: train_alone(alone, batches, recipe)  # type: ignore[misc]
        )
        took_together = cpu_seconds(
            lambda steps=steps: train_together(together, steps, rates)  # type: ignore[misc]
        )
        if turn:
            seconds["alone"].append(took_alone)
            seconds["together"].append(took_together)
    return Turns(seconds["alone"], seconds["together"], recording)


def started(experiment: Experiment, recipe: Recipe) -> TrainingState:
    with seeded(experiment.seed):
        return TrainingState.start(experiment, recipe)


def train_alone(states: list[TrainingState], batches: list[list[Batch]], recipe: Recipe) -> None:
    for state, of_run in zip(states, batches, strict=True):
        for batch in of_run:
            train_step(batch, 1.0, recipe, state)


def train_together(together: Stacked, batches: list[Batch], rates: torch.Tensor) -> None:
    for batch in batches:
        together.step(batch, rates)


def cpu_seconds(work: Callable[[], None]) -> float:
    started_at = time.process_time()
    work()
    return time.process_time() - started_at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, nargs="+", default=[4, 16])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| shape | runs | ms a step of all, alone | together | ratio | s to record |")
    print("|---|---|---|---|---|---|")
    for name, work in WORKS.items():
        for num_runs in arguments.runs:
            found = turns(work, num_runs, arguments.rounds)
            alone, together = (
                1e3 * statistics.median(of_all) / STEPS for of_all in (found.alone, found.together)
            )
            print(
                f"| {name} | {num_runs} | {alone:.2f} | {together:.2f} | {found.ratio:.1f} "
                f"| {found.recording:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
