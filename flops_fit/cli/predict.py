"""`flops-fit predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flops_fit.building.node import Origins
from flops_fit.cli.exit_codes import OK
from flops_fit.settings import PredictSettings
from flops_fit.shown import short_flops

if TYPE_CHECKING:
    from flops_fit.study.predictions import Target


def predict(settings: PredictSettings, origins: Origins) -> int:
    """The optimum for what is asked, by a published law or that of the study.

    Each half imports what it needs: a published law answers in half the time.
    """
    if settings.law is not None:
        from flops_fit.cli.reference import predict_by_reference

        return predict_by_reference(settings.law, settings)
    return predict_by_study(settings)


def predict_by_study(settings: PredictSettings) -> int:
    """The optimum by the law of the study, and the run that comes closest."""
    from flops_fit.report.documents import print_json
    from flops_fit.report.printing import print_answers
    from flops_fit.report.screen import say, show
    from flops_fit.report.summary import Summary
    from flops_fit.study.found import fitted_study, read_law, stands_on
    from flops_fit.study.predictions import asked_predictions, target

    folder = fitted_study(settings.study, settings.output_root)
    law = read_law(folder)
    say(f"study: {folder.path}, by its latest answer: a law of {stands_on(law)}")
    asked = asked_predictions(law, settings)
    targets = [target(law, p, settings.instead, folder) for p in asked]
    if settings.json:
        shown = [t.to_json() for t in targets] or [a.to_json() for a in law.answers]
        print_json({"verdict": law.diagnostics.verdict, "predictions": shown})
    else:
        summary = Summary.of(law, asked)
        for line in (*summary.answers, summary.basis, summary.reach, summary.others):
            if line:
                show(line)
        if len(asked) != 1:  # one stands in its sentence
            print_answers(asked or law.answers, law.metric)
    for one in targets:
        say_target(one, law.metric)
    return OK


def say_target(target: Target, metric: str) -> None:
    """What is said of a target beside its row in the table."""
    from flops_fit.report import tables
    from flops_fit.report.screen import say, say_command

    say(f"near {short_flops(target.answer.budget)} FLOPs: {target.answer.formula}")
    if target.band is not None:
        say(tables.band_line(target.band))
    if target.other is not None:
        say(tables.cost_line(target.other, target.answer.budget, metric))
    if target.run is not None:
        say(f"{target.run.config}")
        say_command(f"to train it: {target.run.command}")
    for note in target.notes:
        say(note)
