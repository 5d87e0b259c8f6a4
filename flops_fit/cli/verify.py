"""`flops-fit verify`."""

from __future__ import annotations

from pathlib import Path

from flops_fit.answers.verification import Verification
from flops_fit.building.from_config import build_spec, executor_of, logger_of
from flops_fit.building.node import Origins
from flops_fit.cli.elsewhere import left_to_others, planned_by
from flops_fit.cli.exit_codes import OK, SOME_FAILED
from flops_fit.cli.plan import study_folder
from flops_fit.errors import ConfigError
from flops_fit.report import tables
from flops_fit.report.documents import print_json
from flops_fit.report.screen import say, show
from flops_fit.settings import VerifySettings
from flops_fit.study.agreement import check_agreement
from flops_fit.study.fits import FittedStudy
from flops_fit.study.found import read_law
from flops_fit.study.frozen import RunFailed, freeze, record, verification_path
from flops_fit.study.runs import Runs
from flops_fit.study.verifications import verified


def verify(settings: VerifySettings, origins: Origins) -> int:
    """Train the optimum predicted for a budget; show predicted against measured loss."""
    if settings.target is None:
        raise ConfigError("verify needs a budget to train at, such as budget=1e13 (FLOPs)")
    folder = study_folder(settings)
    plan, law = folder.read_plan(), read_law(folder)
    answer = law.predict(settings.target)
    check_agreement(settings, plan, folder, answer.prediction)
    spec, executor = build_spec(settings, origins), executor_of(settings, origins)
    logger = logger_of(settings, origins)
    if not settings.dry_run:
        freeze(answer, folder)
    optimum = spec.for_optimum(answer.prediction)
    code = left_to_others(executor, optimum, folder, settings, logger, in_force=False)
    if code is not None:
        return code
    spec = planned_by(executor, spec, settings)
    study = FittedStudy(folder, plan, Runs(), law, None, spec)
    try:
        verification = verified(study, answer, settings, logger)
    except RunFailed as error:
        say(f"error: {error}")
        return SOME_FAILED
    show_verification(verification, freeze(answer, folder), as_json=settings.json)
    return OK


def show_verification(verification: Verification, frozen: Path, *, as_json: bool) -> None:
    """Predicted against measured, and how the study's verifications went so far."""
    so_far = record(frozen)
    if as_json:
        print_json({**verification.to_json(), "record": so_far.to_json()})
    else:
        for line in (*tables.verification_lines(verification), str(so_far)):
            show(line)
    say(f"verification: {verification_path(frozen, verification)}")
