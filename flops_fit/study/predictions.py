"""Predict: the optimum for what is asked, and the study's own run that comes closest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.answers.optimal_config import OptimalConfig, rules_of
from flops_fit.answers.optimal_run import note_on_size, optimal_experiment
from flops_fit.errors import PlanError, StudyError
from flops_fit.files import DAMAGE, within
from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.answer import Answer
from flops_fit.laws.prediction import FlatBand, OtherSize
from flops_fit.settings.answers import TargetSettings
from flops_fit.store.folder import StudyFolder, has_plan
from flops_fit.study.frozen import freeze

CONFIGS = "conf"
"""Folder beside law.json for the configs of optimal runs."""


def asked_predictions(law: ScalingLaw, asked: TargetSettings) -> list[Answer]:
    """For the budgets, the size or the tokens asked for."""
    found = [law.predict(budget) for budget in asked.budgets]
    if asked.num_params is not None:
        found.append(law.predict_for_num_params(asked.num_params))
    if asked.num_tokens is not None:
        found.append(law.predict_for_num_tokens(asked.num_tokens))
    return found


@dataclass(frozen=True)
class OptimalRun:
    """The study's own run that comes closest, as a config, and the command that trains it."""

    config: OptimalConfig
    path: Path
    command: str

    def to_json(self) -> dict[str, Any]:
        return {**self.config.to_json(), "config": str(self.path), "command": self.command}


@dataclass(frozen=True)
class Target:
    """An answer with all that is said about it; None where the law or the study can't tell.

    `notes` say why a run can't be trained or is not quite the optimum.
    """

    answer: Answer
    band: FlatBand | None
    other: OtherSize | None
    run: OptimalRun | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.answer.to_json(),
            "flat_band": self.band and self.band.to_json(),
            "instead": self.other and self.other.to_json(),
            "optimal_run": self.run and self.run.to_json(),
            "notes": list(self.notes),
        }


def target(law: ScalingLaw, answer: Answer, instead: float | None, folder: StudyFolder) -> Target:
    """Flatness and cost of another size, where known; writes the config of the optimal run."""
    band = other = None
    if law.knows_other_sizes:
        band = law.flat_band(answer.budget)
        other = None if instead is None else law.cost_of_size(answer.budget, instead)
    run, notes = optimal_run(answer, folder)
    if answer.warning:
        notes = (*notes, f"warning: {answer.warning}")
    return Target(answer, band, other, run, notes)


def optimal_run(answer: Answer, folder: StudyFolder) -> tuple[OptimalRun | None, tuple[str, ...]]:
    """The written config of the closest run, and notes; None for a study that no config trained."""
    answer_folder = folder.latest_plan_folder()
    if not has_plan(answer_folder):
        return None, ()
    plan, prediction = folder.read_plan(), answer.prediction
    try:
        experiment = optimal_experiment(plan, prediction, rules_of(plan.settings))
    except PlanError as error:
        return None, (f"note: no run of this study's model can be trained there: {error}",)
    except DAMAGE as error:  # of numbers and nodes that no plan of ours has
        return None, (f"warning: which run of this study is the closest can't be told: {error}",)
    frozen = shortened(freeze(answer, folder))
    config = OptimalConfig(prediction, experiment, plan, folder.pinned(), str(frozen))
    size_note = note_on_size(experiment, prediction)
    notes = (f"note: {size_note}",) if size_note else ()
    if not config.can_be_written:
        return None, (*notes, str(config))
    configs = shortened(within(answer_folder, CONFIGS, "experiment")).parent
    output_root = str(folder.path.parent)
    try:
        path = config.write(configs, output_root)
    except (OSError, StudyError) as error:
        return None, (*notes, f"{config}; no config is written: {error}")
    notes = (*notes, *(f"warning: {text}" for text in config.warnings))
    return OptimalRun(config, path, config.command(configs, output_root)), notes


def shortened(path: Path) -> Path:
    """The path as seen from the working directory, where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
