"""What the page of a study says, in words and numbers that law.json has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from shlex import quote
from typing import Any

from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.answer import Answer
from flops_fit.fitting.contract import Optimum
from flops_fit.fitting.methods import in_words, kind_of
from flops_fit.fitting.metrics import label
from flops_fit.fitting.points import Dropped
from flops_fit.laws.prediction import Interval, Prediction
from flops_fit.plan.run import Run
from flops_fit.report.figures.runs import unit_of_loss
from flops_fit.report.report import Report
from flops_fit.report.summary import SHOWN_LEVEL, Summary, default_answer
from flops_fit.report.tables import BELOW
from flops_fit.settings.plain import plain

MOST_REASONS = 5
"""Reasons for leaving runs out that are named."""


@dataclass(frozen=True)
class Said:
    """A prediction with its place in law.json, and what of it can be relied on.

    Places are JSON pointers (RFC 6901).
    """

    path: str
    prediction: Prediction
    reliance: str

    def bounds(self, name: str) -> Interval | None:
        return self.prediction.intervals.get(name, {}).get(SHOWN_LEVEL)


@dataclass(frozen=True)
class OfMethod:
    """A method's exponent with its interval and their places in law.json; or why it has none."""

    name: str
    answers: bool
    path: str = ""
    exponent: float | None = None
    interval_path: str = ""
    interval: Interval | None = None
    refusal: str = ""


@dataclass(frozen=True)
class OfBudget:
    """A budget's own optimum with its place in the file of the answer."""

    path: str
    optimum: Optimum


@dataclass(frozen=True)
class StudyWords:
    """All that is said beside figures and runs; `first` is what the page begins with, None without
    a law, where `reason` says why. `facts` are how it came about, `settings` what decided it."""

    metric: str
    unit: str
    first: Said | None
    summary: Summary | None
    reason: str
    answers: tuple[Said, ...]
    weak: tuple[str, ...]
    methods: tuple[OfMethod, ...]
    budgets: tuple[OfBudget, ...]
    left_out: tuple[tuple[str, int], ...]
    facts: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any]

    @property
    def answers_shown(self) -> tuple[Said, ...]:
        """At the largest trained budget and beyond, which is what people ask for."""
        return tuple(s for s in self.answers if s.prediction.extrapolation > BELOW)

    @property
    def answers_hidden(self) -> tuple[Said, ...]:
        """At the smaller budgets."""
        return tuple(s for s in self.answers if s.prediction.extrapolation <= BELOW)


def study_words(report: Report) -> StudyWords:
    """The words of a report."""
    law = report.law
    answers = said_of(law) if law else ()
    asked = default_answer(law) if law else None
    summary = Summary.of(law, (asked,)) if law and asked else None
    return StudyWords(
        metric=label(report.answer.metric),
        unit=unit_of_loss(report.runs, report.answer),
        first=_first(answers, asked),
        summary=summary,
        reason="" if law else str(report.answer),
        answers=answers,
        weak=_weak(report, summary),
        methods=_methods(law) if law else (),
        budgets=_budgets(report.answer),
        left_out=_left_out(report.answer.dropped),
        facts=_facts(report),
        settings=_settings(report),
    )


def said_of(law: ScalingLaw) -> tuple[Said, ...]:
    """What the law that answers says, with places in law.json."""
    said: dict[float, Answer] = {answer.budget: answer for answer in law.answers}
    return tuple(
        Said(f"/predictions/{i}", p, said[p.budget].reliance.value)
        for i, p in enumerate(law.predictions)
        if p.method == law.answer
    )


def _first(answers: Sequence[Said], asked: Answer | None) -> Said | None:
    """The one that the screen begins with, too."""
    if asked is None or not answers:
        return None
    return min(answers, key=lambda said: abs(log(said.prediction.budget / asked.budget)))


def _weak(report: Report, summary: Summary | None) -> tuple[str, ...]:
    said = summary.weak if summary else _sentences(report.answer)
    return (*said, *([report.curve_finding] if report.curve_finding else []))


def _sentences(answer: ScalingLaw | Refusal) -> tuple[str, ...]:
    return tuple(answer.sentences) if isinstance(answer, Refusal) else ()


