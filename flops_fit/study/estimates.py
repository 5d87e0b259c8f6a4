"""What a plan takes to train, here or on another machine: time, and the memory of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flops_fit.plan.experiment import Experiment
from flops_fit.settings import MachineSettings
from flops_fit.shown import duration, short_number
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Prepared, Trainer

if TYPE_CHECKING:
    from flops_fit.study.machine import Machine
    from flops_fit.training.hardware import Hardware
    from flops_fit.training.memory import Fit
    from flops_fit.training.ranks import Spread
    from flops_fit.training.recipe import Recipe

LONG_SECONDS = 86400.0
"""A sweep that takes longer than this is warned about."""

GIGABYTE = 1e9


@dataclass(frozen=True)
class Memory:
    """What a step of an experiment needs of a device, and what there is for it. Bytes.

    `needed` is with the whole batch, or with `micro_batch_size` samples where that is too much.
    None: it can't be told, for which `unknown` is the reason.
    """

    size: str  # with the name of its argument
    num_params: int
    needed: int | None
    there: int
    micro_batch_size: int | None
    fits: bool
    unknown: str | None

    @classmethod
    def of(cls, fit: Fit) -> Memory:
        e = fit.experiment
        return cls(
            size=f"{e.size.name} {e.size.label}",
            num_params=e.num_params_total,
            needed=fit.needed,
            there=fit.there,
            micro_batch_size=fit.micro_batch_size,
            fits=fit.fits,
            unknown=fit.unknown,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "num_params_total": self.num_params,
            "needed_bytes": self.needed,
            "available_bytes": self.there,
            "micro_batch_size": self.micro_batch_size,
            "fits": self.fits,
            "unknown": self.unknown,
        }


@dataclass(frozen=True)
class Estimate:
    """Of the whole plan. `seconds` is None where nobody can tell, `hardware` names another machine;
    `memory` has the sizes that were looked at, the largest first, `by_budget` the seconds of the
    runs of each budget, were they trained alone."""

    device: str
    workers: int
    seconds: float | None
    memory: tuple[Memory, ...] = ()
    hardware: str | None = None  # as machine=.. names it
    title: str = ""  # of that machine and its precision
    by_budget: Mapping[float, float] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return "here" if self.hardware is None else f"on {self.hardware}"

    @property
    def duration(self) -> str | None:
        """In words; None where nobody can tell."""
        if self.seconds is None:
            return None
        warning = "warning: " if self.seconds > LONG_SECONDS else ""
        of = self.device if self.hardware is None else f"estimate for {self.title}"
        at_once = f"{self.workers} at once"
        return f"{warning}about {duration(self.seconds)} {self.where} ({of}, {at_once})"

    @property
    def largest_step(self) -> str | None:
        """The memory of the largest step that fits, in words; None where little is needed."""
        told = next((m for m in self.memory if m.fits and m.needed is not None), None)
        if told is None or told.needed is None:
            return None
        parts = f" in parts of {told.micro_batch_size}" if told.micro_batch_size else ""
        return (
            f"memory: the largest step, {told.size}{parts}, needs {gigabytes(told.needed)} of "
            f"{gigabytes(told.there)} {self.where}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sizes that fit nowhere, and what can't be told."""
        large = [m for m in self.memory if not m.fits and m.needed is not None]
        unknown = [m for m in self.memory if m.unknown is not None]
        said = [_too_large(m, self.where, self.workers) for m in large]
        if unknown:
            names = ", ".join(m.size for m in unknown)
            said.append(
                f"what a step of {names} needs of memory can't be told beforehand "
                f"({unknown[0].unknown}): watch the first run of the largest size"
            )
        if self.hardware is not None and self.seconds is None:
            said.append(f"how long training takes {self.where} can't be told beforehand")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": self.hardware,
            "device": self.device,
            "workers": self.workers,
            "seconds": self.seconds,
            "by_budget": [{"budget": b, "seconds": s} for b, s in self.by_budget.items()],
            "memory": [m.to_json() for m in self.memory],
        }


def _too_large(m: Memory, where: str, workers: int) -> str:
    samples = m.micro_batch_size
    assert m.needed is not None
    given = f"{samples} at a time" if samples else "its batch"
    do = [f"set workers={workers // 2}"] if workers > 1 else []
    do += [f"set micro_batch_size={samples // 2}"] if samples and samples > 1 else []
    do += ["leave it out (sizes=[..] or smaller budgets)", "train on a larger machine"]
    return (
        f"{m.size} ({short_number(m.num_params)} parameters) doesn't fit {where}: a step with "
        f"{given} needs {gigabytes(m.needed)}, {gigabytes(m.there)} are there: {', or '.join(do)}"
    )


