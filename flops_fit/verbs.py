"""What each verb does with its composed config. Each returns the exit code."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.cli import OK, SOME_FAILED
from flops_fit.errors import StudyError
from flops_fit.fitting import ScalingLaw, fit_runs
from flops_fit.laws import FlopRule
from flops_fit.parts import Part
from flops_fit.planning import Plan, digest
from flops_fit.report import tables
from flops_fit.report.screen import SweepProgress, duration, results, say
from flops_fit.run_tables import read_runs, write_runs
from flops_fit.runs import Run, StudyFolder, latest_study, point_to

if TYPE_CHECKING:
    from flops_fit.study import Execute, Study
    from flops_fit.training import Recipe

Config = Mapping[str, Any]

LONG_SECONDS = 86400.0
"""A sweep that takes longer than this here is warned about."""

VARIANTS: list[tables.Variant] = []
"""Of a multirun in this process, one per job; Hydra has no way to hand them back."""


def plan(config: Config) -> int:
    """Plan, show, and write plan.json."""
    from flops_fit.build import build_study
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
    show_duration(planned, recipe, config)
    say(f"plan: {path / 'plan.json'}")
    return OK


def train(config: Config) -> int:
    """Plan, train what is missing, fit, and show the answer."""
    from flops_fit.build import build_study
    from flops_fit.study import fit_study, plan_study, train_plan

    folder = study_folder(config)
    planned, recipe = plan_study(build_study(config, origins()), folder)
    retry = [config["retry"]] if config["retry"] else []
    todo = folder.missing(planned, retry)
    show_what_is_there(planned, folder, len(todo))
    progress = SweepProgress(math.fsum(e.flops for e in todo), len(todo))
    with progress, stop_on_signals(progress):
        execute = executor(config, recipe, folder, len(todo))
        runs = train_plan(planned, recipe, folder, execute, progress, retry)
    study = fit_study(planned, runs, folder, answer(config), config["draws"], config["seed"])
    if is_multirun():
        VARIANTS.append(variant(study, len(todo)))
    show_study(study, config)
    return SOME_FAILED if any(run.status == "failed" for run in runs) else OK


def fit(config: Config) -> int:
    """Fit a study's runs or a table of runs, and keep law.json."""
    if config["runs"]:
        table = Path(config["runs"])
        runs, notes = read_runs(table, config["columns"])
        for note in notes:
            say(f"note: {note}")
        rule = FlopRule.constant(config["flops_per_param_per_token"])
        folder = StudyFolder(Path(config["output_root"]) / (config["study"] or table.stem))
        answer_folder = folder.path / "plans" / digest([[r.id, r.loss] for r in runs])
    else:
        folder = found_study(config)
        planned = folder.read_plan()
        runs, problems = folder.runs_of(planned)
        for problem in problems:
            say(f"warning: left out: {problem}")
        rule, answer_folder = planned.flop_rule, folder.plan_folder(planned)
    law = fit_runs(
        runs, flop_rule=rule, answer=answer(config), draws=config["draws"], seed=config["seed"]
    )
    law.save(answer_folder)
    write_runs(answer_folder / "runs.csv", runs)
    point_to(folder.path / "latest", answer_folder)
    show_law(law, config)
    say(f"law: {answer_folder / 'law.json'}")
    return OK


def predict(config: Config) -> int:
    """The optimum at each budget asked, by the law of the study."""
    folder = found_study(config)
    law = read_law(folder)
    predictions = (
        [law.predict(budget) for budget in config["budgets"]]
        if config["budgets"]
        else list(law.predictions)
    )
    if config["json"]:
        print_json({"predictions": [p.to_json() for p in predictions]})
    else:
        results().print(tables.predictions_table(predictions))
    for warning in filter(None, (p.warning for p in predictions if config["budgets"])):
        say(f"warning: {warning}")
    return OK


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
    return read_runs(answer_folder / "runs.csv", {})[0]


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


def num_workers(config: Config) -> int:
    """Runs at once: as configured, else one per GPU, else one per CPU core we may use."""
    import torch

    from flops_fit.devices import choose_device

    if config["workers"] is not None:
        return max(1, int(config["workers"]))
    if choose_device(config["device"]).type == "cpu":
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    return max(1, torch.cuda.device_count())


def cpu_cores() -> int:
    """Cores this process may use; where the system doesn't say, all there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_threads(config: Config, workers: int) -> int:
    """CPU threads of a run: as configured, else one where several run at once, or all."""
    import torch

    return int(config["threads"] or (1 if workers > 1 else torch.get_num_threads()))


def executor(config: Config, recipe: Recipe, folder: StudyFolder, num_todo: int) -> Execute:
    """Worker processes where they pay, else this process."""
    import torch

    from flops_fit.executors import Workers
    from flops_fit.study import Inline

    workers = min(num_workers(config), num_todo)
    threads = num_threads(config, workers)
    if workers <= 1:
        torch.set_num_threads(threads)
        return Inline(recipe, folder)
    make_recipe = functools.partial(
        recipe_in_worker, dict(config), origins(), recipe.precision, recipe.held_out_samples
    )
    gpus = tuple(map(str, range(torch.cuda.device_count()))) if recipe.device.type == "cuda" else ()
    return Workers(make_recipe, folder, workers, threads, gpus)


def recipe_in_worker(
    config: Config, files: Mapping[str, str], precision: str, held_out_samples: int
) -> Recipe:
    """The recipe, built anew in a worker process."""
    from flops_fit.build import build_study

    return build_study(config, files).recipe(config["device"], precision, held_out_samples)


@contextmanager
def stop_on_signals(watcher: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a stop with a checkpoint; a second one stops at once."""

    def request_stop(number: int, frame: object) -> None:
        if watcher.stop_requested:
            raise KeyboardInterrupt
        watcher.stop_requested = True
        say("stopping: writing a checkpoint (again to stop at once)")

    before = {s: signal.signal(s, request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_notes(planned: Plan) -> None:
    for note in planned.notes:
        say(f"note: {note}")


def show_duration(planned: Plan, recipe: Recipe, config: Config) -> None:
    from flops_fit.timing import estimated_seconds

    workers = min(num_workers(config), len(planned))
    seconds = estimated_seconds(planned, recipe, workers, num_threads(config, workers))
    warning = "warning: " if seconds > LONG_SECONDS else ""
    say(
        f"{warning}at least {duration(seconds)} on this device ({recipe.device}, {workers} at once)"
    )


def show_what_is_there(planned: Plan, folder: StudyFolder, num_todo: int) -> None:
    show_notes(planned)
    for problem in folder.runs_of(planned)[1]:
        say(f"warning: {problem}: this run is trained again")
    say(f"{planned}: +{num_todo} new, {len(planned) - num_todo} done already")


def show_study(study: Study, config: Config) -> None:
    """The answer of a sweep that was trained: law, figures, files."""
    from flops_fit.report.files import write_report

    for run in study:
        if run.status != "done":
            say(f"warning: {run.id} {run.status}: {run.error}")
    if study.law is None:
        say(f"no law: {study.refusal}")
        return
    answer_folder = study.folder.plan_folder(study.plan)
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
