"""The study: plan a sweep, train what is missing of it, fit what is there.

Both faces, the command line and `find_optimal`, bring a `StudySpec` and do the same things here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from flops_fit.errors import StudyError, UserError
from flops_fit.fitting import FitError, IsoflopFit, ScalingLaw, SurfaceFit, fit_runs, is_fit_of
from flops_fit.fitting.bootstrap import DEFAULT_DRAWS
from flops_fit.laws import FlopRule
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Plan
from flops_fit.plan.run import Run
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Spec


def pin_sources(spec: Spec, folder: StudyFolder) -> list[str]:
    """Remember the code that the study is trained with; returns the names whose code has changed.

    Ids know names and arguments, not code, so that a new comment makes no run worthless.
    """
    pinned = folder.pinned()
    sources = {f"source of {name}": code for name, code in spec.sources.items()}
    folder.pin(sources)
    return [
        key.removeprefix("source of ")
        for key, code in sources.items()
        if pinned.get(key, code) != code
    ]


SOURCE_WARNING = (
    "the code of {} has changed since this study's first training; finished runs keep the old "
    "code's losses: name another study to train all of them anew"
)


@dataclass(frozen=True)
class Study:
    """A plan with what was trained of it and the law that follows.

    Iterates over the runs, in the plan's order. `law` is None where nothing trustworthy can be
    fitted; `refusal` says why.
    """

    plan: Plan
    runs: tuple[Run, ...]
    law: ScalingLaw | None
    refusal: str | None
    folder: StudyFolder

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def predict(self, budget: float) -> Prediction:
        """The compute-optimal run at `budget` FLOPs. Raises `StudyError` without a law."""
        if self.law is None:
            raise StudyError(f"no law to predict with: {self.refusal}")
        return self.law.predict(budget)


def fit_study(
    plan: Plan,
    runs: Sequence[Run],
    folder: StudyFolder,
    answer: IsoflopFit | SurfaceFit | None = None,
    draws: int = DEFAULT_DRAWS,
    seed: int = 0,
) -> Study:
    """Fit the plan's runs and keep law.json beside plan.json; a law that is there is kept."""
    answer_folder = folder.plan_folder(plan)
    how: FitArguments = {
        "flop_rule": plan.flop_rule,
        "answer": answer or SurfaceFit(),
        "draws": draws,
        "seed": seed,
    }
    try:
        law = law_on_disk(answer_folder)
        if law is None or not is_fit_of(law, runs, **how):
            law = fit_runs(runs, **how)
            law.save(answer_folder)
    except FitError as error:
        return Study(plan, tuple(runs), None, str(error), folder)
    return Study(plan, tuple(runs), law, None, folder)


class FitArguments(TypedDict):
    """How a study is fitted: the arguments of `fit_runs` beside the runs."""

    flop_rule: FlopRule
    answer: IsoflopFit | SurfaceFit
    draws: int
    seed: int


def law_on_disk(answer_folder: Path) -> ScalingLaw | None:
    """The law that was fitted before; None where there is none that can be read."""
    try:
        return ScalingLaw.load(answer_folder)
    except (FileNotFoundError, UserError):
        return None
