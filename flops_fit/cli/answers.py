"""The verbs that look at what was trained, and train nothing. Each returns the exit code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flops_fit.answers.comparison import COMPARABLE, Contender, compare_laws
from flops_fit.cli.dispatch import OK
from flops_fit.errors import ConfigError, StudyError
from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.result import LAW_FILE
from flops_fit.plan.run import Run
from flops_fit.report import tables
from flops_fit.report.printing import print_json, print_law
from flops_fit.report.screen import results, say
from flops_fit.store.folder import StudyFolder, latest_study
from flops_fit.tables import read_table

Config = Mapping[str, Any]


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

    folder = fitted_study(config)
    law = read_law(folder)
    written = write_report(study_runs(folder), law, folder.latest_plan_folder())
    if config["json"]:
        print_json({"files": [str(path) for path in written]})
    else:
        print_law(law)
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


def fitted_study(config: Config) -> StudyFolder:
    """The study that is named, else the last one trained of those that have a law."""
    root = Path(config["output_root"])
    fitted = [
        pointer
        for pointer in root.glob("*/latest")
        if (StudyFolder(pointer.parent).latest_plan_folder() / LAW_FILE).exists()
    ]
    if config["study"] or not fitted:
        return found_study(config)
    newest = max(fitted, key=lambda pointer: pointer.lstat().st_mtime_ns)
    return found_study({**config, "study": newest.parent.name})


def read_law(folder: StudyFolder) -> ScalingLaw:
    answer_folder = folder.latest_plan_folder()
    if not (answer_folder / LAW_FILE).exists():
        raise StudyError(
            f"{folder.path} has no law yet: run `flops-fit fit study={folder.path.name}`"
        )
    return ScalingLaw.load(answer_folder)


def study_runs(folder: StudyFolder) -> list[Run]:
    """The runs of the plan in force, or of the table that was fitted."""
    answer_folder = folder.latest_plan_folder()
    if (answer_folder / "plan.json").exists():
        return folder.runs_of(folder.read_plan())[0]
    return read_table(answer_folder / "runs.csv").runs
