"""`flops-fit status`."""

from __future__ import annotations

from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import OK
from flops_fit.report import tables
from flops_fit.report.documents import print_json
from flops_fit.report.screen import say, show, show_table
from flops_fit.settings import StatusSettings
from flops_fit.study.found import found_study
from flops_fit.study.status import study_status

MOST_ROWS = 200
"""Runs with a row each: of more, those that run, wait halfway or went wrong have one."""


def status(settings: StatusSettings, origins: Origins) -> int:
    """What of the plan in force is completed, failed and missing."""
    folder = found_study(settings.study, settings.output_root)
    say(f"study: {folder.path}")
    found = study_status(folder)
    for problem in found.problems:
        say(f"warning: {problem}")
    if settings.json:
        print_json(found.to_json())
        return OK
    plan, size = found.plan, found.plan.experiments[0].size.name
    rows = plan.experiments
    if len(rows) > MOST_ROWS:
        kinds = [kind for kind, count in found.counts.items() if count]
        show_table(tables.counts_table(plan, found.runs, found.word, kinds))
        rows = found.remarkable
    if 0 < len(rows) <= MOST_ROWS:
        show_table(tables.runs_table(rows, found.runs, found.word, size))
    show(str(found))
    for reason, count in found.failures.items():
        show(f"{count} ended by: {reason}", "- ")
    return OK
