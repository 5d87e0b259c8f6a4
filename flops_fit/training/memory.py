"""Which steps fit into the memory there is, told before any of it is taken."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch, changed, num_samples
from flops_fit.plan.experiment import Experiment, SizeValue
from flops_fit.training.dry_step import DryStep, Parts, dry_step
from flops_fit.training.family import ModelFamily
from flops_fit.training.kernels import DEFAULT
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import seeded

USABLE_SHARE = 0.9
"""Of the memory that is free: the rest is for fragments, the kernels' own buffers and the data."""

PROCESS_BYTES = {"cpu": 600 * 2**20, "cuda": 500 * 2**20}
"""Of a process beside its tensors: torch and its libraries' buffers, a context on a GPU."""

MOST_BYTES_PER_FLOP = 16
"""That a step keeps: 200 tensors of the size of a product's output, were that of width 8."""

MOST_BYTES_PER_PARAM = 32
"""Parameter, gradient, optimizer state and copies of each of them, in fp32."""

OBVIOUS_SHARE = 0.05
"""Of the memory: steps that by these bounds take less fit without a closer look."""

GRADIENT_BYTES = 4
"""Of a parameter, in fp32."""

LOSS_BYTES = 4
"""A run keeps the training loss of every step on its device."""

TRIFLE_BYTES = 2**30
"""Of a step that is tried just to see whether its parts fit each other."""

GUESSED_BYTES_PER_PARAM = 16
"""Parameter, gradient and the two moments of AdamW, in fp32."""

UNKNOWN_SHARE = 0.25
"""Of the memory: where a step can't be run without numbers, it is taken to fit if parameters,
gradients and optimizer state take less."""

FEWEST_SAMPLES = 2
"""Of which steps are estimated: one alone is refused by layers that take means over a batch."""


@dataclass(frozen=True)
class Unknown:
    """A step that can't be run without numbers, and why."""

    reason: str


@dataclass(frozen=True)
class Fit:
    """How a step of an experiment goes into a device's memory.

    `micro_batch_size` (samples) is what it is given at once, None for the whole batch; `needed` are
    the bytes that a step takes so. `fits` is False where that is too much even for the fewest
    samples. `unknown` says why where nothing can be told; then `needed` is None and `fits` a guess
    from the parameters.
    """

    experiment: Experiment
    needed: int | None
    there: int
    micro_batch_size: int | None
    fits: bool
    is_split: bool = False  # because the whole batch would be too much
    unknown: str | None = None


def estimated_step_bytes(
    experiment: Experiment, recipe: Recipe, micro_batch_size: int | None = None
) -> int | None:
    """Bytes of all tensors at the peak of a training step, none of which is allocated.

    Parameters, gradients, optimizer state, batch, activations and temporaries, as
    `torch.cuda.max_memory_allocated` counts them, of a step that runs op by op (compiled, it keeps
    less). `micro_batch_size`: samples at once, else the recipe's. None where the model can't be run
    on tensors without numbers.
    """
    samples = micro_batch_size or recipe.micro_batch_size
    step = dry_step_of(experiment, recipe, samples)
    return step.peak_bytes if isinstance(step, DryStep) else None


_STEPS: WeakKeyDictionary[ModelFamily, dict[tuple[Any, ...], DryStep | Unknown]]
_STEPS = WeakKeyDictionary()


def dry_step_of(
    experiment: Experiment, recipe: Recipe, micro_batch_size: int | None = None
) -> DryStep | Unknown:
    """A step of this size with the batch, or so many samples of it at once. Each is run once."""
    samples = min(micro_batch_size or experiment.batch_size, experiment.batch_size)
    return _dry_step(experiment.size.value, recipe, samples, samples < experiment.batch_size)


def _dry_step(
    value: SizeValue, recipe: Recipe, samples: int, accumulates: bool
) -> DryStep | Unknown:
    attention = (recipe.kernels or DEFAULT).attention
    name = json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value
    known = _STEPS.setdefault(recipe.family, {})
    key = (name, samples, accumulates, recipe.device.type, recipe.precision, attention)
    if key not in known:
        parts = Parts(
            build=lambda: recipe.family.build(value),
            batch=_of_samples(recipe.family.sample, samples),
            loss=recipe.loss,
            optimizer=recipe.optimizer,
            device=recipe.device.type,
            precision=recipe.precision,
            accumulates=accumulates,
            attention=attention,
        )
        known[key] = _run(parts)
    return known[key]


def _run(parts: Parts) -> DryStep | Unknown:
    try:
        with seeded(0):
            return dry_step(parts)
    except Exception as error:  # whatever a user's code does that needs numbers
        return Unknown(f"{type(error).__name__}: {error}".splitlines()[0])


