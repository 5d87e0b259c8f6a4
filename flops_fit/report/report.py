"""What a report is made of, and the figures that it has to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flops_fit.answers.verification import Verification
from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.collapse import Collapse, Curve
from flops_fit.plan.experiment import Plan
from flops_fit.plan.run import Run
from flops_fit.report.figures.backtests import backtests
from flops_fit.report.figures.contours import contours
from flops_fit.report.figures.frontier import frontier
from flops_fit.report.figures.isoflop import isoflop
from flops_fit.report.figures.marks import Picture
from flops_fit.report.figures.optima import optima
from flops_fit.report.figures.residuals import residuals
from flops_fit.report.figures.training import training


@dataclass(frozen=True)
class Report:
    """A study to show: its runs, what they say, and what else lies in its folder.

    `plan` is None for a table of runs. `curves` are the training curves of runs, `near` those of
    the sizes next to the optima, `collapse` how well these fall on one; `curve_finding` says where
    they don't.
    """

    name: str
    runs: Sequence[Run]
    answer: ScalingLaw | Refusal
    plan: Plan | None = None
    curves: Sequence[Curve] = ()
    near: Sequence[Curve] = ()
    collapse: Collapse | None = None
    curve_finding: str | None = None
    verifications: Sequence[Verification] = ()

    @property
    def law(self) -> ScalingLaw | None:
        """None where the runs gave none."""
        return self.answer if isinstance(self.answer, ScalingLaw) else None

    @property
    def budgets(self) -> tuple[float, ...]:
        """Those that have a colour in every figure, rising."""
        return tuple(optimum.budget for optimum in self.answer.budgets)


def pictures(report: Report) -> list[Picture]:
    """The figures that have something to show, the most telling first."""
    runs, law, answer = report.runs, report.law, report.answer
    flops = {run.id: run.flops for run in runs}
    found = [
        isoflop(runs, answer),
        law and optima(runs, law),
        frontier(runs, answer, report.verifications),
        law and contours(runs, law),
        law and residuals(runs, law),
        law and backtests(law),
        training(report.curves, flops, report.budgets, report.near, report.collapse),
    ]
    return [picture for picture in found if picture]
