"""The verb `predict`: what to train at a target, how sure that is, and what else would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.answers.optimal_config import OptimalConfig, rules_of
from flops_fit.answers.optimal_run import note_on_size, optimal_experiment
from flops_fit.cli.answers import fitted_study, read_law
from flops_fit.cli.dispatch import OK
from flops_fit.errors import PlanError
from flops_fit.fitting import ScalingLaw
from flops_fit.laws.prediction import FlatBand, OtherSize, Prediction
from flops_fit.report import tables
from flops_fit.report.printing import print_json
from flops_fit.report.screen import results, say
from flops_fit.store.folder import StudyFolder

Config = Mapping[str, Any]

CONFIGS = "conf"
"""Folder beside law.json for the configs of optimal runs."""


def predict(config: Config) -> int:
    """The optimum for what is asked, by the law of the study, and the run that comes closest."""
    folder = fitted_study(config)
    law = read_law(folder)
    asked = asked_predictions(law, config)
    targets = [answered(law, p, config, folder) for p in asked]
    if config["json"]:
        shown = [t.to_json() for t in targets] or [p.to_json() for p in law.predictions]
        print_json({"predictions": shown})
    else:
        results().print(tables.predictions_table(asked or law.predictions, law.metric))
    for target in targets:
        show(target, law.metric)
    return OK


def asked_predictions(law: ScalingLaw, config: Config) -> list[Prediction]:
    """For the budgets, the size or the tokens asked for."""
    found = [law.predict(budget) for budget in config["budgets"]]
    if config["num_params"] is not None:
        found.append(law.predict_for_num_params(config["num_params"]))
    if config["num_tokens"] is not None:
        found.append(law.predict_for_num_tokens(config["num_tokens"]))
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
    """A prediction with all that is said about it; None where the law or the study can't tell.

    `notes` say why a run can't be trained or is not quite the optimum.
    """

    prediction: Prediction
    band: FlatBand | None
    other: OtherSize | None
    run: OptimalRun | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.prediction.to_json(),
            "flat_band": self.band and self.band.to_json(),
            "instead": self.other and self.other.to_json(),
            "optimal_run": self.run and self.run.to_json(),
            "notes": list(self.notes),
        }


def answered(
    law: ScalingLaw, prediction: Prediction, config: Config, folder: StudyFolder
) -> Target:
    """Flatness and cost of another size by the surface; writes the config of the optimal run."""
    budget, instead = prediction.budget, config["instead"]
    band = other = None
    if law.surface is not None:
        band = law.flat_band(budget)
        other = None if instead is None else law.cost_of_size(budget, instead)
    run, notes = optimal_run(prediction, folder, config["output_root"])
    if prediction.warning:
        notes = (*notes, f"warning: {prediction.warning}")
    return Target(prediction, band, other, run, notes)


def optimal_run(
    prediction: Prediction, folder: StudyFolder, output_root: str
) -> tuple[OptimalRun | None, tuple[str, ...]]:
    """The written config of the closest run, and notes; None for a study that no config trained."""
    answer_folder = folder.latest_plan_folder()
    if not (answer_folder / "plan.json").exists():
        return None, ()
    plan = folder.read_plan()
    try:
        experiment = optimal_experiment(plan, prediction, rules_of(plan.settings))
    except PlanError as error:
        return None, (f"note: no run of this study's model can be trained there: {error}",)
    config = OptimalConfig(prediction, experiment, plan, folder.pinned())
    size_note = note_on_size(experiment, prediction)
    notes = (f"note: {size_note}",) if size_note else ()
    if not plan.settings:
        return None, (*notes, str(config))
    configs = shortened(answer_folder) / CONFIGS
    try:
        path = config.write(configs, output_root)
    except OSError as error:
        return None, (*notes, f"{config}; no config is written: {error}")
    return OptimalRun(config, path, config.command(configs, output_root)), notes


def shortened(path: Path) -> Path:
    """The path as seen from the working directory, where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def show(target: Target, metric: str) -> None:
    """What is said of a target beside its row in the table."""
    if target.band is not None:
        say(tables.band_line(target.band))
    if target.other is not None:
        say(tables.cost_line(target.other, target.prediction.budget, metric))
    if target.run is not None:
        say(f"{target.run.config}")
        say(f"to train it: {target.run.command}")
    for note in target.notes:
        say(note)
