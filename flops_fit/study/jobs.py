"""Jobs of a cluster that train runs of a study: what its files say of them, and what the queue.

Whether a run is trained stands in its result.json; whether a job is still there is asked of the
queue, where there is one. Nothing is believed of how a job has ended.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import StudyError
from flops_fit.files import is_inside, read_record, reading, within, write_record
from flops_fit.records import of_type, read_as, read_list
from flops_fit.store.folder import StudyFolder

JOBS = "jobs"
"""Folder of a study; each submission has one of its own in it."""

ARRAY = "array-{}.json"

ASK_SECONDS = 60.0
"""That a cluster may take to answer."""


@dataclass(frozen=True)
class Request:
    """What is asked for each job of an array; None: what the cluster gives by itself."""

    minutes: int
    cpus: int
    gpus: int | str
    memory_gb: float | None

    def __str__(self) -> str:
        words = [f"{self.minutes} min", f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}"]
        words += [f"{self.memory_gb:g} GB"] if self.memory_gb else []
        words += [f"GPU {self.gpus}"] if self.gpus else []
        return ", ".join(words)


JOB_ID = re.compile(r"[0-9]{1,10}(_[0-9]{1,10})?")
"""A number of 32 bits, and in an array its place."""


@dataclass(frozen=True)
class Job:
    """One job, by the cluster's id, and the runs that it trains, by theirs."""

    id: str
    runs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises `ValueError` for an id that is none: it becomes a word of a command."""
        if not JOB_ID.fullmatch(self.id):
            raise ValueError(f"{self.id[:40]!r} is no id of a job")

    @property
    def array(self) -> str:
        """The number of the array that it is of, or its own."""
        return self.id.partition("_")[0]


@dataclass(frozen=True)
class JobArray:
    """Jobs that were submitted as one, and what each of them may take."""

    name: str
    request: Request
    submitted: str  # when, in ISO 8601
    jobs: tuple[Job, ...]

    def __post_init__(self) -> None:
        """Raises `ValueError` for jobs that were not submitted as one."""
        if len({job.array for job in self.jobs}) != 1:
            raise ValueError("its jobs are not those of one array")

    @property
    def id(self) -> str:
        return self.jobs[0].array

    @property
    def num_runs(self) -> int:
        return sum(len(job.runs) for job in self.jobs)

    @classmethod
    def from_json(cls, data: Any) -> JobArray:
        """Raises `StudyError`."""
        jobs = read_list(Job, data.get("jobs"), "jobs")
        request = read_as(Request, data.get("request"), "request")
        texts = {name: of_type(str, data.get(name), name) for name in ("name", "submitted")}
        return cls(request=request, jobs=jobs, **texts)


def keep(array: JobArray, submission: Path, number: int) -> None:
    """Beside what the cluster was given of it."""
    write_record(submission / ARRAY.format(number), asdict(array))


@dataclass(frozen=True)
class Records:
    """What the files of a study say of its jobs; `problems` are those that can't be read."""

    folder: StudyFolder
    by_path: dict[Path, JobArray]
    problems: tuple[str, ...]

    @property
    def arrays(self) -> tuple[JobArray, ...]:
        return tuple(self.by_path.values())

    def runs_of(self, jobs: Iterable[str]) -> set[str]:
        """Ids of the runs that these jobs train."""
        wanted = set(jobs)
        return {run for a in self.arrays for job in a.jobs if job.id in wanted for run in job.runs}


def records(folder: StudyFolder) -> Records:
    """What has been submitted of a study, the oldest first."""
    found: dict[Path, JobArray] = {}
    problems = []
    for entry in sorted((folder.path / JOBS).glob(f"*/{ARRAY.format('*')}")):
        try:
            path = within(folder.path, *entry.relative_to(folder.path).parts)
            with reading(path, "record of jobs"):
                found[path] = JobArray.from_json(read_record(path))
        except (StudyError, FileNotFoundError) as error:
            problems.append(str(error))
    return Records(folder, found, tuple(problems))


@dataclass(frozen=True)
class Waiting:
    """What the cluster says of a job that is in the queue or runs: its state, and what it waits
    for."""

    state: str
    reason: str


