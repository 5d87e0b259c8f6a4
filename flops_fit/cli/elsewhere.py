"""What `train` and `verify` say of runs that they leave to others, or would train."""

from __future__ import annotations

from flops_fit.cli.exit_codes import OK
from flops_fit.report.documents import print_json
from flops_fit.report.screen import results, say
from flops_fit.settings import PlaceSettings, SweepSettings
from flops_fit.store.folder import StudyFolder, missing_beside
from flops_fit.store.protocols import Spec, Submitted
from flops_fit.study.sweeps import retried, tell_what_is_there


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
    plan = spec.prepare(folder).plan
    runs, problems = folder.runs_of(plan)
    missing = missing_beside(runs, plan, retried(settings))
    tell_what_is_there(plan, problems, len(missing), say)
    say("dry_run=true: nothing was trained")
    return OK
