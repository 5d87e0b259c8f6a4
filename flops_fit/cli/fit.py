"""`flops-fit fit`."""

from __future__ import annotations

from pathlib import Path

from flops_fit.building.node import Origins, Part
from flops_fit.cli.exit_codes import NO_LAW, OK
from flops_fit.cli.no_law import show_refusal
from flops_fit.errors import ConfigError
from flops_fit.fitting.refusal import REFUSAL_FILE
from flops_fit.report.documents import print_json
from flops_fit.report.printing import print_law
from flops_fit.report.screen import say
from flops_fit.settings import FitSettings
from flops_fit.study.fits import FittedStudy, Fitting, ToFit, fit_again, study_to_fit, table_to_fit
from flops_fit.study.found import found_study, stands_on
from flops_fit.study.reports import page_of_study


def fit(settings: FitSettings, origins: Origins) -> int:
    """Fit a study's runs or a table of runs, and keep law.json."""
    given = to_fit(settings)
    how = Fitting(
        answer=Part("fit", settings.fit, origins.get("fit", "fit")).build(),
        draws=settings.draws,
        seed=settings.seed,
        select=Part("select", settings.select, origins.get("select", "select")).build(),
        metric=settings.metric,
    )
    study = fit_again(given, how, say)
    if study.law is None:
        return refused(study, given.answer_folder, as_json=settings.json)
    asked = [study.law.predict(budget) for budget in settings.budgets]
    if settings.json:
        print_json(study.law.to_json() | ({"asked": [p.to_json() for p in asked]} if asked else {}))
    else:
        print_law(study.law, asked)
    say(f"law of {stands_on(study.law)}: {given.answer_folder / 'law.json'}")
    say(f"report: {page_of_study(study.runs, study.law, given.answer_folder)}")
    return OK


def refused(study: FittedStudy, answer_folder: Path, *, as_json: bool) -> int:
    """Why there is no law; an earlier law of the folder keeps its figures."""
    assert study.refusal is not None
    is_kept = (answer_folder / REFUSAL_FILE).exists()
    folder = answer_folder if is_kept else None
    show_refusal(study.runs, study.refusal, folder, as_json=as_json)
    return NO_LAW


def to_fit(settings: FitSettings) -> ToFit:
    """The table that is named, else the study's own runs."""
    if settings.runs:
        root = Path(settings.output_root)
        return table_to_fit(settings.runs, settings, root, settings.study, say)
    if settings.where:
        raise ConfigError("where chooses rows of a table: name it with runs=FILE")
    folder = found_study(settings.study, settings.output_root)
    say(f"study: {folder.path}")
    return study_to_fit(folder, say)
