"""`flops-fit report`."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from pathlib import Path

from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import NO_LAW, OK
from flops_fit.cli.no_law import show_refusal
from flops_fit.fitting import Refusal
from flops_fit.report.documents import print_json
from flops_fit.report.files import PAGE
from flops_fit.report.printing import print_law
from flops_fit.report.screen import say
from flops_fit.settings import ReportSettings
from flops_fit.study.curves import collapse_finding
from flops_fit.study.found import answered_study, read_answer, stands_on, study_runs
from flops_fit.study.reports import report_study


def report(settings: ReportSettings, origins: Origins) -> int:
    """Write report.html, figures and runs.csv beside the law, or the reason why there is none."""
    folder = answered_study(settings.study, settings.output_root)
    law = read_answer(folder)
    if isinstance(law, Refusal):
        say(f"study: {folder.path}, whose latest answer is no law")
        answer_folder = folder.latest_plan_folder()
        show_refusal(study_runs(folder), law, answer_folder, as_json=settings.json)
        open_page([answer_folder / PAGE], settings)
        return NO_LAW
    say(f"study: {folder.path}, by its latest answer: a law of {stands_on(law)}")
    runs = study_runs(folder)
    written = report_study(runs, law, folder.latest_plan_folder())
    if settings.json:
        print_json({"files": [str(path) for path in written]})
    else:
        print_law(law)
        if finding := collapse_finding(runs, folder, law):
            say(f"warning: {finding} (docs/collapse.md)")
        for path in written:
            say(f"wrote {path}")
    open_page(written, settings)
    return OK


def open_page(written: Sequence[Path], settings: ReportSettings) -> None:
    """Shows report.html in the browser where that was asked; says so where there is none."""
    if not settings.open:
        return
    page = next(path for path in written if path.name == PAGE).resolve()
    if not webbrowser.open(page.as_uri()):
        say(f"no browser could be opened: open {page}")
