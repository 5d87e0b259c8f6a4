"""What the command line shows of a sweep that gave no law."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flops_fit.fitting import Refusal
from flops_fit.plan.run import Run
from flops_fit.report.documents import print_json
from flops_fit.report.printing import print_refusal
from flops_fit.report.screen import say
from flops_fit.study.reports import report_study


def show_refusal(
    runs: Sequence[Run], refusal: Refusal, folder: Path | None, *, as_json: bool
) -> None:
    """The reason first, then the budgets; the report goes to `folder`, None: nowhere."""
    written = [] if folder is None else report_study(runs, refusal, folder)
    if as_json:
        print_json({**refusal.to_json(), "files": [str(path) for path in written]})
    else:
        print_refusal(refusal)
    for path in written:
        say(f"wrote {path}")
