"""The report of a study: what there is to show in its folder, written beside its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flops_fit.fitting import FitError, Refusal, ScalingLaw
from flops_fit.fitting.collapse import Collapse, Curve, collapse
from flops_fit.plan.run import Run
from flops_fit.report.files import write_page, write_report
from flops_fit.report.report import Report
from flops_fit.store.folder import StudyFolder, has_plan
from flops_fit.study.curves import curves_near_optima
from flops_fit.study.frozen import verifications_in
from flops_fit.tables import training_curve


@dataclass(frozen=True)
class Curves:
    """The training curves of a study, those near its optima, and how well these fall on one."""

    of_all: Sequence[Curve] = ()
    near: Sequence[Curve] = ()
    collapse: Collapse | None = None
    finding: str | None = None


def report_of(runs: Sequence[Run], answer: ScalingLaw | Refusal, answer_folder: Path) -> Report:
    """All there is to show of an answer, whose folder lies in its study's."""
    folder = StudyFolder(answer_folder.parent.parent)
    law = answer if isinstance(answer, ScalingLaw) else None
    is_ours = has_plan(answer_folder)
    trained = _curves(runs, folder, law) if is_ours else Curves()
    return Report(
        name=folder.path.name,
        runs=runs,
        answer=answer,
        plan=folder.read_plan() if is_ours else None,
        curves=trained.of_all,
        near=trained.near,
        collapse=trained.collapse,
        curve_finding=trained.finding,
        verifications=verifications_in(folder.path),
    )


def report_study(
    runs: Sequence[Run], answer: ScalingLaw | Refusal, answer_folder: Path
) -> list[Path]:
    """Writes runs.csv, the figures and report.html beside the answer; returns their paths."""
    return write_report(report_of(runs, answer, answer_folder), answer_folder)


def page_of_study(runs: Sequence[Run], answer: ScalingLaw | Refusal, answer_folder: Path) -> Path:
    """Writes report.html alone, which takes no matplotlib; returns its path."""
    return write_page(report_of(runs, answer, answer_folder), answer_folder)


def _curves(runs: Sequence[Run], folder: StudyFolder, law: ScalingLaw | None) -> Curves:
    """None where one can't be read, which is the finding then."""
    try:
        found = (training_curve(run, folder) for run in runs if run.is_completed)
        of_all, near = [c for c in found if c], curves_near_optima(runs, folder, law)
    except FitError as error:
        return Curves(finding=str(error))
    collapsed = collapse(near)
    return Curves(of_all, near, collapsed, collapsed.finding if collapsed else None)
