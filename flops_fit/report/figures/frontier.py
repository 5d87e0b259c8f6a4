"""The best loss against compute, with the runs below it and the forecasts put to the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flops_fit.answers.verification import Verification
from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.methods import in_words, number_of
from flops_fit.fitting.metrics import label
from flops_fit.laws import Array
from flops_fit.laws.prediction import Interval
from flops_fit.plan.run import Run
from flops_fit.report.figures.frames import Frame, frame
from flops_fit.report.figures.marks import (
    Axis,
    Mark,
    Panel,
    Picture,
    Points,
    Rule,
    Shown,
    Symbol,
    column,
)
from flops_fit.report.figures.optima import (
    TRAINED,
    band,
    line_in_two,
    reach_of_lines,
    trained_range,
)
from flops_fit.report.figures.runs import BAR, Measured, measured
from flops_fit.report.figures.style import OTHERS, budget_role
from flops_fit.report.summary import SHOWN_LEVEL
from flops_fit.shown import short_loss, span


def frontier(
    runs: Sequence[Run], answer: ScalingLaw | Refusal, verifications: Sequence[Verification] = ()
) -> Picture | None:
    """Loss against C: runs, the budgets' minima, the law with its interval, what was verified.

    None where no run has a loss, or all are of one budget and there is no law.
    """
    known = measured(runs, answer)
    is_one = len({run.budget for run in known.runs}) == 1 and bool(known.budgets)
    if not known.runs or (is_one and isinstance(answer, Refusal)):
        return None
    marks: list[Mark] = []
    values = [column([run.loss for run in known.runs])]
    if isinstance(answer, ScalingLaw):
        marks = _lines(runs, answer)
        values.append(_ends(runs, answer))
    told = [v for v in verifications if v.prediction.loss > 0]
    tested = column([x for v in told for x in (v.measured, v.prediction.loss)])
    keep = np.concatenate([*values[1:], tested]) if told or values[1:] else None
    shown = frame(np.concatenate([*values, tested]), keep=keep)
    stars = [_star(known, answer, shown)] if answer.budgets else []
    return Picture(
        name="loss",
        title=f"{label(answer.metric).capitalize()} against compute",
        caption=" ".join(_caption(answer, told)),
        panels=(
            Panel(
                Axis("training compute C, FLOPs", Shown.FLOPS),
                Axis(known.loss_label, Shown.PLAIN, shown.is_log, shown.limits),
                (*_runs(known, shown), *marks, *stars, *_tested(told)),
                shown.notes,
            ),
        ),
    )  # fmt: skip


def _caption(answer: ScalingLaw | Refusal, told: Sequence[Verification]) -> Iterator[str]:
    """How the figure is read."""
    yield "Points are runs" + (", stars the minima of budgets." if answer.budgets else ".")
    if isinstance(answer, ScalingLaw):
        yield (
            "The line is the best that compute can buy, dashed beyond what was trained, its band "
            f"the {SHOWN_LEVEL}% interval."
        )
    if told:
        yield "Diamonds: runs trained to test a forecast that had been written down."


def _ends(runs: Sequence[Run], law: ScalingLaw) -> Array:
    """The best loss where the line begins and where it ends."""
    flops = reach_of_lines(trained_range(runs, law))
    return np.asarray(law.law.loss_opt(flops[[0, -1]]))


def _lines(runs: Sequence[Run], law: ScalingLaw) -> list[Mark]:
    trained = trained_range(runs, law)
    flops = reach_of_lines(trained)
    marks: list[Mark] = []
    if law.draws is not None:
        marks.append(band(flops, law.draws.loss_opt, "answer"))
    others = [method for method in law.fits.laws if method != law.answer]
    for method, colour in zip(others, OTHERS, strict=False):
        loss = np.asarray(law.of(method).loss_opt(flops))
        marks += line_in_two(flops, loss, trained, colour, in_words(method))
    answer = np.asarray(law.law.loss_opt(flops))
    name = f"answer ({number_of(law.answer)})"
    marks += line_in_two(flops, answer, trained, "answer", name, width=2.0)
    return [*marks, Rule(law.largest_budget, is_vertical=True, label=TRAINED)]


def _runs(known: Measured, shown: Frame) -> list[Mark]:
    """All runs, in the colours of their budgets."""
    marks: list[Mark] = []
    for budget in known.budgets:
        mine = known.where(lambda run, c=budget: run.budget == c)  # type: ignore[misc]
        for runs, symbol in (
            ([run for run in mine if run.id in known.used], Symbol.DOT),
            ([run for run in mine if run.id not in known.used], Symbol.HOLLOW),
        ):
            colour = budget_role(budget, known.budgets)
            marks += known.points(runs, _flops, colour, symbol, frame=shown)
    others = known.where(lambda run: run.budget not in known.budgets)
    used = [run for run in others if run.id in known.used]
    left_out = [run for run in others if run.id not in known.used]
    marks += known.points(
        used, _flops, known.others_colour, Symbol.DOT, _name_of_others(known) if used else "", shown
    )
    name = "left out of the fit" if left_out else ""
    marks += known.points(left_out, _flops, "muted", Symbol.HOLLOW, name, shown)
    return marks


def _name_of_others(known: Measured) -> str:
    return "runs at other compute" if known.budgets else "runs"


def _star(known: Measured, answer: ScalingLaw | Refusal, shown: Frame) -> Points:
    """The minima of the budgets that can be trusted."""
    found = [b for b in answer.budgets if b.is_bracketed]
    return Points(
        x=column([b.flops for b in found]),
        y=column([b.loss for b in found]),
        colour="answer",
        symbol=Symbol.STAR,
        name="minimum of a budget" if found else "",
        texts=[f"minimum at {b.budget:.3g} FLOPs" for b in found],
    )


def _tested(verifications: Sequence[Verification]) -> list[Mark]:
    """What was measured, and the forecast with its interval."""
    if not verifications:
        return []
    flops = column([v.prediction.budget for v in verifications])
    bounds = [v.prediction.intervals.get("loss", {}).get(SHOWN_LEVEL) for v in verifications]
    said = Points(
        x=flops,
        y=column([v.prediction.loss for v in verifications]),
        colour="warning",
        symbol=Symbol.HOLLOW,
        name="forecast",
        y_bars=np.array([b or (np.nan, np.nan) for b in bounds]),
        texts=[
            f"forecast for {v.run_id}{f', 95%: {_bounds(b)}' if b else ''}"
            for v, b in zip(verifications, bounds, strict=True)
        ],
    )
    spread = column([v.stderr for v in verifications])
    loss = column([v.measured for v in verifications])
    measured_there = Points(
        x=flops,
        y=loss,
        colour="warning",
        symbol=Symbol.DIAMOND,
        name="measured there afterwards",
        y_bars=np.stack([loss - BAR * spread, loss + BAR * spread], axis=1),
        texts=[f"{v.run_id}: forecast {v.error:+.2%} off" for v in verifications],
    )
    return [said, measured_there]


def _bounds(interval: Interval) -> str:
    return span(*interval, short_loss)


def _flops(run: Run) -> float:
    return run.flops
