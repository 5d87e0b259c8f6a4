"""Fit: laws of a study's runs, or of anyone's table of runs, kept as law.json."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from flops_fit.errors import ConfigError, StudyWarning, UserError
from flops_fit.files import file_to_write, point_to, set_aside, within
from flops_fit.fitting import (
    FitError,
    NoLawFits,
    Refusal,
    ScalingLaw,
    fit_runs,
    is_fit_of,
    refusal_of,
)
from flops_fit.fitting import FitSettings as Fit
from flops_fit.fitting.methods import reads_curves
from flops_fit.fitting.metrics import LOSS
from flops_fit.fitting.points import Dropped
from flops_fit.fitting.refusal import REFUSAL_FILE, is_sweep
from flops_fit.fitting.selection import EveryRun, Selection
from flops_fit.laws import FlopRule
from flops_fit.plan.experiment import Plan
from flops_fit.plan.ids import digest
from flops_fit.plan.run import Run
from flops_fit.settings.answers import ColumnNames, TableSettings
from flops_fit.store.folder import LATEST, StudyFolder
from flops_fit.store.protocols import Spec
from flops_fit.study.found import RUNS_FILE, has_law
from flops_fit.study.runs import Runs
from flops_fit.tables import (
    BITS,
    NATS,
    Asked,
    Named,
    bits_per_byte,
    checkpoints_of,
    name_of,
    read_table,
    table_flop_rule,
    write_runs,
)

Tell = Callable[[str], None]
"""Says a line to whoever looks on."""


@dataclass(frozen=True)
class FittedStudy:
    """A study's plan and runs with the law that follows.

    `plan` is None for a table of runs, `law` where nothing trustworthy can be fitted; `refusal`
    says why. `spec` is what it was trained from, if just now; `num_trained` runs were.
    """

    folder: StudyFolder
    plan: Plan | None
    runs: Runs
    law: ScalingLaw | None
    refusal: Refusal | None
    spec: Spec | None = None
    num_trained: int = 0

    @property
    def answer_folder(self) -> Path:
        """Where its law and report are kept."""
        if self.plan is None:
            return self.folder.latest_plan_folder()
        return self.folder.plan_folder(self.plan)


@dataclass(frozen=True)
class Fitting:
    """How runs are fitted: the method that answers and what else decides the law."""

    answer: Fit
    draws: int
    seed: int
    select: Selection = field(default_factory=EveryRun)
    metric: str = LOSS


def fit_trained(
    plan: Plan, runs: Sequence[Run], folder: StudyFolder, how: Fitting, spec: Spec | None = None
) -> FittedStudy:
    """The study with the law of the plan's runs, kept beside plan.json; one that is there is kept.

    Where nothing can be fitted the study has no law, and says why; so does refusal.json there,
    but for a single run, which leaves the sweep that it came of the last one answered.
    """
    answer_folder = folder.plan_folder(plan)
    checkpoints = checkpoints_of(runs, folder) if reads_curves(how.answer) else []
    arguments: dict[str, Any] = {
        "flop_rule": plan.flop_rule,
        "answer": how.answer,
        "draws": how.draws,
        "seed": how.seed,
        "checkpoints": checkpoints,
    }
    study = FittedStudy(folder, plan, Runs(runs), None, None, spec)
    try:
        law = law_on_disk(answer_folder)
        if law is None or not is_fit_of(law, runs, **arguments):
            law = fit_runs(runs, **arguments)
            law.save(answer_folder)
    except FitError as error:
        refusal = refusal_of(runs, error, flop_rule=plan.flop_rule, answer=how.answer)
        if is_sweep(runs):
            refusal.save(answer_folder)
        return replace(study, refusal=refusal)
    out_of_the_way(answer_folder / REFUSAL_FILE)
    return replace(study, law=law)


def law_on_disk(answer_folder: Path) -> ScalingLaw | None:
    """The law that was fitted before; None where it can't be read or was changed since."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", StudyWarning)
        try:
            return ScalingLaw.load(answer_folder)
        except (FileNotFoundError, UserError, StudyWarning):
            return None


def out_of_the_way(refusal: Path) -> None:
    """A law stands now where there was none."""
    if refusal.is_dir() and not refusal.is_symlink():
        set_aside(refusal)
    refusal.unlink(missing_ok=True)


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
    plan: Plan | None = None
    dropped: tuple[Dropped, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)


def fit_again(given: ToFit, how: Fitting, tell: Tell) -> FittedStudy:
    """The study with its runs fitted anew; law.json and runs.csv are written, and in force.

    Where no method gives a law the study has none, and says why. Raises `FitError` for rows that
    can't be true and for what can't be fitted at all.
    """
    try:
        law = fit_runs(
            given.runs,
            flop_rule=given.flop_rule,
            answer=how.answer,
            select=how.select,
            draws=how.draws,
            seed=how.seed,
            metric=how.metric,
            checkpoints=given.checkpoints() if reads_curves(how.answer) else (),
        )
    except NoLawFits as error:
        return refused(given, how, error, tell)
    law = replace(
        law,
        dropped=(*given.dropped, *law.dropped),
        provenance={**law.provenance, **given.source},
    )
    law.save(given.answer_folder)
    out_of_the_way(given.answer_folder / REFUSAL_FILE)
    write_runs(file_to_write(given.answer_folder, RUNS_FILE), given.runs)
    tell_of_earlier(given, tell)
    point_to(given.folder.path / LATEST, given.answer_folder)
    return FittedStudy(given.folder, given.plan, Runs(given.runs), law, None)


