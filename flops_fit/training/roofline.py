"""How long training takes on a machine that one is not on, from what its steps compute and move.

A kernel takes the time of its launch and then that of its products or of its bytes, whichever is
longer (the roofline: Williams et al. 2009). Shares of the datasheet's peaks are constants, fitted
to steps that were measured on an H100: see `GPU`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from flops_fit.errors import ConfigError
from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.training.compiling import is_worth_compiling
from flops_fit.training.dry_step import DryStep, Kernel
from flops_fit.training.hardware import Hardware
from flops_fit.training.memory import dry_step_of
from flops_fit.training.recipe import Recipe
from flops_fit.training.timing import plan_seconds, spread_sizes

TRACED_SIZES = 5
"""Planned sizes whose steps are looked at, evenly spread; between them times are interpolated."""

COMPILE_SECONDS = 15.0
"""To compile a model once (9 to 20 s were measured for 0.2M to 124M parameters)."""


@dataclass(frozen=True)
class Efficiency:
    """What of a machine's peaks steps get. Compiled, kernels without products are merged:
    so many launches and bytes of theirs are left."""

    launch_seconds: float
    of_peak: float
    of_bandwidth: float
    launches_compiled: float
    bytes_compiled: float


GPU = Efficiency(
    launch_seconds=3.3e-6,
    of_peak=0.72,
    of_bandwidth=0.53,
    launches_compiled=0.69,
    bytes_compiled=0.33,
)
"""Fitted to steps on an H200 SXM (torch 2.11) as `scripts/gpu_check` and a forerunner of it timed
them, each captured whole as a CUDA graph: transformers in bf16 of 0.2M, 3.2M, 25M parameters, and
of 124M with 32 times 1,024 tokens, 0.994, 2.06, 7.01 and 103.5 ms; compiled 0.666, 1.3, 4.4 and
58.0 ms. All are met within 6%; an MLP of width 32, which the fit knew too, takes 0.111 ms in bf16
and 0.103 in fp32 and is told 0.144 and 0.082. Other cards are taken to get the same shares."""

METAL = replace(GPU, launch_seconds=15e-6)
"""Not measured: Metal queues each operation by itself."""

CPU = Efficiency(
    launch_seconds=5e-6,
    of_peak=0.6,
    of_bandwidth=0.5,
    launches_compiled=0.32,
    bytes_compiled=0.35,
)
"""Eager operations of torch take about 5 us to start; the rest is a guess for an unknown CPU."""

EFFICIENCY = {"cuda": GPU, "mps": METAL, "cpu": CPU}


def on(hardware: Hardware, recipe: Recipe, precision: str) -> Recipe:
    """The recipe as that machine would train it; nothing can be trained by it here.

    Raises `ConfigError` for a precision that the machine lacks.
    """
    if precision == "auto":
        precision = hardware.fastest_precision
    if precision not in hardware.peaks:
        has = ", ".join(p for p in hardware.peaks if p != "tf32")
        raise ConfigError(
            f"precision is {precision}, {hardware.title} ({hardware.name}) computes {has}: set one "
            "of these, or name another machine"
        )
    return replace(recipe, device=torch.device(hardware.device), precision=precision)


def step_times_on(
    hardware: Hardware, experiments: Iterable[Experiment], recipe: Recipe
) -> Callable[[Experiment], float] | None:
    """Seconds of one update of an experiment there, by a power law between sizes looked at; the
    recipe is that of the machine (`on`).

    None where steps can't be run without numbers.
    """
    traced = spread_sizes(experiments, TRACED_SIZES)
    steps = [dry_step_of(e, recipe) for e in traced]
    log_flops = np.log([e.flops_per_step for e in traced])
    log_seconds: dict[bool, np.ndarray] = {}
    for compiled in (False, True):
        seconds = [step_seconds(s, hardware, compiled) for s in steps if isinstance(s, DryStep)]
        if len(seconds) < len(steps):
            return None
        log_seconds[compiled] = np.log(seconds)

    def of(experiment: Experiment) -> float:
        compiled = is_worth_compiling(experiment, recipe.compile_above, hardware.device)
        at = np.log(experiment.flops_per_step)
        return float(np.exp(np.interp(at, log_flops, log_seconds[compiled])))

    return of


def seconds_on(
    hardware: Hardware,
    plan: Plan,
    recipe: Recipe,
    workers: int,
    seconds_of: Callable[[Experiment], float],
) -> float:
    """To train the plan there, `workers` runs at once, each as fast as one alone, where an update
    of an experiment takes so long (`step_times_on`)."""
    compiled = {
        e.size.label
        for e in plan.experiments
        if is_worth_compiling(e, recipe.compile_above, hardware.device)
    }
    training = plan_seconds(plan, recipe.held_out_samples, seconds_of, workers)
    return training + COMPILE_SECONDS * len(compiled)


def step_seconds(step: DryStep, hardware: Hardware, compiled: bool = False) -> float:
    """Of one update in one piece."""
    of_model = kernel_seconds(step.part_kernels, hardware, compiled)
    return of_model + kernel_seconds(step.update_kernels, hardware, compiled=False)


def kernel_seconds(kernels: Mapping[Kernel, int], hardware: Hardware, compiled: bool) -> float:
    """Of all these kernels, one after the other."""
    gets = EFFICIENCY[hardware.device]
    bandwidth = gets.of_bandwidth * hardware.bandwidth
    seconds = 0.0
    for kernel, count in kernels.items():
        moving = kernel.moved_bytes / bandwidth
        if compiled and not kernel.flops:
            launch, moving = (
                gets.launches_compiled * gets.launch_seconds,
                gets.bytes_compiled * moving,
            )
        else:
            launch = gets.launch_seconds
        computing = kernel.flops / (gets.of_peak * peak_of(kernel, hardware))
        seconds += count * (launch + max(computing, moving))
    return seconds


def peak_of(kernel: Kernel, hardware: Hardware) -> float:
    """FLOP/s of the products of this kernel at best."""
    peaks = hardware.peaks
    if not kernel.is_half:
        return peaks["fp32"]
    return peaks.get("bf16", peaks.get("fp16", peaks["fp32"]))