def _methods(law: ScalingLaw) -> tuple[OfMethod, ...]:
    """Those that gave a law, then those that refused."""
    found = []
    for method, fitted in law.fits.laws.items():
        interval = law.intervals.get(f"{method}.a", {}).get(SHOWN_LEVEL)
        found.append(
            OfMethod(
                name=in_words(method),
                answers=method == law.answer,
                path=f"/{kind_of(method).name}/a",
                exponent=fitted.a,
                interval_path=f"/intervals/{method}.a/{SHOWN_LEVEL}",
                interval=interval,
            )
        )
    refused = [OfMethod(in_words(m), False, refusal=why) for m, why in law.refusals.items()]
    return (*found, *refused)


def _budgets(answer: ScalingLaw | Refusal) -> tuple[OfBudget, ...]:
    """The budgets of law.json stand in the section of the method that looks at them one by one."""
    document = answer.to_json()
    prefix = "" if "budgets" in document else _section_of_budgets(document)
    return tuple(OfBudget(f"{prefix}/budgets/{i}", o) for i, o in enumerate(answer.budgets))


def _section_of_budgets(document: Mapping[str, Any]) -> str:
    found = (k for k, v in document.items() if isinstance(v, dict) and "budgets" in v)
    return f"/{next(found, '')}"


def _left_out(dropped: Sequence[Dropped]) -> tuple[tuple[str, int], ...]:
    """Reason -> how many runs, the commonest first."""
    return tuple(Counter(one.reason for one in dropped).most_common(MOST_REASONS))


def _facts(report: Report) -> tuple[tuple[str, str], ...]:
    """How it came about, a name and a text each; none is empty."""
    law, plan = report.law, report.plan
    provenance = law.provenance if law else {}
    table = provenance.get("table") or {}
    found = [
        ("study", report.name),
        ("table of runs", str(table.get("path", ""))),
        ("SHA-256 of its files", str(table.get("sha256", ""))),
        ("rows chosen", str(table.get("where") or "")),
        ("columns", ", ".join(f"{k} = {v}" for k, v in (table.get("columns") or {}).items())),
        ("notes", "; ".join((*table.get("notes", ()), *(plan.notes if plan else ())))),
        ("fit again with", _command(report, table)),
        ("method asked", str(provenance.get("asked", ""))),
        ("draws, seed", _pair(provenance.get("draws"), provenance.get("seed"))),
        ("SHA-256 of the rows fitted", str(provenance.get("input_sha256", ""))),
        ("fitted by", _versions(provenance.get("versions") or {})),
        ("trained by", _trained_by(report.runs)),
        ("trained on", _distinct(run.device for run in report.runs)),
        ("precision", _distinct(run.precision for run in report.runs)),
    ]
    return tuple((name, text) for name, text in found if text)


def _command(report: Report, table: Mapping[str, Any]) -> str:
    """The command that fits the same rows again, as a shell takes it; empty where none is known."""
    if not table and report.plan is None:
        return ""
    if not table:
        return f"flops-fit fit study={quote(report.name)}"
    files = ",".join(map(str, table.get("files", ())))
    words = [f"runs=[{files}]" if "," in files else f"runs={files}"]
    words += [f"{name}={table[name]}" for name in ("where", "pivot") if table.get(name)]
    return " ".join(("flops-fit fit", *map(quote, words)))


def _pair(draws: object, seed: object) -> str:
    return "" if draws is None else f"{draws}, {seed}"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _trained_by(runs: Sequence[Run]) -> str:
    return " or ".join(sorted({_versions(run.versions) for run in runs if run.versions}))


def _distinct(values: Any) -> str:
    return ", ".join(sorted({value for value in values if value}))


def _settings(report: Report) -> Mapping[str, Any]:
    """Of the fit, and of the training where there was one."""
    settings = report.plan.settings if report.plan else None
    provenance = report.law.provenance if report.law else {}
    told = ("settings", "select", "metric")
    fit = {name: provenance[name] for name in told if name in provenance}
    return {**({"fit": fit} if fit else {}), **({"training": plain(settings)} if settings else {})}
