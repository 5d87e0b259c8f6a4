"""Plan here what is trained elsewhere."""

from __future__ import annotations

from dataclasses import replace

from flops_fit.fitting import Refusal
from flops_fit.report.screen import say
from flops_fit.settings import Kind, SweepSettings, names_of
from flops_fit.store.folder import StudyFolder, missing_beside
from flops_fit.store.protocols import Executor, Spec, Submitted
from flops_fit.study.fits import FittedStudy, Fitting, Tell
from flops_fit.study.jobs import records
from flops_fit.study.runs import Runs
from flops_fit.study.sweeps import (
    SOURCE_WARNING,
    pin_sources,
    retried,
    tell_what_is_there,
    train_study,
)

DECIDED_HERE = names_of(SweepSettings, lambda s: s.kind is Kind.PINNED and s.in_id)
"""What of a study's pins its plan needs; all else is decided by what trains first."""


def submitted(
    executor: Executor,
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    *,
    in_force: bool = True,
    tell: Tell = say,
) -> Submitted:
    """Plans, and has the executor train what is missing. A dry run writes nothing.

    The plan becomes the one in force unless it is for a single run beside it.
    """
    there = executor.planned(spec, settings)
    with folder.deciding():
        prepared = there.prepare(folder)
        plan = prepared.plan
        runs, problems = folder.runs_of(plan)
        todo = missing_beside(runs, plan, retried(settings))
        tell_what_is_there(plan, problems, len(todo), tell)
        if todo and prepared.trains_with:
            tell(f"trains with {prepared.trains_with}")
        if settings.dry_run:
            return executor.submit(spec, prepared, todo, folder, settings)
        for changed in pin_sources(spec, folder):
            tell(f"warning: {SOURCE_WARNING.format(changed)}")
        folder.write_plan(plan)
        try:
            return executor.submit(spec, prepared, todo, folder, settings)
        finally:
            if records(folder).arrays:  # of the jobs that there are, some may be refused
                pins = prepared.trainer.pins
                folder.pin({name: pins[name] for name in DECIDED_HERE if name in pins})
                if in_force:
                    folder.put_in_force(plan)


def study_elsewhere(
    executor: Executor, spec: Spec, folder: StudyFolder, settings: SweepSettings, how: Fitting
) -> FittedStudy:
    """The study with what is trained of it so far; with its law where that is all."""
    elsewhere = submitted(executor, spec, folder, settings)
    there = executor.planned(spec, settings)
    if not elsewhere.waits:
        return replace(train_study(there, folder, settings, how), spec=spec, num_trained=0)
    for line in elsewhere.lines:
        say(line)
    plan = there.prepare(folder).plan
    runs, _ = folder.runs_of(plan)
    reason = Refusal("no law yet: runs are queued or running; the same call again goes on")
    return FittedStudy(folder, plan, Runs(runs), None, reason, spec)
