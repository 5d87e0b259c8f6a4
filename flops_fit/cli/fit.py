"""The verb `fit`: laws of a study's runs, or of anyone's table of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flops_fit.building.node import Part, origins
from flops_fit.cli.answers import found_study
from flops_fit.cli.dispatch import OK
from flops_fit.errors import ConfigError
from flops_fit.files import point_to
from flops_fit.fitting import EnvelopeFit, fit_runs
from flops_fit.fitting.points import Dropped
from flops_fit.laws import FlopRule
from flops_fit.plan.ids import digest
from flops_fit.plan.run import Run
from flops_fit.report.printing import print_json, print_law
from flops_fit.report.screen import say
from flops_fit.store.folder import StudyFolder
from flops_fit.tables import (
    BITS,
    NATS,
    bits_per_byte,
    checkpoints_of,
    read_table,
    table_flop_rule,
    write_runs,
)

Config = Mapping[str, Any]


def fit(config: Config) -> int:
    """Fit a study's runs or a table of runs, and keep law.json."""
    given = table_to_fit(config) if config["runs"] else study_to_fit(config)
    files = origins()
    answer = Part("fit", config["fit"], files["fit"]).build()
    law = fit_runs(
        given.runs,
        flop_rule=given.flop_rule,
        answer=answer,
        select=Part("select", config["select"], files["select"]).build(),
        draws=config["draws"],
        seed=config["seed"],
        metric=config["metric"],
        checkpoints=given.checkpoints() if isinstance(answer, EnvelopeFit) else (),
    )
    law = replace(
        law,
        dropped=(*given.dropped, *law.dropped),
        provenance={**law.provenance, **given.source},
    )
    law.save(given.answer_folder)
    write_runs(given.answer_folder / "runs.csv", given.runs)
    point_to(given.folder.path / "latest", given.answer_folder)
    if config["json"]:
        print_json(law.to_json())
    else:
        print_law(law)
    say(f"law: {given.answer_folder / 'law.json'}")
    return OK


@dataclass(frozen=True)
class ToFit:
    """A study, the folder of its answer, its runs, and what defines their FLOPs.

    `checkpoints()` reads the runs' training curves. `source` says how a table was read, and
    `dropped` which of its rows were not.
    """

    folder: StudyFolder
    answer_folder: Path
    runs: list[Run]
    flop_rule: FlopRule
    checkpoints: Callable[[], list[Run]]
    dropped: tuple[Dropped, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)


def study_to_fit(config: Config) -> ToFit:
    if config["where"]:
        raise ConfigError("where chooses rows of a table: name it with runs=FILE")
    folder = found_study(config)
    planned = folder.read_plan()
    runs, problems = folder.runs_of(planned)
    for problem in problems:
        say(f"warning: left out: {problem}")
    answer_folder = folder.plan_folder(planned)
    curves = partial(checkpoints_of, runs, folder)
    return ToFit(folder, answer_folder, runs, planned.flop_rule, curves)


def table_to_fit(config: Config) -> ToFit:
    """A table becomes a study of its own, named after its file."""
    table = Path(config["runs"])
    columns = {ours: theirs for ours, theirs in config["columns"].items() if theirs}
    units = {
        "nats_per_unit": nats_per_unit(config),
        "flops_per_param_per_token": config["flops_per_param_per_token"],
    }
    read = read_table(table, columns, where=config["where"], **units)
    rule = table_flop_rule(read.runs, units["flops_per_param_per_token"])
    notes = [*read.notes, *note_on_flops(rule)]
    for note in notes:
        say(f"note: {note}")
    folder = StudyFolder(Path(config["output_root"]) / (config["study"] or table.stem))
    rows = [[run.id, run.num_params, run.num_tokens, run.loss] for run in read.runs]
    source = {
        "path": str(table),
        "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "columns": dict(read.columns),
        "where": config["where"],
        **units,
        "notes": notes,
    }
    return ToFit(
        folder=folder,
        answer_folder=folder.path / "plans" / digest(rows),
        runs=read.runs,
        flop_rule=rule,
        checkpoints=lambda: read.checkpoints,
        dropped=read.dropped,
        source={"table": source},
    )


def note_on_flops(rule: FlopRule) -> list[str]:
    """What is said of a FLOP rule other than C = 6ND."""
    if rule == FlopRule.constant():
        return []
    if rule.is_constant:
        return [f"C = {rule.flops_per_param_per_token:.3g} N D by the table's own columns"]
    return [
        f"C / (N D) depends on N in this table: FLOPs per token of {len(rule.num_params)} sizes"
    ]


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