def _of_samples(batch: Batch, samples: int) -> Batch:
    """Tensors of the batch's shapes with so many samples, without memory."""

    def like(tensor: Tensor) -> Tensor:
        return torch.empty((samples, *tensor.shape[1:]), dtype=tensor.dtype, device="meta")

    assert num_samples(batch) > 0
    return changed(batch, like)


def fit_of(experiment: Experiment, recipe: Recipe, there: int) -> Fit:
    """Whether and how a step fits into `there` bytes. A micro-batch that is set is kept; else the
    largest half, quarter .. of the batch that fits is taken, where the whole doesn't."""
    usable = int(USABLE_SHARE * there)
    given = recipe.micro_batch_size
    if _obviously_fits(experiment, usable):
        return Fit(experiment, None, there, given, True)
    step = dry_step_of(experiment, recipe, given)
    if isinstance(step, Unknown):
        guessed = GUESSED_BYTES_PER_PARAM * experiment.num_params_total
        return Fit(
            experiment, None, there, given, guessed < UNKNOWN_SHARE * there, unknown=step.reason
        )
    needed = step.peak_bytes + LOSS_BYTES * experiment.num_steps - _elsewhere(experiment, recipe)
    if needed > usable and given is None and recipe.portions.depends is None:
        return _split(experiment, recipe, there, needed)
    fit = Fit(experiment, needed, there, given, needed <= usable)
    _FITS.setdefault(recipe.family, []).append((*_ways(recipe), fit))
    return fit


def _elsewhere(experiment: Experiment, recipe: Recipe) -> int:
    """Bytes of a step that other processes hold of a sharded model, about."""
    if not recipe.ranks.shards:
        return 0
    share = 1 - 1 / recipe.ranks.count
    return int(share * GUESSED_BYTES_PER_PARAM * experiment.num_params_total)


_FITS: WeakKeyDictionary[ModelFamily, list[tuple[str, str, int | None, Fit]]]
_FITS = WeakKeyDictionary()


def _ways(recipe: Recipe) -> tuple[str, str, int | None]:
    return recipe.device.type, recipe.precision, recipe.micro_batch_size


def surely_fits(experiment: Experiment, recipe: Recipe, there: int) -> bool:
    """Whether a larger size was found to fit into `there` bytes: to look costs up to seconds."""
    return any(
        tuple(ways) == _ways(recipe)
        and fit.needed is not None
        and fit.needed <= USABLE_SHARE * there
        and _is_below(experiment, fit)
        for *ways, fit in _FITS.get(recipe.family, ())
    )


def fitted(recipe: Recipe, experiment: Experiment, processes: int = 1) -> Recipe:
    """The recipe with the micro-batch that its device has memory for now, shared by so many
    processes; the same where the whole batch fits, or nothing.

    Of a run over several devices the least that one of them has memory for.
    """
    part = recipe.ranks.part_of(experiment)
    if recipe.device.type == "cpu":
        processes *= recipe.ranks.count
    fit = fit_of(part, recipe, available_bytes(recipe.device, processes))
    sizes = recipe.ranks.of_each(fit.micro_batch_size if fit.is_split else None)
    split = [size for size in sizes if size is not None]
    return replace(recipe, micro_batch_size=min(split)) if split else recipe


