"""`flops-fit cancel`."""

from __future__ import annotations

from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import OK
from flops_fit.errors import ConfigError
from flops_fit.report.documents import print_json
from flops_fit.report.screen import say, show
from flops_fit.settings import CancelSettings
from flops_fit.study.found import found_study
from flops_fit.study.jobs import cancel as cancelled
from flops_fit.study.jobs import records


def cancel(settings: CancelSettings, origins: Origins) -> int:
    """End the jobs of a study."""
    if not settings.study:
        raise ConfigError("cancel needs the study whose jobs are to end: study=NAME")
    folder = found_study(settings.study, settings.output_root)
    known = records(folder)
    for problem in known.problems:
        say(f"warning: {problem}")
    jobs = cancelled(known)
    if settings.json:
        print_json({"study": str(folder.path), "cancelled": jobs})
    else:
        count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
        show(f"{folder.path}: {count} cancelled" if jobs else f"{folder.path}: no job to cancel")
    return OK
