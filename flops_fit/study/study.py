"""A study as Python users hold it: its plan, runs and law, and what to ask it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from numbers import Real
from pathlib import Path
from typing import Any

from flops_fit.answers.verification import Verification
from flops_fit.errors import ConfigError, StudyError, UserError
from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.answer import Answer
from flops_fit.fitting.collapse import Collapse
from flops_fit.plan.experiment import Plan
from flops_fit.plan.run import Run
from flops_fit.report.summary import answer_words
from flops_fit.store.folder import StudyFolder, has_plan
from flops_fit.study.curves import collapse_of
from flops_fit.study.fits import FittedStudy
from flops_fit.study.found import existing, read_answer, study_runs
from flops_fit.study.reports import report_study
from flops_fit.study.runs import Runs
from flops_fit.study.status import StudyStatus, study_status
from flops_fit.study.verifications import verified

SHOWN_BUDGETS = 3
"""The largest budget and the next beyond it for which a printed study answers."""


@dataclass(frozen=True, repr=False)
class Study:
    """A plan with what was trained of it and the law that follows.

    Iterates over the runs, in the plan's order.
    """

    fitted: FittedStudy

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """The study in a folder such as outputs/mlp-toy, as it was left.

        Raises `StudyError` where there is none.
        """
        folder = existing(StudyFolder(Path(path)))
        answer_folder = folder.latest_plan_folder()
        plan = folder.read_plan() if has_plan(answer_folder) else None
        fitted = FittedStudy(folder, plan, Runs(study_runs(folder)), None, None)
        try:
            answer = read_answer(folder)
        except UserError as error:
            answer = Refusal(str(error))
        if isinstance(answer, Refusal):
            return cls(replace(fitted, refusal=answer))
        return cls(replace(fitted, law=answer))

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.fitted.folder.path

    @property
    def plan(self) -> Plan | None:
        """None for a table of runs."""
        return self.fitted.plan

    @property
    def runs(self) -> Runs:
        return self.fitted.runs

    @property
    def law(self) -> ScalingLaw | None:
        """None where nothing trustworthy can be fitted; `refusal` says why."""
        return self.fitted.law

    @property
    def refusal(self) -> str | None:
        """Why there is no law, in a line; None where there is one."""
        return str(self.fitted.refusal) if self.fitted.refusal else None

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def predict(self, budget: float) -> Answer:
        """The compute-optimal run at `budget` FLOPs. Raises `StudyError` without a law."""
        return self._law.predict(number("budget", budget, "FLOPs such as 1e18"))

    def verify(self, budget: float) -> Verification:
        """Trains the size that the law says is best at `budget` FLOPs: predicted against measured.

        With the settings of the study; what was trained before is not trained again. Raises
        `StudyError` where the run can't be trained from here, or fails.
        """
        return verified(self.fitted, self.predict(budget))

    def collapse(self) -> Collapse | None:
        """How well the training curves of runs near their budgets' optima fall on one: a rate that
        doesn't suit all sizes shows (docs/collapse.md). None where there are too few to tell."""
        return collapse_of(self.runs, self.fitted.folder, self.law)

    def report(self) -> list[Path]:
        """Writes report.html, the figures and runs.csv beside law.json; returns their paths.

        Without a law what the runs alone show.
        """
        answer = self.law or self.fitted.refusal or Refusal("nothing was fitted")
        return report_study(self.runs, answer, self.fitted.folder.latest_plan_folder())

    def status(self) -> StudyStatus:
        """How much of the plan is completed, failed, diverged and missing."""
        return study_status(self.fitted.folder)

    @property
    def _law(self) -> ScalingLaw:
        if self.law is None:
            reason = (self.refusal or "").removeprefix("no law: ")
            raise StudyError(f"no law to predict with: {reason}")
        return self.law

    def _lines(self) -> list[str]:
        head = f"Study {self.folder.name}: {len(self)} runs"
        if self.law is None:
            refusal = self.fitted.refusal or Refusal("nothing was fitted")
            return [head, str(refusal), *refusal.sentences]
        law = self.law
        beyond = [answer for answer in law.answers if answer.extrapolation >= 1]
        shown = [answer_words(answer) for answer in beyond[:SHOWN_BUDGETS]]
        return [head, law.diagnostics.verdict, *shown]

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        """For notebooks."""
        head, *lines = map(escape, self._lines())
        return f"<b>{head}</b><br>" + "<br>".join(lines)


def number(name: str, value: Any, example: str) -> float:
    """The value as a float. Raises `ConfigError` for text and other things that are no number."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    raise ConfigError(f"{name} is {value!r}, a {type(value).__name__}: give a number of {example}")
