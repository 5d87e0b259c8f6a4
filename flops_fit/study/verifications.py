"""Verify: a prediction written down, its optimum trained, both compared and kept."""

from __future__ import annotations

from flops_fit.answers.verification import Verification
from flops_fit.fitting.answer import Answer
from flops_fit.report.screen import say
from flops_fit.report.summary import answer_words
from flops_fit.settings import SweepSettings
from flops_fit.store.execution import train_missing
from flops_fit.store.protocols import Logger
from flops_fit.store.unguarded import check_is_started
from flops_fit.study.fits import FittedStudy, Tell
from flops_fit.study.frozen import freeze, keep
from flops_fit.study.logged import opened
from flops_fit.study.sweeps import launched, retried, spec_of, to_train, tuned_here


def verified(
    study: FittedStudy,
    answer: Answer,
    settings: SweepSettings | None = None,
    logger: Logger | None = None,
    tell: Tell = say,
) -> Verification:
    """The answer put to the test with the study's own recipe, and kept beside its law.

    The prediction is written before anything trains. `settings` say on which machine; None: as in
    the study. Raises `StudyError` where the study can't be trained from here, `RunFailed` where the
    run comes to no loss.
    """
    check_is_started()
    spec, own = spec_of(study)
    settings = settings or own
    folder = study.folder
    path = freeze(answer, folder)
    tell(f"predicted, and written to {path}: {answer_words(answer)}")
    prepared = spec.for_optimum(answer.prediction).prepare(folder)
    todo = to_train(prepared, folder, settings, tell)
    tuned = tuned_here(todo, prepared, folder, settings)
    with (
        opened(logger, folder) as log,
        launched(todo, spec, tuned, folder, settings, log) as (execute, watcher),
    ):
        (run,) = train_missing(prepared.plan, folder, execute, watcher, retried(settings))
    return keep(path, run)
