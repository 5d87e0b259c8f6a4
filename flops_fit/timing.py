"""How long a sweep will take here: one look at the device instead of a surprise."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from flops_fit.experiments import Plan
from flops_fit.recipe import Recipe
from flops_fit.steps import train_step
from flops_fit.training_state import TrainingState, seeded

MATRIX_SIZE = 1024
"""Side of the square matrices whose product measures the device."""

TIMED_STEPS = 10
"""Steps of the smallest model whose fastest one counts as the cost of any step."""


def estimated_seconds(plan: Plan, recipe: Recipe, workers: int, threads: int) -> float:
    """Seconds to train the plan's experiments, `workers` at once with `threads` CPU threads each.

    A step takes what the smallest planned model's step takes, mostly the time to start its
    operations, and beyond that its FLOPs at the speed of a matrix product. Large models with
    small matrices take longer than this.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    smallest = min(plan.experiments, key=lambda e: e.flops_per_token)
    with seeded(smallest.seed):
        state = TrainingState.start(smallest, recipe)
    batches = recipe.source.training_batches(smallest.batch_size, smallest.seed)
    step_seconds = min(
        _seconds(lambda: train_step(next(batches), 1.0, recipe, state), recipe.device)
        for _ in range(min(TIMED_STEPS, smallest.num_steps))
    )
    flops_per_second = matrix_flops_per_second(recipe)
    torch.set_num_threads(threads_before)
    steps = sum(e.num_steps for e in plan.experiments)
    return (steps * step_seconds + plan.total_flops / flops_per_second) / workers


def matrix_flops_per_second(recipe: Recipe) -> float:
    """What the device does in products of square matrices in the recipe's precision."""
    dtype = torch.float32 if recipe.precision == "fp32" else torch.bfloat16
    matrix = torch.ones(MATRIX_SIZE, MATRIX_SIZE, device=recipe.device, dtype=dtype)
    seconds = min(_seconds(lambda: matrix @ matrix, recipe.device) for _ in range(TIMED_STEPS))
    return float(2 * MATRIX_SIZE**3 / seconds)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work()`, the device's queue included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
