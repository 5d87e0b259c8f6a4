"""What each verb does with its composed config. Each returns the exit code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.cli import OK, SOME_FAILED
from flops_fit.comparison import COMPARABLE, Contender, compare_laws
from flops_fit.errors import ConfigError, StudyError
from flops_fit.fitting import ScalingLaw, fit_runs
from flops_fit.laws import FlopRule
from flops_fit.parts import Part
from flops_fit.planning import Plan, digest, short_number
from flops_fit.prediction import FLAT_BAND_TOLERANCE, Prediction
from flops_fit.report import tables
from flops_fit.report.screen import SweepProgress, duration, results, say
from flops_fit.run_tables import (
    BITS,
    NATS,
    bits_per_byte,
    read_runs,
    table_flop_rule,
    write_runs,
)
from flops_fit.runs import Run, StudyFolder, latest_study, point_to

if TYPE_CHECKING:
    from flops_fit.launching import Machine
    from flops_fit.study import Study
    from flops_fit.training import Recipe

Config = Mapping[str, Any]

LONG_SECONDS = 86400.0
"""A sweep that takes longer than this here is warned about."""

VARIANTS: list[tables.Variant] = []
"""Of a multirun in this process, one per job; Hydra has no way to hand them back."""


def plan(config: Config) -> int:
    """Plan, show, and write plan.json."""
    from flops_fit.build import build_study
    from flops_fit.launching import machine_for
    from flops_fit.study import plan_study

    folder = study_folder(config)
    planned, recipe = plan_study(build_study(config, origins()), folder)
    path = folder.write_plan(planned)
    if not folder.has_runs:
        folder.put_in_force(planned)
    if config["json"]:
        print_json(planned.to_json())
    else:
        results().print(tables.plan_table(planned))
        results().print(str(planned), markup=False)
    show_notes(planned)
    machine = machine_for(config, recipe.device, len(planned), folder.pinned())
    show_duration(planned, recipe, machine)
    say(f"plan: {path / 'plan.json'}")
    return OK


def train(config: Config) -> int:
    """Plan, train what is missing, fit, and show the answer."""
    from flops_fit.build import build_study
    from flops_fit.launching import executor, machine_for, stop_on_signals
    from flops_fit.study import SOURCE_WARNING, fit_study, pin_sources, plan_study, train_plan

    folder = study_folder(config)
    spec = build_study(config, origins())
    planned, recipe = plan_study(spec, folder)
    for changed in pin_sources(spec, folder):
        say(f"warning: {SOURCE_WARNING.format(changed)}")
    retry = [config["retry"]] if config["retry"] else []
    todo = folder.missing(planned, retry)
    show_what_is_there(planned, folder, len(todo))
    machine = machine_for(config, recipe.device, len(todo), folder.pinned())
    folder.pin({"threads": machine.threads})
    progress = SweepProgress(math.fsum(e.flops for e in todo), len(todo))
    with progress, stop_on_signals(progress):
        execute = executor(config, origins(), recipe, folder, machine)
        runs = train_plan(planned, recipe, folder, execute, progress, retry)
    study = fit_study(planned, runs, folder, answer(config), config["draws"], config["seed"])
    if is_multirun():
        VARIANTS.append(variant(study, len(todo)))
    show_study(study, config)
    return SOME_FAILED if any(run.status == "failed" for run in runs) else OK


def fit(config: Config) -> int:
    """Fit a study's runs or a table of runs, and keep law.json."""
    if config["runs"]:
        folder, answer_folder, runs, rule = table_to_fit(config)
    else:
        folder, answer_folder, runs, rule = study_to_fit(config)
    law = fit_runs(
        runs,
        flop_rule=rule,
        answer=answer(config),
        select=Part("select", config["select"], origins()["select"]).build(),
        draws=config["draws"],
        seed=config["seed"],
    )
    law.save(answer_folder)
    write_runs(answer_folder / "runs.csv", runs)
    point_to(folder.path / "latest", answer_folder)
    show_law(law, config)
    say(f"law: {answer_folder / 'law.json'}")
    return OK


ToFit = tuple[StudyFolder, Path, list[Run], FlopRule]
"""The study, the folder of its answer, the runs, and what defines their FLOPs."""


def study_to_fit(config: Config) -> ToFit:
    folder = found_study(config)
    planned = folder.read_plan()
    runs, problems = folder.runs_of(planned)
    for problem in problems:
        say(f"warning: left out: {problem}")
    return folder, folder.plan_folder(planned), runs, planned.flop_rule


def table_to_fit(config: Config) -> ToFit:
    """A table becomes a study of its own, named after its file."""
    table = Path(config["runs"])
    columns = {ours: theirs for ours, theirs in config["columns"].items() if theirs}
    runs, notes = read_runs(
        table,
        columns,
        nats_per_unit=nats_per_unit(config),
        flops_per_param_per_token=config["flops_per_param_per_token"],
    )
    for note in notes:
        say(f"note: {note}")
    folder = StudyFolder(Path(config["output_root"]) / (config["study"] or table.stem))
    rows = [[run.id, run.num_params, run.num_tokens, run.loss] for run in runs]
    return folder, folder.path / "plans" / digest(rows), runs, table_flop_rule(runs)