def refused(given: ToFit, how: Fitting, error: FitError, tell: Tell) -> FittedStudy:
    """The study without a law. The refusal is kept where no earlier law of the study stands."""
    refusal = refusal_of(
        given.runs,
        error,
        flop_rule=given.flop_rule,
        answer=how.answer,
        metric=how.metric,
        select=how.select,
    )
    refusal = replace(refusal, dropped=(*given.dropped, *refusal.dropped))
    study = FittedStudy(given.folder, given.plan, Runs(given.runs), None, refusal)
    if any(map(has_law, (*earlier_answer(given.folder), given.answer_folder))):
        tell(f"note: the earlier law of {given.folder.path.name} stays in force")
        return study
    refusal.save(given.answer_folder)
    write_runs(file_to_write(given.answer_folder, RUNS_FILE), given.runs)
    point_to(given.folder.path / LATEST, given.answer_folder)
    return study


def earlier_answer(folder: StudyFolder) -> list[Path]:
    """The folder of the answer in force, where there is one."""
    try:
        return [folder.latest_plan_folder()]
    except UserError:
        return []


def tell_of_earlier(given: ToFit, tell: Tell) -> None:
    """Another answer of the study that is no longer the latest is named."""
    for earlier in earlier_answer(given.folder):
        if earlier.resolve() != given.answer_folder.resolve():
            tell(
                f"note: this is now the latest answer of {given.folder.path.name}; the earlier "
                f"one, of other rows or columns, stays in {earlier}"
            )


def study_to_fit(folder: StudyFolder, tell: Tell) -> ToFit:
    """The runs of a study's plan in force."""
    planned = folder.read_plan()
    runs, problems = folder.runs_of(planned)
    for problem in problems:
        tell(f"warning: left out: {problem}")
    missing = len(planned) - len(runs) - len(problems)
    if missing:
        tell(f"warning: fitted without {missing} of {len(planned)} runs of the plan: no result yet")
    answer_folder = folder.plan_folder(planned)
    curves = partial(checkpoints_of, runs, folder)
    return ToFit(folder, answer_folder, runs, planned.flop_rule, curves, planned)


def table_to_fit(
    asked: Asked, settings: TableSettings, output_root: Path, study: str | None, tell: Tell
) -> ToFit:
    """A table becomes a study of its own, named after its file or the first of several."""
    units = {
        "nats_per_unit": nats_per_unit(settings.loss_unit, settings.bytes_per_token),
        "flops_per_param_per_token": settings.flops_per_param_per_token,
    }
    read = read_table(
        asked,
        named_columns(settings.columns),
        where=settings.where,
        pivot=settings.pivot,
        **units,
    )
    rule = table_flop_rule(read.runs, units["flops_per_param_per_token"])
    notes = [*read.notes, *note_on_flops(rule)]
    for note in notes:
        tell(f"note: {note}")
    folder = StudyFolder(output_root / (study or name_of(asked, read.files)))
    rows = [[run.id, run.num_params, run.num_tokens, run.loss] for run in read.runs]
    first, *others = read.files
    source = {
        "path": str(first) if not others else f"{len(read.files)} files ({first}, ..)",
        "files": list(map(str, read.files)),
        "sha256": hashlib.sha256(b"".join(f.read_bytes() for f in read.files)).hexdigest(),
        "columns": dict(read.columns),
        "units": dict(read.units),
        "where": settings.where,
        "pivot": settings.pivot,
        **units,
        "notes": notes,
    }
    return ToFit(
        folder=folder,
        answer_folder=within(folder.path, "plans", digest(rows)),
        runs=read.runs,
        flop_rule=rule,
        checkpoints=lambda: read.checkpoints,
        dropped=read.dropped,
        source={"table": source},
    )


def named_columns(columns: ColumnNames) -> dict[str, Named]:
    """Our name -> the table's, of those that were given; and units."""
    return {ours: theirs for ours, theirs in vars(columns).items() if theirs}


def note_on_flops(rule: FlopRule) -> list[str]:
    """What is said of a FLOP rule other than C = 6ND."""
    if rule == FlopRule.constant():
        return []
    if rule.is_constant:
        return [f"C = {rule.flops_per_param_per_token:.3g} N D by the table's own columns"]
    return [
        f"C / (N D) depends on N in this table: FLOPs per token of {len(rule.num_params)} sizes"
    ]


def nats_per_unit(unit: str, bytes_per_token: float | None) -> float:
    """Nats per token of one unit of a table's loss."""
    if unit == "bits_per_byte" and bytes_per_token:
        return bits_per_byte(bytes_per_token)
    if unit in (units := {"nats": NATS, "bits": BITS}):
        return units[unit]
    raise ConfigError(
        f"loss_unit is {unit!r} with bytes_per_token {bytes_per_token}: use nats, bits, or "
        "bits_per_byte together with bytes_per_token=4.2 or whatever the tokenizer's mean is"
    )
