"""Which kernels train a study fastest on this machine: a few real steps of each, remembered."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flops_fit.datasets.batches import micro_batches
from flops_fit.errors import ConfigError, StudyError
from flops_fit.files import read_json, write_json
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.ids import digest
from flops_fit.training.kernels import KernelPlan, in_force, plans_for
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import TrainingState, seeded
from flops_fit.training.steps import train_step
from flops_fit.training.timing import MOST_STEPS_REMEMBERED, spread_sizes, that_fit

TRIED_SIZES = 3
"""Planned sizes of which steps are tried, evenly spread from the smallest to the largest."""

FEWEST_STEPS = 5
"""Steps of a size with each plan, the first not timed. Where layers start at zero every weight
moves from the third step on, so that the last of these losses depends on all kernels."""

TRIAL_SECONDS = 2.0
TRIAL_SHARE = 0.01
"""Seconds, and share of the time that training this size will take, after which no further steps
of it are tried."""

WHOLE_BATCH_FLOPS = 2e11
"""Of a step: 4 seconds on one core. Of larger ones a part of the batch is tried."""

LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 1e-2}
"""Precision -> how far, relatively, FEWEST_STEPS steps with a plan may lead from where the first
plan's steps lead."""

Step = Callable[[], float]
"""Trains one step and returns its loss; it is done by then."""


@dataclass(frozen=True)
class Trial:
    """A size to be tried. `start` makes a model, always the same, and returns what trains it."""

    start: Callable[[KernelPlan], Step]
    num_steps: float  # planned, of this size and those like it


def kernels_of_study(experiments: Sequence[Experiment], recipe: Recipe, cache: Path) -> KernelPlan:
    """The plan with which all of these train fastest, with as many threads as torch has now.

    Tries for seconds where the device offers a choice; the file `cache` remembers the outcome.
    """
    plans = plans_for(recipe.device, recipe.precision)
    if len(plans) == 1:
        return plans[0]
    sizes = tried_sizes(experiments)
    key = _key(sizes, recipe)
    known = remembered(key, cache)
    if known in plans:
        return known
    trials = [
        Trial(partial(fresh_steps, e, recipe, samples), num_steps * e.batch_size / samples)
        for e, num_steps in reversed(sizes)  # what is known of the largest holds for the others
        if (samples := _samples_to_try(e, recipe, len(plans)))
    ]
    if not trials:
        return plans[0]
    try:
        plan = fastest(plans, trials, LOSS_TOLERANCE[recipe.precision])
    except Exception:  # whatever a user's code raises: the run that meets it tells
        return plans[0]
    remember(key, plan, cache)
    return plan


def tried_sizes(experiments: Sequence[Experiment]) -> list[tuple[Experiment, int]]:
    """Some of the sizes, with the planned steps of all that are nearest to it in FLOPs a step."""
    tried = spread_sizes(experiments, TRIED_SIZES)
    flops = np.array([e.flops_per_step for e in tried])
    steps = [0] * len(tried)
    for e in experiments:
        steps[np.abs(np.log(flops / e.flops_per_step)).argmin()] += e.num_steps
    return list(zip(tried, steps, strict=True))


def _samples_to_try(experiment: Experiment, recipe: Recipe, states: int) -> int:
    """The whole batch, unless it takes long or doesn't fit into memory beside the others' states;
    0 where the size can't be tried."""
    each = experiment.flops_per_step / experiment.batch_size
    soon = int(WHOLE_BATCH_FLOPS / each)
    return soon and min(soon, experiment.batch_size, that_fit(experiment, recipe, states))


