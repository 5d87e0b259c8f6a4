"""How long a sweep will take here: timed steps of some planned sizes instead of a surprise."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch

from flops_fit.laws import FORWARD_SHARE
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.trunks import Chain, chains, steps_to_train
from flops_fit.training.devices import own_stream, threads_in_use
from flops_fit.training.program import WARM_UP_STEPS, Steps, steps_of
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import TrainingState, seeded

TIMED_SIZES = 5
"""Planned sizes of which steps are timed, evenly spread; between them times are interpolated."""

TIMED_STEPS = 5
"""Steps of each size, after one that is not timed; the median counts."""

STEPS_AT_ONCE = 50
"""Of a GPU are timed together, which is how it trains them."""

TIMED_SECONDS = 2.0
"""After which no further step of a size is timed."""


def estimated_seconds(plan: Plan, recipe: Recipe, workers: int, threads: int) -> float:
    """Seconds to train the plan, `workers` runs at once with `threads` CPU threads each.

    Counts updates and final evaluations; on a machine with nothing else to do.
    """
    seconds_of = step_times(plan.experiments, recipe, threads)

    def chain_seconds(chain: Chain) -> float:
        evaluation = FORWARD_SHARE * recipe.held_out_samples / chain[0].batch_size  # in steps
        updates = sum(steps for _, steps in steps_to_train(chain))
        return (updates + evaluation * len(chain)) * seconds_of(chain[0])

    return makespan(map(chain_seconds, chains(plan.experiments)), workers)


def fastest_threads(plan: Plan, recipe: Recipe, most: int) -> int:
    """1 or `most` CPU threads: with which the plan's updates take less time here and now.

    Small models gain nothing by a second thread, and on a busy machine wait 300 times as long for
    it (0.24 s instead of 0.8 ms for an MLP of width 160).
    """
    if most == 1 or recipe.device.type != "cpu":
        return most

    def seconds(threads: int) -> float:
        seconds_of = step_times(plan.experiments, recipe, threads)
        return sum(e.num_steps * seconds_of(e) for e in plan.experiments)

    return min((1, most), key=seconds)


def step_times(
    experiments: Iterable[Experiment], recipe: Recipe, threads: int
) -> Callable[[Experiment], float]:
    """Seconds of one update of an experiment, by a power law between timed ones."""
    by_flops = {e.flops_per_step: e for e in experiments}
    flops = sorted(by_flops)
    chosen = np.unique(np.linspace(0, len(flops) - 1, TIMED_SIZES).round().astype(int))
    timed = np.array([flops[i] for i in chosen])
    with threads_in_use(threads), recipe.kernels_in_force():
        seconds = np.array([step_seconds(by_flops[f], recipe) for f in timed])
    log_flops, log_seconds = np.log(timed), np.log(seconds)
    return lambda e: float(np.exp(np.interp(np.log(e.flops_per_step), log_flops, log_seconds)))


def step_seconds(experiment: Experiment, recipe: Recipe) -> float:
    """The median time of a few updates of a fresh model, after those that warm it up."""
    on_cuda = recipe.device.type == "cuda"
    at_once = STEPS_AT_ONCE if on_cuda else 1
    with own_stream(recipe.device), seeded(experiment.seed):
        state = TrainingState.start(experiment, recipe)
        steps = steps_of(experiment, recipe, state)
        _advance(steps, min(WARM_UP_STEPS + 1 if on_cuda else 1, experiment.num_steps), recipe)
        seconds: list[float] = []
        spent = 0.0
        while len(seconds) < TIMED_STEPS and state.step < experiment.num_steps:
            before, started = state.step, time.perf_counter()
            _advance(steps, min(before + at_once, experiment.num_steps), recipe)
            if state.step == before:  # the data have ended
                break
            spent += time.perf_counter() - started
            seconds.append((time.perf_counter() - started) / (state.step - before))
            if spent > TIMED_SECONDS:
                break
    return float(np.median(seconds))


def _advance(steps: Steps, until: int, recipe: Recipe) -> None:
    """To step `until`, done by now."""
    for _ in steps.advance(until):
        pass
    _synchronize(recipe.device)


def makespan(durations: Iterable[float], workers: int) -> float:
    """Until the last of `workers` is done, each taking the longest duration that is left."""
    busy_until = [0.0] * workers
    for duration in sorted(durations, reverse=True):
        heapq.heapreplace(busy_until, busy_until[0] + duration)
    return max(busy_until)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
