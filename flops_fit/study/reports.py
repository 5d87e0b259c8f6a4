"""The report of a study: what there is to show in its folder, written beside its answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flops_fit.fitting import FitError, Refusal, ScalingLaw
from flops_fit.fitting.collapse import Curve, collapse
from flops_fit.plan.run import Run
from flops_fit.report.files import write_page, write_report
from flops_fit.report.report import Report
from flops_fit.store.folder import StudyFolder, has_plan
from flops_fit.study.curves import collapse_finding, curves_near_optima
from flops_fit.study.frozen import verifications_in
from flops_fit.tables import training_curve


def report_of(runs: Sequence[Run], answer: ScalingLaw | Refusal, answer_folder: Path) -> Report:
    """All there is to show of an answer, whose folder lies in its study's."""
    folder = StudyFolder(answer_folder.parent.parent)
    law = answer if isinstance(answer, ScalingLaw) else None
    is_ours = has_plan(answer_folder)
    curves, near = _curves(runs, folder, law) if is_ours else ([], [])
    return Report(
        name=folder.path.name,
        runs=runs,
        answer=answer,
        plan=folder.read_plan() if is_ours else None,
        curves=curves,
        near=near,
        collapse=collapse(near) if near else None,
        curve_finding=collapse_finding(runs, folder, law) if is_ours else None,
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


def _curves(
    runs: Sequence[Run], folder: StudyFolder, law: ScalingLaw | None
) -> tuple[list[Curve], list[Curve]]:
    """All training curves that can be read, and those near the optima."""
    try:
        found = (training_curve(run, folder) for run in runs if run.is_completed)
        return [curve for curve in found if curve], curves_near_optima(runs, folder, law)
    except FitError:  # said as the finding
        return [], []