def gigabytes(count: float) -> str:
    """Bytes as people say them."""
    return f"{count / GIGABYTE:.1f} GB" if count >= GIGABYTE / 10 else f"{count / 1e6:.0f} MB"


def estimate_here(prepared: Prepared, machine: Machine, folder: StudyFolder) -> Estimate:
    """By steps that are timed now, as far as they fit into memory; of a command nobody can say."""
    from flops_fit.training.timing import seconds_to_train, step_times
    from flops_fit.training.trainer import TorchTrainer

    trainer = prepared.trainer.tuned(prepared.plan, machine.threads, folder.pinned())
    if not isinstance(trainer, TorchTrainer):
        return Estimate("", machine.workers, None)
    recipe, plan = trainer.recipe, prepared.plan
    memory = memory_here(plan.experiments, recipe, machine)
    alone = step_times(plan.experiments, recipe, machine.threads)
    count = machine.gpus_per_run
    recipe = spread_over(recipe, count, machine.spread)

    def step(experiment: Experiment) -> float:
        return alone(experiment) / count

    seconds = seconds_to_train(plan, recipe, machine.workers, step)
    by_budget = {
        budget: seconds_to_train(plan.at_budget(budget), recipe, machine.workers, step)
        for budget in plan.budgets
    }
    in_turns = recipe.device.type == "cuda" and machine.workers == 1 and count == 1
    at_once = min(machine.runs_per_gpu, len(plan)) if in_turns else machine.workers
    return Estimate(str(recipe.device), at_once, seconds, memory, by_budget=by_budget)


def memory_here(
    experiments: Sequence[Experiment], recipe: Recipe, machine: Machine
) -> tuple[Memory, ...]:
    """Of the steps that are looked at, with as many runs at once as the machine trains."""
    from flops_fit.training.memory import available_bytes

    per_device = -(-machine.workers // max(1, len(machine.gpus)))
    there = available_bytes(
        recipe.device, per_device * (1 if machine.gpus else machine.gpus_per_run)
    )
    return _memory(experiments, spread_over(recipe, machine.gpus_per_run, machine.spread), there)


def spread_over(recipe: Recipe, count: int, spread: Spread | None) -> Recipe:
    """As one of the processes has it that train a run together; to be looked at, not trained."""
    from flops_fit.training.ranks import Ranks

    return replace(recipe, ranks=Ranks(0, count, spread or "replicas"))


def notes_on_memory(
    trainer: Trainer, experiments: Sequence[Experiment], machine: Machine
) -> tuple[str, ...]:
    """What is to be trained here and doesn't fit."""
    from flops_fit.training.trainer import TorchTrainer

    if not isinstance(trainer, TorchTrainer):
        return ()
    memory = memory_here(experiments, trainer.recipe, machine)
    return Estimate(str(trainer.recipe.device), machine.workers, None, memory).notes


def estimate_elsewhere(
    prepared: Prepared, hardware: Hardware, settings: MachineSettings
) -> Estimate:
    """By what steps compute, move and hold: nothing is trained."""
    from flops_fit.training.roofline import on, seconds_on, step_times_on
    from flops_fit.training.trainer import TorchTrainer

    workers = min(settings.workers or 1, len(prepared.plan))
    if not isinstance(prepared.trainer, TorchTrainer):
        return Estimate(hardware.device, workers, None, hardware=hardware.name)
    count = settings.gpus_per_run or 1
    recipe = on(hardware, prepared.trainer.recipe, settings.precision)
    recipe = spread_over(recipe, count, settings.spread)
    memory = _memory(prepared.plan.experiments, recipe, int(hardware.memory_bytes / workers))
    plan = prepared.plan
    title = f"{hardware.title}, {recipe.precision}"
    alone = step_times_on(hardware, plan.experiments, recipe)
    if alone is None:
        return Estimate(hardware.device, workers, None, memory, hardware.name, title)

    def step(experiment: Experiment) -> float:
        return alone(experiment) / count

    seconds = seconds_on(hardware, plan, recipe, workers, step)
    by_budget = {
        budget: seconds_on(hardware, plan.at_budget(budget), recipe, workers, step)
        for budget in plan.budgets
    }
    return Estimate(hardware.device, workers, seconds, memory, hardware.name, title, by_budget)


def _memory(experiments: Sequence[Experiment], recipe: Recipe, there: int) -> tuple[Memory, ...]:
    from flops_fit.training.memory import fits_of

    return tuple(map(Memory.of, fits_of(experiments, recipe, there)))
