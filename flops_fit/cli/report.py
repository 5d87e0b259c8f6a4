"""`flops-fit report`."""

from __future__ import annotations

from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import OK
from flops_fit.report.files import write_report
from flops_fit.report.printing import print_json, print_law
from flops_fit.report.screen import say
from flops_fit.settings import ReportSettings
from flops_fit.study.curves import collapse_finding
from flops_fit.study.found import fitted_study, read_law, stands_on, study_runs


def report(settings: ReportSettings, origins: Origins) -> int:
    """Write figures and runs.csv beside the law."""
    folder = fitted_study(settings.study, settings.output_root)
    law = read_law(folder)
    say(f"study: {folder.path}, by its latest answer: a law of {stands_on(law)}")
    runs = study_runs(folder)
    written = write_report(runs, law, folder.latest_plan_folder())
    if settings.json:
        print_json({"files": [str(path) for path in written]})
    else:
        print_law(law)
        if finding := collapse_finding(runs, folder, law):
            say(f"warning: {finding} (docs/collapse.md)")
        for path in written:
            say(f"wrote {path}")
    return OK
