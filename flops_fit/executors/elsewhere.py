"""Plan here what is trained elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from flops_fit.fitting import Refusal
from flops_fit.report.screen import say
from flops_fit.settings import Kind, SweepSettings, names_of
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Executor, Logger, Spec, Submitted
from flops_fit.study.fits import FittedStudy, Fitting, Tell
from flops_fit.study.jobs import records
from flops_fit.study.runs import Runs
from flops_fit.study.sweeps import deciding, pin_sources, to_train, train_study

DECIDED_HERE = names_of(SweepSettings, lambda s: s.kind is Kind.PINNED and s.in_id)
"""What of a study's pins its plan needs; all else is decided by what trains first."""


def submitted(
    executor: Executor,
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    *,
    logger: Logger | None = None,
    in_force: bool = True,
    tell: Tell = say,
) -> Submitted:
    """Plans, and has the executor train what is missing. A dry run writes nothing.

    The plan becomes the one in force unless it is for a single run beside it.
    """
    with deciding(executor.planned(spec, settings), folder) as prepared:
        plan, said = prepared.plan, list[str]()
        todo = to_train(prepared, folder, settings, said.append)
        submit = partial(executor.submit, spec, prepared, todo, folder, settings, logger)
        if todo or settings.dry_run:  # else whoever answers says what there is
            for line in said:
                tell(line)
        if not todo or settings.dry_run:
            return submit()
        for warning in pin_sources(spec, folder):
            tell(f"warning: {warning}")
        folder.write_plan(plan)
        try:
            return submit()
        finally:
            if records(folder).arrays:  # of the jobs that there are, some may be refused
                pins = prepared.trainer.pins
                folder.pin({name: pins[name] for name in DECIDED_HERE if name in pins})
                if in_force:
                    folder.put_in_force(plan)


def study_elsewhere(
    executor: Executor,
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    how: Fitting,
    logger: Logger | None = None,
) -> FittedStudy:
    """The study with what is trained of it so far; with its law where that is all."""
    elsewhere = submitted(executor, spec, folder, settings, logger=logger)
    there = executor.planned(spec, settings)
    if not elsewhere.waits:
        study = train_study(there, folder, settings, how, logger=logger)
        return replace(study, spec=spec, num_trained=0)
    for line in elsewhere.lines:
        say(line)
    plan = there.prepare(folder).plan
    runs, _ = folder.runs_of(plan)
    reason = Refusal("no law yet: runs are queued or running; the same call again goes on")
    return FittedStudy(folder, plan, Runs(runs), None, reason, spec)
