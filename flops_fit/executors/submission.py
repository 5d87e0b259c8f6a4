"""The study's work as submitit's jobs: scripts, the call of sbatch, records of what it took on.

What a job is given is pickled into a folder that is made anew for each submission, and read by that
job alone: nothing here or elsewhere unpickles what it finds in a study.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from flops_fit.errors import ConfigError, StudyError
from flops_fit.executors.node import Packed, TrainRuns
from flops_fit.executors.requests import ArrayOf
from flops_fit.files import folder_to_write, write_bytes
from flops_fit.plan.experiment import Plan
from flops_fit.settings import SweepSettings
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Logger, Spec
from flops_fit.study.jobs import JOBS, Job, JobArray, keep, one_line
from flops_fit.training.spec import StudySpec

if TYPE_CHECKING:
    from flops_fit.executors.slurm import Slurm

MOST_RESTARTS, MOST_OF_COMMANDS = 10_000, 3
"""Of a job whose time was up: as long as it comes further each time, see `TrainRuns.checkpoint`,
which nobody can tell of a command."""

SPEC = "study.pkl"


class Sbatch(SlurmExecutor):
    """submitit's, which can also show its script where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        return 2  # whether there is one was asked before

    def script(self, num_jobs: int) -> str:
        """What sbatch would be given for so many jobs."""
        shown = Sbatch(self.folder)
        shown.parameters = {**self.parameters}
        if num_jobs > 1:
            shown.parameters["map_count"] = num_jobs
        return str(shown._make_submission_file_text(shown._submitit_command_str, ""))


def scripts_of(slurm: Slurm, arrays: Sequence[ArrayOf], folder: StudyFolder) -> tuple[str, ...]:
    """What sbatch would be given. Raises `ConfigError`."""
    place = folder.path.resolve() / JOBS / "TIME"
    return tuple(sbatch(slurm, array, folder, place).script(len(array.jobs)) for array in arrays)


def submit(
    slurm: Slurm,
    arrays: Sequence[ArrayOf],
    spec: Spec,
    plan: Plan,
    folder: StudyFolder,
    settings: SweepSettings,
    logger: Logger | None,
) -> tuple[JobArray, ...]:
    """Submits them, and keeps a record of each. Raises `ConfigError` with what sbatch says."""
    place = _new_place(folder)
    packed = _packed(spec, logger, place)
    is_ours = isinstance(spec, StudySpec)
    of_job = replace(settings, workers=1, executor=None, logger=None)
    taken: list[JobArray] = []
    for number, array in enumerate(arrays, 1):
        work = [
            TrainRuns(
                study=folder.path.resolve(),
                plan=folder.plan_folder(plan).name,
                runs=tuple(e.id for e in job.experiments),
                packed=packed,
                settings=of_job,
            )
            for job in array.jobs
        ]
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                jobs = sbatch(slurm, array, folder, place, is_ours=is_ours).submit_array(work)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(_refused(str(error), array, taken)) from error
        record = JobArray(
            name=folder.path.name,
            request=array.request,
            submitted=datetime.now().astimezone().isoformat(timespec="seconds"),
            jobs=tuple(Job(str(job.job_id), one.runs) for job, one in zip(jobs, work, strict=True)),
        )
        keep(record, place, number)
        taken.append(record)
    return tuple(taken)


def sbatch(
    slurm: Slurm, array: ArrayOf, folder: StudyFolder, place: Path, *, is_ours: bool = True
) -> Sbatch:
    """What submits an array. Raises `ConfigError` for options that can't be."""
    request = array.request
    more = {f"{k}".replace("-", "_"): v for k, v in slurm.more.items() if v is not None}
    setup = [f"export OMP_NUM_THREADS={request.cpus}", *_lines(more.pop("setup", ()))]
    given: dict[str, Any] = {
        "job_name": folder.path.name,
        "time": request.minutes,
        "cpus_per_task": request.cpus,
        "array_parallelism": slurm.at_once,
        "signal_delay_s": slurm.stop_seconds,
        "stderr_to_stdout": True,
        "setup": setup,
        "wckey": None,  # one that clusters which keep account of them would refuse
        "srun_args": [f"--cpus-per-task={request.cpus}"],  # which srun doesn't take over
    }
    if slurm.partition is not None:
        given["partition"] = slurm.partition
    if request.gpus:
        given["gpus_per_node"] = request.gpus
    if request.memory_gb is not None:
        given["mem"] = f"{int(1024 * request.memory_gb)}M"
    known = Sbatch._valid_parameters()
    given |= {name: value for name, value in more.items() if name in known}
    others = {name: value for name, value in more.items() if name not in known}
    restarts = MOST_RESTARTS if is_ours else MOST_OF_COMMANDS
    made = Sbatch(place, max_num_timeout=restarts)
    made.update_parameters(**given, additional_parameters={"requeue": True, **others})
    return made


def _lines(setup: Any) -> list[str]:
    if isinstance(setup, str):
        return [setup]
    if isinstance(setup, list | tuple) and all(isinstance(line, str) for line in setup):
        return list(setup)
    raise ConfigError(
        f"executor.more.setup is {setup!r}: give lines of shell, ['module load cuda']"
    )


def _new_place(folder: StudyFolder) -> Path:
    """A folder that nobody had before, in which no file of a stranger can wait."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    place = folder_to_write(folder.path, JOBS).resolve() / stamp
    try:
        place.mkdir()
    except OSError as error:
        raise StudyError(
            f"{place} can't be made ({error.strerror}): mend the permissions"
        ) from error
    return place


def _packed(spec: Spec, logger: Logger | None, place: Path) -> Packed:
    """What makes the study in a job. Raises `ConfigError` where it can't be had there."""
    try:
        content = cloudpickle.dumps((_made_anew(spec), logger))
    except Exception as error:  # whatever a user's class raises
        raise ConfigError(
            f"jobs can't be given this study ({type(error).__name__}: {error}): its model, loss, "
            "data or logger hold what stays in this process, such as an open file"
        ) from error
    path = place / SPEC
    write_bytes(path, content)
    return Packed(path, hashlib.sha256(content).hexdigest(), tuple(filter(None, sys.path)))


def _made_anew(spec: Spec) -> Callable[[], Spec]:
    """From the config where there is one; else the objects, those of a script's own classes too."""
    if isinstance(spec, StudySpec) and spec.remade is None:
        return partial(_itself, spec)
    return spec.in_worker()


def _itself(spec: Spec) -> Spec:
    return spec


def _refused(said: str, array: ArrayOf, taken: Sequence[JobArray]) -> str:
    """sbatch's own words, what was asked, and what often helps."""
    words = one_line(said).replace("sbatch: error: ", "")
    hints = [hint for sign, hint in HINTS if sign in words]
    before = f"; {len(taken)} arrays were submitted before it" if taken else ""
    return (
        f"sbatch refused a job of {array.request}: {words}{before}"
        f"{''.join(f': {hint}' for hint in hints[:1])}"
    )


HINTS = (
    ("partition", "executor.partition=NAME; `sinfo` lists them"),
    ("gres", "executor.gpus=0 for a partition without GPUs, or executor.gpus=KIND:1"),
    ("GRES", "executor.gpus=0 for a partition without GPUs, or executor.gpus=KIND:1"),
    ("ode configuration", "executor.gpus, cpus or memory_gb are more than a node has"),
    ("ime limit", "executor.minutes=60, say: what is longer goes on in the next job"),
    ("account", "executor.more.account=NAME"),
)
"""Words of sbatch's, and what to set."""
