"""`flops-fit train`."""

from __future__ import annotations

from pathlib import Path

from flops_fit.building.from_config import build_spec, executor_of, logger_of
from flops_fit.building.node import Origins, Part
from flops_fit.cli.elsewhere import left_to_others, planned_by
from flops_fit.cli.exit_codes import NO_LAW, OK, SOME_FAILED
from flops_fit.cli.no_law import show_refusal
from flops_fit.cli.plan import study_folder
from flops_fit.cli.variants import keep_variant
from flops_fit.cli.verify import show_verification
from flops_fit.errors import ConfigError
from flops_fit.fitting.refusal import is_sweep
from flops_fit.plan.run import Run, Status
from flops_fit.report.documents import print_json
from flops_fit.report.files import PAGE, is_current
from flops_fit.report.printing import print_law
from flops_fit.report.screen import say
from flops_fit.settings import SweepSettings
from flops_fit.store.folder import as_pinned
from flops_fit.store.protocols import Spec
from flops_fit.study.fits import FittedStudy, Fitting
from flops_fit.study.frozen import RunFailed, keep
from flops_fit.study.machine import take_own_gpus
from flops_fit.study.reports import report_study
from flops_fit.study.sweeps import train_share, train_study


def train(settings: SweepSettings, origins: Origins) -> int:
    """Plan, train what is missing, fit, and show the answer."""
    check_rank(settings)
    if settings.rank is not None:
        pinned = as_pinned(settings, study_folder(settings))
        take_own_gpus(settings.rank, pinned.gpus_per_run or 1)
    spec = build_spec(settings, origins)
    if settings.rank:
        return train_part(spec, settings, origins)
    answer = Part("fit", settings.fit, origins.get("fit", "fit")).build()
    how = Fitting(answer, settings.draws, settings.seed)
    logger, executor = logger_of(settings, origins), executor_of(settings, origins)
    folder = study_folder(settings)
    code = left_to_others(executor, spec, folder, settings, logger)
    if code is not None:
        return code
    spec = planned_by(executor, spec, settings)
    study = train_study(spec, folder, settings, how, logger=logger)
    keep_variant(study)
    if settings.predicted and len(study.runs) == 1:
        return tested(Path(settings.predicted), study.runs[0], as_json=settings.json)
    show(study, as_json=settings.json)
    if study.law is None and (is_sweep(study.runs) or not all_completed(study)):
        return NO_LAW
    return SOME_FAILED if any(run.status == Status.FAILED for run in study.runs) else OK


def check_rank(settings: SweepSettings) -> None:
    """Raises `ConfigError` where `rank` and `of` are not one of so many."""
    rank, of = settings.rank, settings.of
    if (rank is None) != (of is None) or (rank is not None and of is not None and rank >= of):
        raise ConfigError(
            f"rank={'null' if rank is None else rank} of={'null' if of is None else of}: of N "
            "processes that share a sweep each is told both: rank=0 of=N to rank=N-1 of=N"
        )
    if rank is not None and (settings.executor is not None or settings.dry_run):
        raise ConfigError(
            "rank= is for processes that train here: leave out executor= and dry_run=, or rank="
        )


def train_part(spec: Spec, settings: SweepSettings, origins: Origins) -> int:
    """What one of several processes does, but for the first, which has the answer."""
    logger = logger_of(settings, origins)
    folder = study_folder(settings)
    runs = train_share(spec, folder, settings, logger=logger)
    say(
        f"rank {settings.rank} of {settings.of} found nothing more to train; rank 0 waits for what "
        "others are at, and fits"
    )
    return SOME_FAILED if any(run.status == Status.FAILED for run in runs) else OK


def tested(predicted: Path, run: Run, *, as_json: bool) -> int:
    """The run of a frozen prediction: both compared, and kept beside the law that said it."""
    try:
        verification = keep(predicted, run)
    except RunFailed as error:
        say(f"error: {error}")
        return SOME_FAILED
    show_verification(verification, predicted, as_json=as_json)
    return OK


def all_completed(study: FittedStudy) -> bool:
    return all(run.is_completed for run in study.runs)


def show(study: FittedStudy, *, as_json: bool) -> None:
    """The answer of a sweep that was trained: law, or why there is none, figures, files."""
    for run in study.runs:
        if run.status != Status.COMPLETED:
            say(f"warning: {run.id} {run.status}: {run.error}")
    if study.refusal is not None:
        show_refusal(study.runs, study.refusal, study.answer_folder, as_json=as_json)
    if study.law is None:
        return
    if as_json:
        print_json(study.law.to_json())
    else:
        print_law(study.law)
    if not is_current(study.answer_folder):
        report_study(study.runs, study.law, study.answer_folder)
    say(f"report: {study.answer_folder / PAGE}")
