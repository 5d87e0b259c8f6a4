"""What jobs are asked for: which runs share one, and how long and how much memory it may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from flops_fit.plan.experiment import Experiment
from flops_fit.plan.trunks import Chain
from flops_fit.settings import MachineSettings
from flops_fit.store.protocols import Prepared
from flops_fit.study.jobs import Request
from flops_fit.training.devices import peak_memory_bytes
from flops_fit.training.hardware import Hardware
from flops_fit.training.memory import GUESSED_BYTES_PER_PARAM, estimated_step_bytes
from flops_fit.training.ranks import part_of
from flops_fit.training.recipe import Recipe
from flops_fit.training.roofline import on, step_times_on
from flops_fit.training.timing import in_steps, step_times
from flops_fit.training.trainer import TorchTrainer

START_MINUTES = 5
"""For a job to import torch, build model and data and, the first time, try kernels."""

TIMES_THE_ESTIMATE = 2.0
"""That a job may take: another node, neighbours. One whose time is up goes on in the next."""

UNKNOWN_MINUTES = 60
"""That a job may take where nobody can tell how long its runs are."""

MEMORY_MARGIN = 1.25
"""Times the main memory that was counted."""

LEAST_MEMORY_GB = 2
"""Of a job."""

CUDA_BYTES = 3e9
"""Of main memory, for CUDA's libraries."""

MOST_IN_ARRAY = 1000
"""Jobs: clusters number them up to 1,000 unless they say otherwise (MaxArraySize)."""


@dataclass(frozen=True)
class Asked:
    """What the user, or a default, says of every job."""

    minutes: float | None
    memory_gb: float | None
    cpus: int
    gpus: int | str
    processes: int  # that train a run together
    minutes_per_job: float
    most_minutes: float = math.inf  # that the cluster gives a job


@dataclass(frozen=True)
class Costs:
    """What runs take: seconds of a chain, bytes of main memory for a run beside its process.

    None: nobody can tell.
    """

    seconds: Callable[[Chain], float] | None = None
    main_memory: Callable[[Experiment], float] | None = None


def costs(
    prepared: Prepared, todo: Sequence[Experiment], hardware: Hardware | None, asked: Asked
) -> Costs:
    """On the hardware that is named, else on this machine's CPU for jobs without a GPU.

    Raises `ConfigError` for a precision that the hardware lacks.
    """
    trainer = prepared.trainer
    if not isinstance(trainer, TorchTrainer) or not todo:
        return Costs()
    recipe = trainer.recipe
    held_out = recipe.held_out_samples
    step: Callable[[Experiment], float] | None = None
    if hardware is not None:
        there = on(hardware, recipe, recipe.precision)
        step = step_times_on(hardware, todo, there)
    elif not asked.gpus:
        with suppress(Exception):  # of a user's code at some size: its run will fail and say why
            step = step_times(todo, recipe, asked.cpus)
    seconds = None if step is None else _of_chains(step, held_out)
    return Costs(seconds, _main_memory(recipe, asked.processes, on_gpu=bool(asked.gpus)))


def _of_chains(step: Callable[[Experiment], float], held_out: int) -> Callable[[Chain], float]:
    return lambda chain: in_steps(chain, held_out) * step(chain[0])


def _main_memory(recipe: Recipe, processes: int, *, on_gpu: bool) -> Callable[[Experiment], float]:
    """Bytes, with this process, which has torch, the model's code and the data, for each of the
    job's: those that train a run together, and the one that started them."""
    own = peak_memory_bytes(recipe.device)
    all_of_them = own if processes == 1 else own * (1 + processes)

    def of(experiment: Experiment) -> float:
        state = GUESSED_BYTES_PER_PARAM * experiment.num_params_total
        if on_gpu:  # a checkpoint goes through main memory
            return all_of_them + processes * CUDA_BYTES + state
        step = estimated_step_bytes(part_of(experiment, processes), recipe) or state
        return all_of_them + processes * step

    return of


@dataclass(frozen=True)
class JobOf:
    """Chains for one job; `seconds` is None where nobody can tell."""

    chains: tuple[Chain, ...]
    seconds: float | None

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        return tuple(e for chain in self.chains for e in chain)

    @property
    def budget(self) -> float:
        """The largest."""
        return max(e.budget for e in self.experiments)


def shared_out(
    work: Sequence[Chain], seconds: Callable[[Chain], float] | None, minutes_per_job: float
) -> list[JobOf]:
    """Long ones each in a job of its own; short ones, size by size, in jobs of so many minutes."""
    if seconds is None:
        return [JobOf((chain,), None) for chain in work]
    most = 60 * minutes_per_job
    timed = [(chain, seconds(chain)) for chain in work]
    jobs = [JobOf((chain,), took) for chain, took in timed if took >= most]
    shared: list[Chain] = []
    total = 0.0
    for chain, took in sorted((t for t in timed if t[1] < most), key=lambda t: _by_size(t[0])):
        if shared and total + took > most:
            jobs.append(JobOf(tuple(shared), total))
            shared, total = [], 0.0
        shared.append(chain)
        total += took
    return [*jobs, JobOf(tuple(shared), total)] if shared else jobs


def _by_size(chain: Chain) -> tuple[int, float]:
    return chain[0].num_params_total, chain[-1].budget


@dataclass(frozen=True)
class ArrayOf:
    """Jobs to be submitted as one, of one largest budget, the longest first."""

    budget: float
    jobs: tuple[JobOf, ...]
    request: Request


def arrays_of(jobs: Sequence[JobOf], cost: Costs, asked: Asked) -> list[ArrayOf]:
    """The jobs by their largest budget, with what the largest of each array needs."""
    by_budget: dict[float, list[JobOf]] = {}
    for job in sorted(jobs, key=lambda job: job.seconds or 0.0, reverse=True):
        by_budget.setdefault(job.budget, []).append(job)
    return [
        ArrayOf(budget, tuple(part), request_of(part, cost, asked))
        for budget, mine in sorted(by_budget.items())
        for part in (mine[i : i + MOST_IN_ARRAY] for i in range(0, len(mine), MOST_IN_ARRAY))
    ]


def request_of(jobs: Sequence[JobOf], cost: Costs, asked: Asked) -> Request:
    """As the user says, else by what the longest and the largest of the jobs take."""
    memory = asked.memory_gb
    if memory is None and cost.main_memory is not None:
        largest = max(
            (e for job in jobs for e in job.experiments),
            key=lambda e: (e.num_params_total, e.batch_size),
        )
        memory = math.ceil(max(LEAST_MEMORY_GB, MEMORY_MARGIN * cost.main_memory(largest) / 1e9))
    return Request(
        minutes=math.floor(min(minutes_wanted(jobs, asked), asked.most_minutes)),
        cpus=asked.cpus,
        gpus=asked.gpus,
        memory_gb=memory,
    )


def minutes_wanted(jobs: Sequence[JobOf], asked: Asked) -> int:
    """As the user says, else by what the longest of the jobs takes: the cluster may give less."""
    known = [job.seconds for job in jobs if job.seconds is not None]
    minutes: float = UNKNOWN_MINUTES
    if known:
        minutes = START_MINUTES + TIMES_THE_ESTIMATE * max(known) / 60
    return math.ceil(asked.minutes or minutes)


def cpus_of(settings: MachineSettings, *, on_gpu: bool) -> int:
    """Of a job for which nobody says: for the data beside each GPU, else those that a run uses."""
    of_each = CPUS_BESIDE_GPU if on_gpu else settings.threads or 1
    return of_each * (settings.gpus_per_run or 1)


CPUS_BESIDE_GPU = 4
