"""Where the studies are: the one that is named, else the last one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from flops_fit.errors import StudyError, StudyWarning, UserError
from flops_fit.files import within
from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.refusal import REFUSAL_FILE
from flops_fit.fitting.result import LAW_FILE
from flops_fit.plan.run import Run
from flops_fit.store.folder import StudyFolder, has_plan, latest_study
from flops_fit.tables import AS_WRITTEN, read_table

RUNS_FILE = "runs.csv"


def found_study(study: str | None, output_root: str) -> StudyFolder:
    """The study of this name, else the last one trained. Raises `StudyError` without one."""
    root = Path(output_root)
    if not study:
        return latest_study(root)
    return existing(StudyFolder(root / study))


def fitted_study(study: str | None, output_root: str) -> StudyFolder:
    """The study of this name, else the last one of those that have a law."""
    return _newest_where(has_law, study, output_root)


def answered_study(study: str | None, output_root: str) -> StudyFolder:
    """The study of this name, else the last one that was fitted, with or without a law."""
    return _newest_where(has_answer, study, output_root)


def has_law(answer_folder: Path) -> bool:
    """Whether the answer in a folder is a law."""
    law, refusal = (os.path.lexists(answer_folder / name) for name in (LAW_FILE, REFUSAL_FILE))
    return law and not refusal


def has_answer(answer_folder: Path) -> bool:
    """Whether a folder has a law, or why there is none."""
    return any(os.path.lexists(answer_folder / name) for name in (LAW_FILE, REFUSAL_FILE))


def _newest_where(
    wanted: Callable[[Path], bool], study: str | None, output_root: str
) -> StudyFolder:
    if study:
        return found_study(study, output_root)
    fitted = [p for p in Path(output_root).glob("*/latest") if _is_wanted(wanted, p.parent)]
    if not fitted:
        return latest_study(Path(output_root))
    newest = max(fitted, key=lambda pointer: pointer.lstat().st_mtime_ns)
    return StudyFolder(newest.parent)


def _is_wanted(wanted: Callable[[Path], bool], study: Path) -> bool:
    """False of a study whose `latest` can't be used: another one may be meant."""
    try:
        return wanted(StudyFolder(study).latest_plan_folder())
    except StudyError:
        return False


def existing(folder: StudyFolder) -> StudyFolder:
    """The folder, if it is there."""
    if not folder.path.is_dir():
        raise StudyError(
            f"no study {folder.path.name!r} under {folder.path.parent.resolve()}: run `flops-fit "
            "train` first, or name another with study=NAME"
        )
    return folder


def read_law(folder: StudyFolder) -> ScalingLaw:
    """The law of the answer in force. Raises `StudyError` where nothing was fitted."""
    answer = read_answer(folder)
    if isinstance(answer, Refusal):
        raise StudyError(f"{folder.path}: {answer}")
    return answer


def read_answer(folder: StudyFolder) -> ScalingLaw | Refusal:
    """The law of the answer in force, or why there is none.

    Raises `StudyError` where nothing was fitted.
    """
    answer_folder = folder.latest_plan_folder()
    if os.path.lexists(answer_folder / REFUSAL_FILE):
        return Refusal.load(answer_folder)
    if not os.path.lexists(answer_folder / LAW_FILE):
        raise StudyError(
            f"{folder.path} has no law yet: run `flops-fit fit study={folder.path.name}`"
        )
    try:
        return ScalingLaw.load(answer_folder)
    except UserError as error:
        fit = f"flops-fit fit study={folder.path.name}"
        raise StudyError(f"{error}: run `{fit}`, which fits it again") from error


def study_runs(folder: StudyFolder) -> list[Run]:
    """The runs of the plan in force, or of the table that was fitted.

    A `StudyWarning` names each that can't be read, which is left out.
    """
    answer_folder = folder.latest_plan_folder()
    if not has_plan(answer_folder):
        return read_table(within(answer_folder, RUNS_FILE), AS_WRITTEN).runs
    runs, problems = folder.runs_of(folder.read_plan())
    for problem in problems:
        warnings.warn(f"left out: {problem}", StudyWarning, stacklevel=2)
    return runs


def stands_on(law: ScalingLaw) -> str:
    """What a law was fitted to, in a few words."""
    rows = f"{len(law.rows_used)} runs"
    table = law.provenance.get("table")
    if not table:
        return rows
    where = f" where {table['where']}" if table.get("where") else ""
    return f"{rows} of {table['path']}{where}"