def jobs_there(known: Records) -> dict[str, Waiting] | None:
    """Id -> what is said of those jobs that are in the queue or run; None without a squeue.

    A job is the study's own if the script that it runs lies in the study's folder: whoever wrote
    the records. Raises `StudyError` where the cluster doesn't answer.
    """
    if shutil.which("squeue") is None:
        return None
    if not known.arrays:
        return {}
    ids = ",".join(dict.fromkeys(array.id for array in known.arrays))
    words = ["squeue", "--noheader", "--array", f"--jobs={ids}", "--format=%i|%T|%r|%o"]
    done = asked(words)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise StudyError(f"squeue doesn't say what is in the queue: {one_line(done.stderr)}")
    listed = {job.id for array in known.arrays for job in array.jobs}
    there = {}
    for line in done.stdout.splitlines():
        job, state, reason, script = [*line.split("|", 3), "", "", ""][:4]
        if job in listed and is_inside(Path(script), known.folder.path / JOBS):
            there[job] = Waiting(state, reason)
    return there


def cancel(known: Records) -> list[str]:
    """Ids of the jobs that were in the queue or ran, and are cancelled now; what they have trained
    stays. Raises `StudyError` where there is no Slurm."""
    there = jobs_there(known)
    if there is None:
        raise StudyError("there is no squeue here: cancel where the jobs were submitted")
    if there:
        done = asked(["scancel", *dict.fromkeys(Job(id, ()).array for id in there)])
        if done.returncode:
            raise StudyError(f"scancel refused: {one_line(done.stderr)}")
    for path in known.by_path:
        path.unlink(missing_ok=True)
    return list(there)


def one_line(said: str) -> str:
    """What a cluster says, without its line breaks."""
    return "; ".join(line.strip() for line in said.splitlines() if line.strip())


def asked(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What the cluster answers. Raises `StudyError` where it takes too long."""
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise StudyError(f"{words[0]} gave no answer within {ASK_SECONDS:g} seconds") from error


@dataclass(frozen=True)
class Queue:
    """Ids of the runs that jobs in the queue are to train, and what to know of the jobs."""

    runs: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def queue_of(folder: StudyFolder, settled: Iterable[str]) -> Queue:
    """By the study's records and, where there is one, the cluster's queue; `settled` runs need no
    job any more."""
    known = records(folder)
    everything = frozenset(run for a in known.arrays for job in a.jobs for run in job.runs)
    try:
        there = jobs_there(known)
    except StudyError as error:
        return Queue(everything, (*known.problems, f"{error}: {UNASKED}"))
    if there is None:
        notes = (f"there is no squeue here: {UNASKED}",) if known.arrays else ()
        return Queue(everything, (*known.problems, *notes))
    return Queue(
        frozenset(known.runs_of(there)),
        (
            *known.problems,
            *_held_up(there.values()),
            *never_began(known, there, frozenset(settled)),
        ),
    )


UNASKED = "queued is what was submitted and has no result"


PASSES = {"None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Prolog", "Cleaning"}
"""Reasons of the cluster's that jobs wait for and that need nobody."""


def _held_up(there: Iterable[Waiting]) -> Iterator[str]:
    """A sentence for each reason that may not pass by itself."""
    reasons = Counter(one.reason for one in there if one.state == "PENDING")
    for reason, count in reasons.items():
        if reason not in PASSES:
            jobs = "1 job is" if count == 1 else f"{count} jobs are"
            yield (
                f"{jobs} held up, for {reason} as Slurm calls it: if that won't pass, `flops-fit "
                "cancel` and ask for what the partition has"
            )


def never_began(known: Records, there: Iterable[str], settled: frozenset[str]) -> Iterator[str]:
    """A sentence for each array whose jobs are gone and left neither a log nor results."""
    for path, array in known.by_path.items():
        is_gone = not {job.id for job in array.jobs} & {*there}
        is_done = settled.issuperset(run for job in array.jobs for run in job.runs)
        if is_gone and not is_done and not any(path.parent.glob(f"{array.id}_*log.out")):
            yield (
                f"the jobs of array {array.id} are gone and left no log in {path.parent}: is this "
                "folder there, under the same path, on every node?"
            )
