"""What of a study is completed, failed and missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.plan.experiment import Plan
from flops_fit.plan.run import Run, Status
from flops_fit.shown import short_flops
from flops_fit.store.folder import StudyFolder


@dataclass(frozen=True)
class StudyStatus:
    """A plan with what is on disk of it. `problems` are files that can't be read."""

    folder: StudyFolder
    plan: Plan
    runs: Mapping[str, Run]  # by id
    problems: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Status -> runs, `missing` included."""
        runs = self.runs.values()
        found = {str(status): sum(r.status == status for r in runs) for status in Status}
        return {**found, "missing": len(self.plan) - len(self.runs)}

    @property
    def flops(self) -> float:
        """FLOPs that the runs on disk stand for."""
        return math.fsum(run.flops for run in self.runs.values())

    def to_json(self) -> dict[str, Any]:
        return {"study": str(self.folder.path), "planned": len(self.plan), **self.counts}

    def __str__(self) -> str:
        words = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"{words}; {short_flops(self.flops)} of {short_flops(self.plan.total_flops)} FLOPs"


def study_status(folder: StudyFolder) -> StudyStatus:
    """The status of the plan in force. Raises `StudyError` where there is none."""
    plan = folder.read_plan()
    runs, problems = folder.runs_of(plan)
    return StudyStatus(folder, plan, {run.id: run for run in runs}, tuple(problems))