def nats_per_unit(config: Config) -> float:
    """Nats per token of one unit of the table's loss."""
    unit, bytes_per_token = config["loss_unit"], config["bytes_per_token"]
    if unit == "bits_per_byte" and bytes_per_token:
        return bits_per_byte(bytes_per_token)
    if unit in (units := {"nats": NATS, "bits": BITS}):
        return units[unit]
    raise ConfigError(
        f"loss_unit is {unit!r} with bytes_per_token {bytes_per_token}: use nats, bits, or "
        "bits_per_byte together with bytes_per_token=4.2 or whatever the tokenizer's mean is"
    )


def predict(config: Config) -> int:
    """The optimum for what is asked, by the law of the study, and what other sizes cost."""
    law = read_law(found_study(config))
    predictions = asked_predictions(law, config)
    if config["json"]:
        print_json({"predictions": [p.to_json() for p in predictions]})
    else:
        results().print(tables.predictions_table(predictions))
    if is_for_one_target(config):
        for p in predictions:
            show_around(law, p, config["instead"])
    return OK


def is_for_one_target(config: Config) -> bool:
    return bool(config["budgets"] or config["num_params"] or config["num_tokens"])


def asked_predictions(law: ScalingLaw, config: Config) -> list[Prediction]:
    """For the budgets, the size or the tokens asked; without any, all of the law's own."""
    found = [law.predict(budget) for budget in config["budgets"]]
    if config["num_params"] is not None:
        found.append(law.predict_for_num_params(config["num_params"]))
    if config["num_tokens"] is not None:
        found.append(law.predict_for_num_tokens(config["num_tokens"]))
    return found or list(law.predictions)


def show_around(law: ScalingLaw, prediction: Prediction, instead: float | None) -> None:
    """How flat the optimum is, what size `instead` would cost, and a warning if it is far off."""
    budget = prediction.budget
    if law.surface is not None:
        low, high = map(short_number, law.flat_band(budget))
        lost = f"{FLAT_BAND_TOLERANCE:.1%}"
        say(f"at {budget:.3g} FLOPs all sizes from {low} to {high} lose less than {lost}")
        if instead is not None:
            say(tables.cost_line(law.cost_of_size(budget, instead), budget))
    if prediction.warning:
        say(f"warning: {prediction.warning}")


def compare(config: Config) -> int:
    """Two studies side by side, on screen, as a figure and as JSON."""
    from flops_fit.report.files import write_comparison

    a, b = (contender(name, config) for name in two_studies(config["studies"]))
    comparison = compare_laws(a, b)
    if config["json"]:
        print_json(comparison.to_json())
    else:
        results().print(comparison.verdict, markup=False)
        results().print(tables.comparison_table(comparison))
        results().print(tables.crossing_line(comparison.crossing), markup=False)
    for line in (f"note: {COMPARABLE}", *(f"warning: {text}" for text in comparison.warnings)):
        say(line)
    for path in write_comparison(comparison, Path(config["output_root"])):
        say(f"wrote {path}")
    return OK


def two_studies(names: Sequence[str]) -> Sequence[str]:
    """The names, if they are two."""
    if len(names) != 2 or not all(names):
        raise ConfigError(
            f"studies names {len(names)} ({', '.join(names)}): name the two to compare, such as "
            "studies=mlp-toy,wide-toy"
        )
    if names[0] == names[1]:
        raise ConfigError(f"studies names {names[0]!r} twice: name another to compare it with")
    return names


def contender(name: str, config: Config) -> Contender:
    """A fitted study as one side of a comparison."""
    folder = found_study({**config, "study": name})
    return Contender.of(name, read_law(folder), study_runs(folder))


def report(config: Config) -> int:
    """Write figures and runs.csv beside the law."""
    from flops_fit.report.files import write_report

    folder = found_study(config)
    law = read_law(folder)
    written = write_report(study_runs(folder), law, folder.latest_plan_folder())
    if config["json"]:
        print_json({"files": [str(path) for path in written]})
    else:
        show_law(law, config)
        for path in written:
            say(f"wrote {path}")
    return OK


def status(config: Config) -> int:
    """What of the plan in force is done, failed and missing."""
    folder = found_study(config)
    planned = folder.read_plan()
    runs, problems = folder.runs_of(planned)
    by_id = {run.id: run for run in runs}
    counts = {name: sum(r.status == name for r in runs) for name in ("done", "failed", "diverged")}
    counts["missing"] = len(planned) - len(by_id)
    for problem in problems:
        say(f"warning: {problem}")
    if config["json"]:
        print_json({"study": str(folder.path), "planned": len(planned), **counts})
        return OK
    results().print(tables.runs_table(planned, by_id))
    spent = math.fsum(run.flops for run in runs)
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    results().print(f"{words}; {spent:.3g} of {planned.total_flops:.3g} FLOPs", markup=False)
    return OK


