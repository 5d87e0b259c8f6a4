"""Runs that `train` and `verify` leave to others, or would train."""

from __future__ import annotations

from flops_fit.cli.exit_codes import OK
from flops_fit.executors.elsewhere import submitted
from flops_fit.report.documents import print_json
from flops_fit.report.screen import results, say
from flops_fit.settings import PlaceSettings, SweepSettings
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Executor, Logger, Spec, Submitted
from flops_fit.study.sweeps import to_train


def left_to_others(
    executor: Executor | None,
    spec: Spec,
    folder: StudyFolder,
    settings: SweepSettings,
    logger: Logger | None,
    *,
    in_force: bool = True,
) -> int | None:
    """The exit code of a command whose runs an executor trains, or that should train nothing; None
    where this process is to train, and to answer."""
    if executor is None:
        return tell_dry(spec, folder, settings) if settings.dry_run else None
    taken = submitted(executor, spec, folder, settings, logger=logger, in_force=in_force)
    return show_submitted(taken, settings) if taken.waits or settings.dry_run else None


def planned_by(executor: Executor | None, spec: Spec, settings: SweepSettings) -> Spec:
    """The same, planned as the executor's runs were."""
    return spec if executor is None else executor.planned(spec, settings)


def show_submitted(what: Submitted, settings: SweepSettings) -> int:
    """What was submitted and how to go on, or what would be."""
    for line in what.lines:
        say(line)
    if settings.json:
        print_json(what.to_json())
        return OK
    for script in what.scripts:
        results().print(script, soft_wrap=True)
    if settings.dry_run:
        say("dry_run=true: nothing was submitted")
        return OK
    study = f"study={settings.study}"
    if settings.output_root != PlaceSettings.output_root:
        study += f" output_root={settings.output_root}"
    say("the same command again answers when all is done, and submits what is missing then")
    say(f"how far it is: flops-fit status {study}")
    say(f"to end the jobs: flops-fit cancel {study}")
    return OK


def tell_dry(spec: Spec, folder: StudyFolder, settings: SweepSettings) -> int:
    """What would be trained on this machine."""
    to_train(spec.prepare(folder), folder, settings, say)
    say("dry_run=true: nothing was trained")
    return OK
