"""How long a sweep will take here: timed steps of some planned sizes instead of a surprise."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch

from flops_fit.datasets.batches import micro_batches
from flops_fit.laws import FORWARD_SHARE
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.trunks import Chain, chains, steps_to_train
from flops_fit.training.compiling import compiles
from flops_fit.training.devices import own_stream, threads_in_use
from flops_fit.training.memory import available_bytes, fit_of, surely_fits
from flops_fit.training.program import WARM_UP_STEPS, Steps, steps_of
from flops_fit.training.recipe import AUTOCAST, Recipe
from flops_fit.training.state import TrainingState, seeded
from flops_fit.training.steps import train_step
from flops_fit.training.together import groups_of

TIMED_SIZES = 5
"""Planned sizes of which steps are timed, evenly spread; between them times are interpolated."""

TIMED_STEPS = 5
"""Steps of each size, after one that is not timed; the median counts."""

STEPS_AT_ONCE = 50
"""Of a GPU are timed together, which is how it trains them."""

SMALL_STEP_FLOPS = 2e11
"""FLOPs of a step below which a GPU has room for other runs beside this one: 0.2 ms at the peak
of an H100, where such a step takes 1.5 ms."""

TURNS_GAIN = 1.4
"""Times that small runs are faster in turns than one after the other: 12 groups of MLPs whose steps
alone take 17 s took 12 s on an H200, evaluations and curves included."""

COMPILED_IS_FASTER = 2.0
"""Times: 1.9 to 2.3 were measured on an H100 from 0.2 to 124 million parameters."""

TIMED_SECONDS = 2.0
"""After which no further step of a size is timed."""

MOST_STEPS_REMEMBERED = 10**7
"""Of a run that is timed: the losses of more, 4 bytes each, would take memory for nothing."""

SOON_DONE_FLOPS = {"cpu": 5e10, "mps": 1e12, "cuda": 1e13}
"""A second on one core of a CPU. Of steps that take more a part of the batch is timed first."""

LONGEST_TIMED_FLOPS = {"cpu": 3e11, "mps": 1e13, "cuda": 1e15}
"""6 seconds on one core of a CPU. Where one sample takes more, nothing is timed."""

LONGEST_TIMED_STEP = 1.0
"""Seconds that the part of a batch should take of which a long step is told."""

PRODUCT_SIZE = 1024
"""Rows and columns of the matrices whose product tells how fast large models can be."""

PRODUCTS_SHARE = 0.7
"""Of the FLOP/s of a product that the whole step of a large model has."""


def seconds_to_train(
    plan: Plan, recipe: Recipe, workers: int, seconds_of: Callable[[Experiment], float]
) -> float:
    """To train the plan, `workers` runs at once, where an update of an experiment takes so long.

    Counts updates and final evaluations; on a machine with nothing else to do.
    """
    if recipe.device.type == "cuda" and workers == 1 and recipe.ranks.is_alone:
        return seconds_in_turns(plan, recipe, seconds_of)
    return plan_seconds(plan, recipe.held_out_samples, seconds_of, workers)


def seconds_in_turns(
    plan: Plan, recipe: Recipe, seconds_of: Callable[[Experiment], float]
) -> float:
    """Of runs on one GPU: those of one size together, small ones in turns, large ones alone."""
    groups = groups_of(plan.experiments, recipe) if recipe.together else []
    grouped = {e.id for group in groups for e in group}
    others = [c for c in chains(plan.experiments) if c[0].id not in grouped]

    held_out = recipe.held_out_samples
    lengths = [(group[0], max(in_steps((e,), held_out) for e in group)) for group in groups]
    lengths += [(chain[0], in_steps(chain, held_out)) for chain in others]
    small = [n * seconds_of(e) for e, n in lengths if e.flops_per_step <= SMALL_STEP_FLOPS]
    large = [n * seconds_of(e) for e, n in lengths if e.flops_per_step > SMALL_STEP_FLOPS]
    return max([sum(small) / TURNS_GAIN, *small]) + sum(large)


def plan_seconds(
    plan: Plan, held_out_samples: int, seconds_of: Callable[[Experiment], float], workers: int
) -> float:
    """Of all updates and final evaluations, where an update of an experiment takes so long."""
    work = chains(plan.experiments)
    return makespan((in_steps(c, held_out_samples) * seconds_of(c[0]) for c in work), workers)


def in_steps(chain: Chain, held_out_samples: int) -> float:
    """Updates of a chain, and its final evaluations as so many more."""
    evaluation = FORWARD_SHARE * held_out_samples / chain[0].batch_size
    return sum(steps for _, steps in steps_to_train(chain)) + evaluation * len(chain)


def spread_sizes(experiments: Iterable[Experiment], most: int) -> list[Experiment]:
    """One of each of up to `most` FLOPs a step, evenly spread from the smallest to the largest."""
    by_flops = {e.flops_per_step: e for e in experiments}
    flops = sorted(by_flops)
    places = np.unique(np.linspace(0, len(flops) - 1, most).round().astype(int))
    return [by_flops[flops[i]] for i in places]


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
    timed = spread_sizes(experiments, TIMED_SIZES)
    uncompiled = replace(recipe, compile_above=None)
    with threads_in_use(threads), recipe.kernels_in_force():
        largest_first = [step_seconds(e, uncompiled) for e in timed[::-1]]
    log_flops = np.log([e.flops_per_step for e in timed])
    log_seconds = np.log(largest_first[::-1])

    def seconds_of(e: Experiment) -> float:
        plain = float(np.exp(np.interp(np.log(e.flops_per_step), log_flops, log_seconds)))
        gains = recipe.device.type == "cuda" and compiles(recipe, e)
        return plain / COMPILED_IS_FASTER if gains else plain

    return seconds_of


def step_seconds(experiment: Experiment, recipe: Recipe) -> float:
    """Of one update: the median of a few of a fresh model, on as much of a batch as is soon done
    and fits into memory; where not even that can be run, by the FLOP/s of matrix products."""
    samples = samples_to_time(experiment, recipe)
    if samples == 0:
        return experiment.flops_per_step / (PRODUCTS_SHARE * product_rate(recipe))
    if recipe.device.type == "cuda" and that_fit(experiment, recipe) == experiment.batch_size:
        return seconds_on_gpu(experiment, recipe)
    steps = min(experiment.num_steps, MOST_STEPS_REMEMBERED)
    with seeded(experiment.seed):
        state = TrainingState.start(replace(experiment, num_steps=steps), recipe)
        batches = recipe.source.training_batches(experiment.batch_size, experiment.order_seed)

        def seconds_of(part: int) -> float:
            batch = next(micro_batches(next(batches), part))
            _synchronize(recipe.device)
            started = time.perf_counter()
            train_step(batch, 1.0, recipe, state)
            _synchronize(recipe.device)
            state.step = 0
            return time.perf_counter() - started

        first = seconds_of(samples)
        if samples < experiment.batch_size and first < LONGEST_TIMED_STEP:
            seconds_each = seconds_of(samples) / samples
            more = min(that_fit(experiment, recipe), int(LONGEST_TIMED_STEP / seconds_each))
            samples = max(samples, more)
        seconds: list[float] = []
        while len(seconds) < min(TIMED_STEPS, experiment.num_steps - 1):
            seconds.append(seconds_of(samples))
            if sum(seconds) > TIMED_SECONDS:
                break
    return float(np.median(seconds or [first])) * experiment.batch_size / samples


def seconds_on_gpu(experiment: Experiment, recipe: Recipe) -> float:
    """Of one update of whole batches, as it trains: many queued at once, after the warm-up."""
    experiment = replace(experiment, num_steps=min(experiment.num_steps, MOST_STEPS_REMEMBERED))
    with own_stream(recipe.device), seeded(experiment.seed):
        state = TrainingState.start(experiment, recipe)
        steps = steps_of(experiment, recipe, state)
        _advance(steps, min(WARM_UP_STEPS + 2, experiment.num_steps), recipe)
        seconds: list[float] = []
        started = time.perf_counter()
        while len(seconds) < TIMED_STEPS and state.step < experiment.num_steps:
            before, begun = state.step, time.perf_counter()
            _advance(steps, min(before + STEPS_AT_ONCE, experiment.num_steps), recipe)
            if state.step == before:  # the data have ended
                break
            seconds.append((time.perf_counter() - begun) / (state.step - before))
            if time.perf_counter() - started > TIMED_SECONDS:
                break
    return float(np.median(seconds))


def samples_to_time(experiment: Experiment, recipe: Recipe) -> int:
    """Samples of a batch with which a step is soon done, and fits into memory; 0 for none."""
    device = recipe.device.type if recipe.device.type in SOON_DONE_FLOPS else "cuda"
    soon, longest = SOON_DONE_FLOPS[device], LONGEST_TIMED_FLOPS[device]
    each = experiment.flops_per_step / experiment.batch_size
    samples = max(int(soon / each), 1 if each < longest else 0)
    return samples and min(samples, that_fit(experiment, recipe), experiment.batch_size)


def that_fit(experiment: Experiment, recipe: Recipe, states: int = 1) -> int:
    """Samples that can be in memory at once here and now, beside those of as many `states`: all of
    a batch where it comes in parts that fit, 0 where nothing does."""
    there = available_bytes(recipe.device) // states
    if surely_fits(experiment, recipe, there):
        return experiment.batch_size
    fit = fit_of(experiment, recipe, there)
    if not fit.fits:
        return 0
    return experiment.batch_size if not fit.is_split else fit.micro_batch_size or 1


def product_rate(recipe: Recipe) -> float:
    """FLOP/s of one matrix product here and now, with as many threads as torch has."""
    dtype = AUTOCAST.get(recipe.precision, torch.float32)
    matrix = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype, device=recipe.device)
    seconds = []
    for _ in range(TIMED_STEPS):
        started = time.perf_counter()
        matrix @ matrix
        _synchronize(recipe.device)
        seconds.append(time.perf_counter() - started)
    return float(2 * PRODUCT_SIZE**3 / min(seconds))


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