def fresh_steps(experiment: Experiment, recipe: Recipe, samples: int, plan: KernelPlan) -> Step:
    """Steps of a fresh model of this size, all on the first samples of the first batch."""
    recipe = replace(recipe, kernels=plan)
    experiment = replace(experiment, num_steps=min(experiment.num_steps, MOST_STEPS_REMEMBERED))
    with seeded(experiment.seed):
        state = TrainingState.start(experiment, recipe)
        batches = recipe.source.training_batches(experiment.batch_size, experiment.order_seed)
        batch = next(micro_batches(next(batches), samples))

    def step() -> float:
        with seeded(experiment.seed):
            train_step(batch, 1.0, recipe, state)
        state.step = 0
        return float(state.losses[0])

    return step


def fastest(
    plans: Sequence[KernelPlan], trials: Sequence[Trial], loss_tolerance: float
) -> KernelPlan:
    """The plan with which the trials' planned steps take the least time.

    Plans whose losses part from the first one's by more than `loss_tolerance` are out.
    """
    seconds = dict.fromkeys(plans, 0.0)
    for trial in trials:
        laps = _race(plans, trial)
        for plan, lap in laps.items():
            seconds[plan] += trial.num_steps * lap.step_seconds
            if not math.isclose(lap.loss, laps[plans[0]].loss, rel_tol=loss_tolerance):
                seconds[plan] = math.inf
    return min(plans, key=lambda plan: seconds[plan])


@dataclass(frozen=True)
class _Lap:
    step_seconds: float  # the least
    loss: float  # of step FEWEST_STEPS


def _race(plans: Sequence[KernelPlan], trial: Trial) -> dict[KernelPlan, _Lap]:
    """Steps in turns and in seconds of this process's CPU time, which a busy machine blurs least.

    Threads that wait for each other count too, since they spin.
    """
    steps = {plan: trial.start(plan) for plan in plans}
    seconds: dict[KernelPlan, list[float]] = {plan: [] for plan in plans}
    losses: dict[KernelPlan, list[float]] = {plan: [] for plan in plans}
    started = time.process_time()
    rounds = 0
    until = math.inf
    while rounds < FEWEST_STEPS or time.process_time() - started < until:
        for plan, step in steps.items():
            with in_force(plan):
                before = time.process_time()
                losses[plan].append(step())
                seconds[plan].append(time.process_time() - before)
        rounds += 1
        training = trial.num_steps * min(map(min, seconds.values()))
        until = min(TRIAL_SECONDS, TRIAL_SHARE * training)
    return {p: _Lap(min(seconds[p][1:]), losses[p][FEWEST_STEPS - 1]) for p in plans}


def _key(sizes: Sequence[tuple[Experiment, int]], recipe: Recipe) -> str:
    """A key that changes with everything that decides which plan is fastest."""
    shapes = [
        [e.num_params, e.flops_per_token, e.batch_size, e.batch_tokens, num_steps]
        for e, num_steps in sizes
    ]
    where = f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    return f"{where}, {recipe.precision}, sizes {digest([shapes, recipe.micro_batch_size])}"


def processor() -> str:
    """The CPU's model, which its marketing name alone doesn't tell, and what torch uses of it."""
    names = ("model name", "cpu family", "model", "stepping")
    values = []
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
        fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
        found = {name.strip(): value.strip() for name, value in fields.items()}
        values = [found[name] for name in names if name in found]
    known = " ".join(values) or platform.processor() or platform.machine()
    return f"{known} {torch.backends.cpu.get_cpu_capability()}"


def remembered(key: str, cache: Path) -> KernelPlan | None:
    """What `remember` has put there; None also where the file can't be understood."""
    try:
        return KernelPlan.from_json(_entries(cache)[key])
    except (KeyError, ConfigError):
        return None


def remember(key: str, plan: KernelPlan, cache: Path) -> None:
    """Next to what the file already has; where it can't be written, the next trial pays for it."""
    with suppress(StudyError, OSError):
        write_json(cache, {**_entries(cache), key: plan.to_json()})


def _entries(cache: Path) -> dict[str, Any]:
    try:
        entries = read_json(cache)
    except (FileNotFoundError, StudyError):
        return {}
    return entries if isinstance(entries, dict) else {}
