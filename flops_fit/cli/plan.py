"""`flops-fit plan`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from flops_fit.building.from_config import build_spec, executor_of
from flops_fit.building.node import Origins
from flops_fit.cli.elsewhere import planned_by
from flops_fit.cli.exit_codes import OK
from flops_fit.cli.groups import USER_CONFIGS
from flops_fit.cli.words import split_flags
from flops_fit.plan.proposal import Proposal
from flops_fit.report import tables
from flops_fit.report.documents import print_json
from flops_fit.report.screen import results, say, show, show_table
from flops_fit.settings import PlaceSettings, PlanningSettings
from flops_fit.store.folder import StudyFolder
from flops_fit.study.sweeps import Proposed, plan_study, propose_study
from flops_fit.training.hardware import named


def plan(settings: PlanningSettings, origins: Origins) -> int:
    """Plan, show, and write plan.json; without budgets propose some, and write nothing."""
    hardware = None if settings.machine is None else named(settings.machine)
    spec, executor = build_spec(settings, origins), executor_of(settings, origins)
    spec = planned_by(executor, spec, settings)
    if not settings.budgets:
        proposed = propose_study(spec, study_folder(settings), settings, hardware)
        show_proposal(proposed, words_to_train(proposed.proposal), as_json=settings.json)
        return OK
    planned = plan_study(spec, study_folder(settings), settings, hardware)
    estimate = planned.estimate
    if settings.json:
        print_json({**planned.plan.to_json(), "estimate": estimate.to_json()})
    else:
        show_table(tables.plan_table(planned.plan, results().width))
        if any(e.counted_over_formula is not None for e in planned.plan.experiments):
            show(tables.OVER_FORMULA_MEANS)
        show(str(planned.plan))
    for note in (*planned.plan.notes, *estimate.notes):
        say(f"note: {note}")
    if planned.trains_with:
        say(f"trains with {planned.trains_with}")
    for line in (estimate.largest_step, estimate.duration):
        if line:
            say(line)
    say(f"plan: {planned.path}")
    return OK


def show_proposal(proposed: Proposed, command: str, *, as_json: bool) -> None:
    """What the budgets would train, how long that takes, and the command that does."""
    proposal, estimate = proposed.proposal, proposed.estimate
    if as_json:
        print_json(
            {
                "proposal": proposal.settings,
                "command": command,
                **proposal.plan.to_json(),
                "estimate": estimate.to_json(),
            }
        )
    else:
        show_table(tables.proposal_table(proposal.plan, estimate.by_budget, results().width))
    for note in proposed.notes:
        say(f"note: {note}")
    for line in (estimate.largest_step, estimate.duration):
        if line:
            say(line)
    if not as_json:
        say("budgets that data and sizes carry; to train them:")
        results().print(command, soft_wrap=True)


def words_to_train(proposal: Proposal) -> str:
    """The command line as it was given, with what is proposed, for `train`."""
    flags, words = split_flags(sys.argv[1:])
    replaced = {"machine", "json", *proposal.settings}
    kept = [word for word in words if word.partition("=")[0].lstrip("+") not in replaced]
    flags = [] if flags == ["--config-dir", USER_CONFIGS] else flags
    return shlex.join(["flops-fit", "train", *flags, *kept, *proposal.overrides])


def study_folder(settings: PlaceSettings) -> StudyFolder:
    """Where the study's files lie."""
    return StudyFolder(Path(settings.output_root) / settings.study)
