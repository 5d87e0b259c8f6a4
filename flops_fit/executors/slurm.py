"""Jobs of a Slurm cluster, by submitit."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import ConfigError, StudyError
from flops_fit.executors.partition import most_minutes
from flops_fit.files import is_inside
from flops_fit.plan.experiment import Experiment
from flops_fit.plan.trunks import chains
from flops_fit.settings import MachineSettings, SweepSettings
from flops_fit.shown import duration, short_flops
from flops_fit.store.folder import StudyFolder, as_pinned
from flops_fit.store.protocols import Logger, Prepared, Spec
from flops_fit.store.sharing import check_file_system
from flops_fit.study.jobs import JobArray, Records, Waiting, jobs_there, never_began, records

if TYPE_CHECKING:
    from flops_fit.executors.requests import ArrayOf, Asked
    from flops_fit.training.hardware import Hardware

HALF = "bf16"
"""What precision=auto is on a GPU of which nothing more is known: those since 2020 compute it."""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Submits what is missing of a study and waits for nothing; see docs/slurm.md.

    `gpus` is a number of each job, or a kind and a number (a100:1); `more` are other options of
    sbatch, and `setup` lines of shell that go before the training. None: as configs/executor says.
    """

    partition: str | None = None
    gpus: int | str | None = None
    cpus: int | None = None
    machine: str | None = None
    minutes: float | None = None
    memory_gb: float | None = None
    minutes_per_job: float = 10.0
    at_once: int = 256
    stop_seconds: int = 90
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `ConfigError`."""
        for name in ("cpus", "minutes", "memory_gb", "minutes_per_job", "at_once", "stop_seconds"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ConfigError(f"executor.{name} is {value!r}: give a number above 0")
        if not isinstance(self.more, Mapping):
            raise ConfigError(
                f"executor.more is {self.more!r}: give options of sbatch and their values, such as "
                "executor.more.account=NAME"
            )

    def planned(self, spec: Spec, settings: SweepSettings) -> Spec:
        from flops_fit.training.spec import StudySpec

        if not isinstance(spec, StudySpec):
            return spec
        return replace(spec, device="cpu", auto_precision=self._precision(settings))

    def submit(
        self,
        spec: Spec,
        prepared: Prepared,
        missing: Sequence[Experiment],
        folder: StudyFolder,
        settings: SweepSettings,
        logger: Logger | None = None,
    ) -> Submission:
        if missing and not settings.dry_run:
            check_slurm()
            check_file_system(folder.path)
        if missing:
            _check_submitit()
        settings = as_pinned(settings, folder)
        self._check_spread(prepared, settings)
        known = records(folder)
        there = self._there(known, settings) or {}
        queued = known.runs_of(there)
        under_way = queued | {e.id for e in missing if folder.seems_locked(e.id)}
        todo = [e for e in missing if e.id not in under_way]
        arrays, notes = self._arrays(todo, prepared, settings)
        found = Submission(folder, len(missing), len(missing) - len(todo), tuple(notes))
        if not arrays:
            return found
        from flops_fit.executors.submission import scripts_of, submit

        if settings.dry_run:
            return replace(found, planned=arrays, scripts=scripts_of(self, arrays, folder))
        settled = {e.id for e in prepared.plan.experiments} - {e.id for e in missing}
        notes += [*never_began(known, there, frozenset(settled)), *_warnings(folder)]
        taken = submit(self, arrays, spec, prepared.plan, folder, settings, logger)
        return replace(found, notes=tuple(notes), planned=arrays, submitted=taken)

    def _check_spread(self, prepared: Prepared, settings: MachineSettings) -> None:
        """Raises `ConfigError` for what jobs could only fail of."""
        from flops_fit.study.machine import Machine, check_spread

        count, gpus = settings.gpus_per_run or 1, self._gpus(settings)
        number = f"{gpus}".rpartition(":")[2]
        if number.isdecimal() and 0 < int(number) < count:
            raise ConfigError(
                f"executor.gpus is {gpus}, gpus_per_run {count}: leave executor.gpus out, or ask "
                f"for {count}"
            )
        in_job = Machine(1, 1, gpus=(number,) if gpus else (), gpus_per_run=count)
        check_spread(prepared, replace(in_job, spread=settings.spread or "replicas"), settings)

    def _there(self, known: Records, settings: SweepSettings) -> dict[str, Waiting] | None:
        """A dry run can do without the queue."""
        try:
            return jobs_there(known)
        except StudyError:
            if not settings.dry_run:
                raise
            return None

    def _arrays(
        self, todo: Sequence[Experiment], prepared: Prepared, settings: SweepSettings
    ) -> tuple[tuple[ArrayOf, ...], list[str]]:
        """What is to be submitted, and what to know of it."""
        from flops_fit.executors.requests import arrays_of, costs, shared_out

        asked, hardware = self._asked(settings), self._hardware
        cost = costs(prepared, todo, hardware, asked)
        jobs = shared_out(chains(todo), cost.seconds, asked.minutes_per_job)
        arrays = tuple(arrays_of(jobs, cost, asked))
        notes: list[str] = []
        if arrays and hardware is not None:
            from flops_fit.study.estimates import estimate_elsewhere

            one_at_a_time = replace(settings, workers=1, precision="auto")
            notes += estimate_elsewhere(prepared, hardware, one_at_a_time).notes
        if arrays and cost.seconds is None and self.minutes is None:
            notes.append(
                f"how long runs take can't be told here: a run a job, of "
                f"{arrays[0].request.minutes} minutes, after which it is queued again and goes on; "
                "executor.machine=h100, say, tells more, or executor.minutes"
            )
        notes += self._notes_on_time(arrays, asked)
        return arrays, notes

    def _notes_on_time(self, arrays: Sequence[ArrayOf], asked: Asked) -> list[str]:
        """Raises `ConfigError` for jobs that would be told to stop as they start."""
        from flops_fit.executors.requests import minutes_wanted

        shortest = min((array.request.minutes for array in arrays), default=math.inf)
        if 60 * shortest <= self.stop_seconds:
            raise ConfigError(
                f"a job of {shortest} min would be told to stop as it starts, "
                f"executor.stop_seconds={self.stop_seconds} before its end: set fewer of these, or "
                "give it more time (executor.minutes, another partition)"
            )
        wanted = max((minutes_wanted(array.jobs, asked) for array in arrays), default=0)
        if wanted <= asked.most_minutes:
            return []
        return [
            f"{self.partition or 'the default partition'} gives a job {asked.most_minutes:g} min, "
            f"{wanted} were wanted: a run that isn't done by then is queued again and goes on"
        ]

    def _asked(self, settings: MachineSettings) -> Asked:
        from flops_fit.executors.requests import Asked, cpus_of

        gpus = self._gpus(settings)
        return Asked(
            minutes=self.minutes,
            memory_gb=self.memory_gb,
            cpus=self.cpus or cpus_of(settings, on_gpu=bool(gpus)),
            gpus=gpus,
            processes=settings.gpus_per_run or 1,
            minutes_per_job=self.minutes_per_job,
            most_minutes=most_minutes(self.partition),
        )

    def _gpus(self, settings: MachineSettings) -> int | str:
        if self.gpus is not None:
            return self.gpus
        hardware = self._hardware
        on_cpu = settings.device == "cpu" or (hardware is not None and hardware.device == "cpu")
        return 0 if on_cpu else settings.gpus_per_run or 1

    def _precision(self, settings: MachineSettings) -> str:
        """What `auto` is where the jobs run."""
        if not self._gpus(settings):
            return "fp32"
        hardware = self._hardware
        return HALF if hardware is None else hardware.fastest_precision

    @property
    def _hardware(self) -> Hardware | None:
        from flops_fit.training.hardware import named

        return None if self.machine is None else named(self.machine)


@dataclass(frozen=True)
class Submission:
    """What was submitted now, of what is missing; `under_way` runs are in jobs of before.

    Of a dry run there are `scripts` in place of what was `submitted`.
    """

    folder: StudyFolder
    missing: int
    under_way: int
    notes: tuple[str, ...] = ()
    planned: tuple[ArrayOf, ...] = ()
    submitted: tuple[JobArray, ...] = ()
    scripts: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        return self.missing > 0

    @property
    def lines(self) -> tuple[str, ...]:
        runs = sum(len(job.experiments) for array in self.planned for job in array.jobs)
        jobs = sum(len(array.jobs) for array in self.planned)
        said = [f"note: {note}" for note in self.notes]
        if self.under_way:
            said.append(f"{_count(self.under_way, 'run')} queued or running already")
        if self.planned:
            done = "submitted" if self.submitted else "would be submitted"
            arrays = _count(len(self.planned), "array")
            said.append(f"{_count(runs, 'run')} in {_count(jobs, 'job')} {done}, {arrays}:")
            said += map(self._line, range(len(self.planned)))
        return tuple(said)

    def _line(self, i: int) -> str:
        array = self.planned[i]
        runs = sum(len(job.experiments) for job in array.jobs)
        seconds = [job.seconds for job in array.jobs if job.seconds is not None]
        took = f", the longest about {duration(max(seconds))}" if seconds else ""
        name = f"job {self.submitted[i].id}: " if self.submitted else ""
        return (
            f"  {name}up to {short_flops(array.budget)}: {_count(runs, 'run')} in "
            f"{_count(len(array.jobs), 'job')}{took}; each {array.request}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "study": str(self.folder.path),
            "missing": self.missing,
            "under_way": self.under_way,
            "arrays": [
                {
                    "budget": array.budget,
                    "jobs": len(array.jobs),
                    "runs": sum(len(job.experiments) for job in array.jobs),
                    "id": self.submitted[i].id if self.submitted else None,
                    "request": vars(array.request),
                }
                for i, array in enumerate(self.planned)
            ],
            "scripts": list(self.scripts),
        }


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def check_slurm() -> None:
    """Raises `ConfigError` where there is none."""
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise ConfigError(
                f"executor=slurm needs {program}, which is not on the PATH: run the command where "
                "the cluster is used from (its login node), or show what would be submitted with "
                "dry_run=true"
            )


def _check_submitit() -> None:
    if find_spec("submitit") is None:
        raise ConfigError(
            "executor=slurm needs the package submitit: pip install 'flops-fit[slurm]'"
        )


def _warnings(folder: StudyFolder) -> list[str]:
    """Of a study in a place that other machines seldom see."""
    local = [Path(tempfile.gettempdir()), Path("/dev/shm"), Path("/var/tmp")]
    if not any(is_inside(folder.path, place) for place in local):
        return []
    return [
        f"{folder.path.resolve()} looks like a folder of this machine alone: jobs need it under "
        "the same path on every node (output_root=FOLDER)"
    ]
