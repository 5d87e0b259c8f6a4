"""What of a study is completed, failed and missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.plan.experiment import Experiment, Plan
from flops_fit.plan.run import Run, Status
from flops_fit.shown import short_flops
from flops_fit.store.folder import StudyFolder
from flops_fit.study.jobs import queue_of

RUNNING, QUEUED, PAUSED, MISSING = "running", "queued", "paused", "missing"
"""What is said of experiments that have no result: some process is at it, a job of a cluster is to
train it, a checkpoint waits, or none of these."""


@dataclass(frozen=True)
class Underway:
    """An experiment without a result, of which `share` was trained by its newest checkpoint."""

    word: str
    share: float | None = None

    def __str__(self) -> str:
        return self.word if self.share is None else f"{self.word}, {self.share:.0%}"


@dataclass(frozen=True)
class StudyStatus:
    """A plan with what is on disk of it. `problems` are files that can't be read, and jobs that are
    not as they should be."""

    folder: StudyFolder
    plan: Plan
    runs: Mapping[str, Run]  # by id
    underway: Mapping[str, Underway]  # those without a result, by id
    problems: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Status -> runs; those that run, are paused or missing included."""
        words = Counter(str(run.status) for run in self.runs.values())
        words.update(one.word for one in self.underway.values())
        return {word: words[word] for word in (*map(str, Status), RUNNING, QUEUED, PAUSED, MISSING)}

    @property
    def flops(self) -> float:
        """FLOPs that the runs on disk stand for."""
        return math.fsum(run.flops for run in self.runs.values())

    def word(self, experiment: Experiment) -> str:
        """What became of one."""
        run = self.runs.get(experiment.id)
        return str(self.underway[experiment.id]) if run is None else str(run.status)

    @property
    def remarkable(self) -> tuple[Experiment, ...]:
        """Those that some process is at, that wait halfway or went wrong."""
        plain = {str(Status.COMPLETED), QUEUED, MISSING}
        return tuple(e for e in self.plan.experiments if self.word(e) not in plain)

    @property
    def failures(self) -> dict[str, int]:
        """Reason -> runs that failed or diverged for it, the commonest first."""
        ended = (run for run in self.runs.values() if run.error)
        reasons = Counter((run.error or "").replace(run.id, "..").split("\n")[0] for run in ended)
        return dict(reasons.most_common())

    def to_json(self) -> dict[str, Any]:
        return {
            "study": str(self.folder.path),
            "planned": len(self.plan),
            **self.counts,
            "flops": self.flops,
            "planned_flops": self.plan.total_flops,
            "failures": self.failures,
        }

    def __str__(self) -> str:
        words = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        share = self.flops / self.plan.total_flops
        total = short_flops(self.plan.total_flops)
        return f"{words or 'nothing planned'}; {share:.0%} of {total} FLOPs"


def study_status(folder: StudyFolder) -> StudyStatus:
    """The status of the plan in force. Raises `StudyError` where there is none."""
    plan = folder.read_plan()
    found, problems = folder.runs_of(plan)
    runs = {run.id: run for run in found}
    queue = queue_of(folder, [id for id, run in runs.items() if run.is_settled])
    left = {
        e.id: underway(e, folder, is_queued=e.id in queue.runs)
        for e in plan.experiments
        if e.id not in runs
    }
    return StudyStatus(folder, plan, runs, left, (*problems, *queue.notes))


def underway(experiment: Experiment, folder: StudyFolder, *, is_queued: bool) -> Underway:
    """Of an experiment without a result."""
    steps = folder.steps_kept(experiment.id)
    share = None if steps is None else min(1.0, steps / experiment.num_steps)
    if folder.seems_locked(experiment.id):
        return Underway(RUNNING, share or 0.0)
    if is_queued:
        return Underway(QUEUED, share)
    return Underway(MISSING) if share is None else Underway(PAUSED, share)