@dataclass(frozen=True)
class _Line:
    """Bytes against samples, straight between few and the whole batch: above the bytes of what lies
    between, which are the largest of several numbers that are linear in the samples."""

    few: int
    bytes_of_few: int
    whole: int
    bytes_of_whole: int

    def largest_within(self, usable: float) -> tuple[int, int]:
        """The whole batch or a half, a quarter .. of it, and its bytes; 1 where nothing fits."""
        slope = (self.bytes_of_whole - self.bytes_of_few) / max(1, self.whole - self.few)
        samples, needed = self.whole, self.bytes_of_whole
        while samples > 1 and needed > usable:
            samples = -(-samples // 2)
            needed = int(self.bytes_of_few + slope * max(0, samples - self.few))
        return samples, needed


def _split(experiment: Experiment, recipe: Recipe, there: int, whole: int) -> Fit:
    few = min(FEWEST_SAMPLES, experiment.batch_size)
    of_few = estimated_step_bytes(experiment, recipe, few)
    if of_few is None:
        return Fit(experiment, whole, there, None, False)
    low = of_few + LOSS_BYTES * experiment.num_steps - _elsewhere(experiment, recipe)
    high = whole + GRADIENT_BYTES * experiment.num_params_total  # kept from part to part
    line = _Line(few, low, experiment.batch_size, high)
    samples, needed = line.largest_within(USABLE_SHARE * there)
    fits = needed <= USABLE_SHARE * there
    return Fit(experiment, needed, there, samples, fits, is_split=fits)


def _obviously_fits(experiment: Experiment, usable: int) -> bool:
    counted, tokens = experiment.flops_per_token_counted, experiment.batch_tokens
    is_short = LOSS_BYTES * experiment.num_steps < OBVIOUS_SHARE * usable
    return is_short and _is_little(counted, tokens, experiment.num_params_total, usable)


def _is_little(counted: float | None, tokens: float, num_params: int, usable: int) -> bool:
    """By bounds that hold for whatever counts its FLOPs in products: torch takes seconds to get
    ready for a closer look."""
    if counted is None:
        return False
    most = MOST_BYTES_PER_FLOP * tokens * counted + MOST_BYTES_PER_PARAM * num_params
    return most < OBVIOUS_SHARE * usable


def samples_to_try(value: SizeValue, recipe: Recipe, samples: int) -> int:
    """So many samples, or a half, a quarter .. of them, of which a step of this size is a trifle
    for main memory, in fp32 and without an optimizer's state; 0 where there are none."""
    there = free_main_memory()
    usable = min(int(USABLE_SHARE * there), TRIFLE_BYTES)
    size, family = recipe.family.at(value), recipe.family
    counted, tokens = size.counted_flops_per_token, samples * family.tokens_per_sample
    if _is_little(counted, tokens, size.num_params_total, usable):
        return samples
    here = replace(recipe, device=torch.device("cpu"), precision="fp32")
    few = min(FEWEST_SAMPLES, samples)
    low, high = (_dry_step(value, here, n, accumulates=False) for n in (few, samples))
    if isinstance(low, Unknown) or isinstance(high, Unknown):
        guessed = GUESSED_BYTES_PER_PARAM * size.num_params_total
        return samples if guessed < UNKNOWN_SHARE * there else 0
    line = _Line(few, low.peak_bytes, samples, high.peak_bytes)
    tried, needed = line.largest_within(usable)
    return tried if needed <= usable else 0


def largest_first(experiments: Iterable[Experiment]) -> list[Experiment]:
    """One experiment of each size and batch, the most parameters and the largest batch first."""
    by_step = {(e.size.label, e.batch_size): e for e in experiments}
    return sorted(by_step.values(), key=lambda e: (e.num_params_total, e.batch_size), reverse=True)


def fits_of(experiments: Iterable[Experiment], recipe: Recipe, there: int) -> list[Fit]:
    """How the steps fit, largest first, down to the first that fits whole: those below it with no
    larger batch do so too. Of runs over several devices what one of them has of a batch."""
    fits: list[Fit] = []
    for experiment in largest_first(map(recipe.ranks.part_of, experiments)):
        if any(_is_below(experiment, fit) for fit in fits):
            continue
        fits.append(fit_of(experiment, recipe, there))
    return fits


def _is_below(experiment: Experiment, fit: Fit) -> bool:
    larger = fit.experiment
    is_smaller = experiment.num_params_total <= larger.num_params_total
    fits_whole = fit.fits and not fit.is_split and fit.unknown is None
    return fits_whole and is_smaller and experiment.batch_size <= larger.batch_size


def available_bytes(device: torch.device, processes: int = 1) -> int:
    """Memory that tensors of one of so many processes can have there now.

    Of a CPU: what the system has left, within the limits of this process and its control groups.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        own = PROCESS_BYTES["cuda"] * (processes - 1)
        return int((free + held - own) / processes)
    if device.type == "mps":
        there = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return int(there / processes)
    others = PROCESS_BYTES["cpu"] * processes if processes > 1 else 0
    return max(0, int((free_main_memory() - others) / processes))


def free_main_memory() -> int:
    """Bytes that this process can still take."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        values = dict(line.split(":", 1) for line in lines)
        free.append(int(values["MemAvailable"].split()[0]) * 1024)
    free += _left_by_control_groups()
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            free.append(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(free))


CONTROL_GROUPS = Path("/sys/fs/cgroup")


def _left_by_control_groups() -> list[int]:
    """Limit less use of every group that this process is in; caches of files count as free."""
    left = []
    for folder, limit, used in _memory_groups():
        with suppress(OSError, ValueError):
            allowed = int((folder / limit).read_text(encoding="ascii"))  # "max" is no number
            taken = int((folder / used).read_text(encoding="ascii"))
            stat = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            cached = dict(line.split(" ", 1) for line in stat if line)
            reclaimed = int(cached.get("inactive_file", 0)) + int(cached.get("active_file", 0))
            left.append(allowed - taken + reclaimed)
    return left


def _memory_groups() -> list[tuple[Path, str, str]]:
    """Folder, and the names there of a limit and of what is used: of version 2 and of version 1."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":
                root, names = CONTROL_GROUPS, ("memory.max", "memory.current")
            elif "memory" in kinds.split(","):
                root = CONTROL_GROUPS / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            else:
                continue
            folder = root / path.lstrip("/")
            found += [(f, *names) for f in (folder, *folder.parents) if f.is_relative_to(root)]
    return found
