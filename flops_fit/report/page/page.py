"""Pages: a study's report and a comparison, written out as HTML that stands alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import flops_fit
from flops_fit.answers.comparison import COMPARABLE, Comparison
from flops_fit.answers.optima import OptimaComparison
from flops_fit.laws.prediction import Interval
from flops_fit.report.figures.marks import Picture
from flops_fit.report.figures.style import as_html, palette, power
from flops_fit.report.page.data import (
    embedded,
    figure_data,
    legend,
    run_columns,
    thinned,
)
from flops_fit.report.page.study import StudyWords, study_words
from flops_fit.report.report import Report
from flops_fit.report.tables import RELY_ON_MEANS
from flops_fit.shown import short_loss, short_number, span, times

HERE = "flops_fit.report.page"

VENDORED = ("d3.min.js", "plot.umd.min.js")
"""In the order in which they are loaded; vendor/README.md has versions and licences."""

SCRIPTS = ("charts.js", "table.js")


def study_page(report: Report, shown: Sequence[Picture]) -> str:
    """The report of a study as one HTML document."""
    words = study_words(report)
    runs = run_columns(report.runs, report.answer)
    data = {"figures": [figure_data(picture) for picture in shown], "runs": runs}
    return _page(
        "study.html",
        title=report.name,
        data=data,
        shown=shown,
        num_budgets=len(report.budgets),
        report=report,
        words=words,
        num_runs=len(report.runs),
        listed=len(runs[0]["cells"]) if runs else 0,
        settings=settings_text(words),
        rely_on=RELY_ON_MEANS[0].upper() + RELY_ON_MEANS[1:],
    )


def comparison_page(found: Comparison | OptimaComparison, picture: Picture) -> str:
    """Two laws side by side as one HTML document."""
    is_of_losses = isinstance(found, Comparison)
    return _page(
        "losses.html" if is_of_losses else "both_optima.html",
        title=f"{found.a.name} against {found.b.name}",
        data={"figures": [figure_data(picture)], "runs": []},
        shown=[picture],
        num_budgets=0,
        found=found,
        comparable=COMPARABLE if isinstance(found, Comparison) else found.losses,
    )


def settings_text(words: StudyWords) -> str:
    """All that decided the answer, as JSON that can be read."""
    return json.dumps(words.settings, indent=2, ensure_ascii=False, default=str)


def _page(
    template: str, *, data: Mapping[str, Any], shown: Sequence[Picture], num_budgets: int,
    **context: Any,
) -> str:  # fmt: skip
    return environment().get_template(template).render(
        version=flops_fit.__version__,
        data=Markup(embedded(data)),
        figures=[(picture, legend(picture), thinned(picture)) for picture in shown],
        colours=palette(num_budgets),
        style=Markup(_text("style.css")),
        vendored=[Markup(_text(f"vendor/{name}")) for name in VENDORED],
        scripts=[Markup(_text(name)) for name in SCRIPTS],
        licences=_text("vendor/LICENCES.txt"),
        **context,
    )  # fmt: skip


@cache
def environment() -> Environment:
    """Templates that escape whatever they are given."""
    made = Environment(
        loader=FunctionLoader(lambda name: _text(f"templates/{name}")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: _safe(write) for name, write in WRITERS.items()}
    made.filters["span_of"] = _span
    made.filters["marked"] = lambda text: Markup(as_html(text))
    made.filters["formula"] = lambda text: Markup(as_html(raised(text)))
    return made


def raised(formula: str) -> str:
    """A formula as it is typed, N_opt = 0.2 C^0.45, with what stands high and low marked."""
    return re.sub(r"\^(-?[\d.]*\d)", r"^{\1}", formula).replace("_opt", "_{opt}")


@cache
def _text(name: str) -> str:
    return files(HERE).joinpath(*name.split("/")).read_text(encoding="utf-8")


WRITERS: Mapping[str, Callable[[float], str]] = {
    "count": short_number,
    "flops": power,
    "loss": short_loss,
    "times": times,
    "ratio": lambda value: f"{value:.3g}",
    "share": lambda value: f"{value:+.2%}",
    "exponent": lambda value: f"{value:.3f}",
}
"""Filters of the templates: a number as people read it."""


def _safe(write: Callable[[float], str]) -> Callable[[float], Markup]:
    return lambda value: Markup(as_html(write(value)))


def _span(bounds: Interval, shown: str) -> Markup:
    """An interval in the writing of one of the filters."""
    return Markup(as_html(span(*bounds, WRITERS[shown])))