def study_folder(config: Config) -> StudyFolder:
    return StudyFolder(Path(config["output_root"]) / config["study"])


def found_study(config: Config) -> StudyFolder:
    """The study that is named, else the last one trained; said on screen."""
    root = Path(config["output_root"])
    folder = StudyFolder(root / config["study"]) if config["study"] else latest_study(root)
    if not folder.path.is_dir():
        raise StudyError(
            f"no study {config['study']!r} under {root.resolve()}: run `flops-fit train` first, or "
            "name another with study=NAME"
        )
    say(f"study: {folder.path}")
    return folder


def read_law(folder: StudyFolder) -> ScalingLaw:
    answer_folder = folder.latest_plan_folder()
    if not (answer_folder / "law.json").exists():
        raise StudyError(
            f"{folder.path} has no law yet: run `flops-fit fit study={folder.path.name}`"
        )
    return ScalingLaw.load(answer_folder)


def study_runs(folder: StudyFolder) -> list[Run]:
    """The runs of the plan in force, or of the table that was fitted."""
    answer_folder = folder.latest_plan_folder()
    if (answer_folder / "plan.json").exists():
        return folder.runs_of(folder.read_plan())[0]
    return read_runs(answer_folder / "runs.csv")[0]


def answer(config: Config) -> Any:
    """The settings of the fit that answers."""
    return Part("fit", config["fit"], origins()["fit"]).build()


def origins() -> dict[str, str]:
    """The file that was chosen for each config group."""
    from hydra.core.hydra_config import HydraConfig

    runtime = HydraConfig.get().runtime
    folders = [Path(s.path) for s in runtime.config_sources if s.schema == "file" and s.path]
    chosen = {}
    for group, option in runtime.choices.items():
        files = [folder / group / f"{option}.yaml" for folder in folders]
        chosen[group] = str(next((f for f in files if f.exists()), f"{group}={option}"))
    return chosen


def show_notes(planned: Plan) -> None:
    for note in planned.notes:
        say(f"note: {note}")


def show_duration(planned: Plan, recipe: Recipe, machine: Machine) -> None:
    from flops_fit.timing import estimated_seconds

    seconds = estimated_seconds(planned, recipe, machine.workers, machine.threads)
    warning = "warning: " if seconds > LONG_SECONDS else ""
    at_once = f"{recipe.device}, {machine.workers} at once"
    say(f"{warning}at least {duration(seconds)} here ({at_once})")


def show_what_is_there(planned: Plan, folder: StudyFolder, num_todo: int) -> None:
    show_notes(planned)
    for problem in folder.runs_of(planned)[1]:
        say(f"warning: {problem}: this run is trained again")
    say(f"{planned}: +{num_todo} new, {len(planned) - num_todo} done already")


def show_study(study: Study, config: Config) -> None:
    """The answer of a sweep that was trained: law, figures, files."""
    from flops_fit.report.files import is_current, write_report

    for run in study:
        if run.status != "done":
            say(f"warning: {run.id} {run.status}: {run.error}")
    if study.law is None:
        say(str(study.refusal))
        if config["json"]:
            print_json({"answer": None, "refusal": study.refusal})
        return
    answer_folder = study.folder.plan_folder(study.plan)
    if not is_current(answer_folder):
        write_report(study.runs, study.law, answer_folder)
    show_law(study.law, config)
    say(f"law, runs.csv and figures: {answer_folder}")


def show_law(law: ScalingLaw, config: Config) -> None:
    """Exponents, optima and predictions; as JSON on stdout if asked."""
    if config["json"]:
        print_json(law.to_json())
        return
    console = results()
    console.print(law.diagnostics.verdict, markup=False)
    console.print(tables.budgets_table(law))
    for line in tables.law_lines(law):
        console.print(line, markup=False)
    console.print(tables.predictions_table(p for p in law.predictions if p.method == law.answer))
    for finding in law.diagnostics.findings:
        console.print(f"- {finding}", markup=False)


def is_multirun() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return bool(HydraConfig.get().mode is RunMode.MULTIRUN)


def variant(study: Study, num_trained: int) -> tables.Variant:
    from hydra.core.hydra_config import HydraConfig

    losses = [run.loss for run in study if run.loss is not None]
    return tables.Variant(
        overrides=list(HydraConfig.get().overrides.task),
        num_trained=num_trained,
        num_runs=len(study),
        best_loss=min(losses, default=None),
        exponent=tables.exponent(study.law, study.law.answer) if study.law else "",
    )


def print_variants() -> None:
    """After a multirun of `train`: its jobs side by side."""
    if VARIANTS:
        results().print(tables.variants_table(VARIANTS))
        VARIANTS.clear()


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))
