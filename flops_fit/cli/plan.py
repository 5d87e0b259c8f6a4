"""`flops-fit plan`."""

from __future__ import annotations

from pathlib import Path

from flops_fit.building.from_config import build_spec
from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import OK
from flops_fit.report import tables
from flops_fit.report.printing import print_json
from flops_fit.report.screen import results, say
from flops_fit.settings import PlaceSettings, PlanningSettings
from flops_fit.store.folder import StudyFolder
from flops_fit.study.sweeps import plan_study
from flops_fit.training.hardware import named


def plan(settings: PlanningSettings, origins: Origins) -> int:
    """Plan, show, and write plan.json."""
    hardware = None if settings.machine is None else named(settings.machine)
    spec = build_spec(settings, origins)
    planned = plan_study(spec, study_folder(settings), settings, hardware)
    estimate = planned.estimate
    if settings.json:
        print_json({**planned.plan.to_json(), "estimate": estimate.to_json()})
    else:
        results().print(tables.plan_table(planned.plan))
        results().print(str(planned.plan), markup=False)
    for note in (*planned.plan.notes, *estimate.notes):
        say(f"note: {note}")
    for line in (estimate.largest_step, estimate.duration):
        if line:
            say(line)
    say(f"plan: {planned.path}")
    return OK


def study_folder(settings: PlaceSettings) -> StudyFolder:
    """Where the study's files lie."""
    return StudyFolder(Path(settings.output_root) / settings.study)
