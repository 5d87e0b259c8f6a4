"""What a law answers, in sentences that an ML researcher reads: for the screen and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.fitting import ScalingLaw
from flops_fit.fitting.answer import Answer, Reliance
from flops_fit.fitting.contract import OfSurface
from flops_fit.fitting.methods import number_of, short_name
from flops_fit.fitting.metrics import LOSS, label
from flops_fit.fitting.points import Dropped
from flops_fit.laws import LossSurface
from flops_fit.laws.prediction import Intervals, Prediction
from flops_fit.shown import short_flops, short_loss, short_number, span, times

SHOWN_LEVEL = "95"
"""Percent. The interval that is shown; law.json has the others."""

ASKED_BEYOND = 10.0
"""Multiple of the largest budget that is answered where nothing is asked."""

MOST_REASONS = 4
"""Reasons for leaving runs out that a line names."""

BEWARE = {
    Reliance.LOSS_ONLY: "Rely on the loss only.",
    Reliance.SIZE_ONLY: "Rely on N only.",
    Reliance.UNRELIABLE: "Not to be relied on.",
}
"""Said behind an answer that is not good in all."""


@dataclass(frozen=True)
class Summary:
    """Each a sentence or a line: the answers to what was asked, what they rest on and how far they
    are good, the law's formulas, what else is said at the first answer's budget, what is weak or
    was checked, and what to run next."""

    answers: tuple[str, ...]
    basis: str
    reach: str
    formulas: tuple[str, ...]
    others: str
    weak: tuple[str, ...]
    advice: tuple[str, ...]

    @classmethod
    def of(cls, law: ScalingLaw, asked: Sequence[Answer] = ()) -> Summary:
        """`asked` are the law's own answers; by default one beyond the trained budgets."""
        answers = asked or (default_answer(law),)
        why = law.diagnostics.why
        brackets = f"Brackets: {SHOWN_LEVEL}%." if law.draws is not None else ""
        left_out = (left_out_line(law.dropped),) if law.dropped else ()
        return cls(
            answers=tuple(answer_words(answer, law.metric) for answer in answers),
            basis=" ".join(filter(None, (brackets, why and f"{_sentence(why)}."))),
            reach=law.diagnostics.verdict,
            formulas=tuple(formulas(law)),
            others=others_words(answers[0]),
            weak=tuple(map(_sentence, (*law.diagnostics.findings, *left_out))),
            advice=tuple(map(_sentence, law.diagnostics.advice)),
        )


def _sentence(text: str) -> str:
    """With a capital at its start."""
    return f"{text[:1].upper()}{text[1:]}"


def default_answer(law: ScalingLaw) -> Answer:
    """At ten times the largest trained budget where anything holds there, else at that budget."""
    beyond = law.predict(ASKED_BEYOND * law.largest_budget)
    holds = beyond.reliance not in (Reliance.UNRELIABLE, Reliance.UNKNOWN)
    return beyond if holds else law.predict(law.largest_budget)


def answer_words(answer: Answer, metric: str = LOSS) -> str:
    """One answer in a sentence or two, its intervals in brackets."""
    p = answer.prediction
    size, tokens = (in_brackets(p.intervals.get(name)) for name in ("num_params", "num_tokens"))
    loss = short_loss(p.loss) + in_brackets(p.intervals.get("loss"), short_loss)
    n, d = short_number(p.num_params), short_number(p.num_tokens)
    said = (
        f"For {short_flops(p.budget)} FLOPs ({how_far(p)}): N = {n}{size}, D = {d} tokens{tokens}, "
        f"D/N = {p.tokens_per_param:.3g}, {label(metric)} {loss}."
    )
    return " ".join(filter(None, (said, BEWARE.get(answer.reliance))))


def how_far(p: Prediction) -> str:
    """A budget beside the largest trained one."""
    if np.isclose(p.extrapolation, 1, rtol=1e-3):
        return "your largest budget"
    return f"{times(p.extrapolation)} your largest budget"


def others_words(answer: Answer) -> str:
    """What the other methods say at its budget, where that was not trained."""
    if answer.extrapolation <= 1 or not answer.others:
        return ""
    said = ", ".join(
        f"{short_name(other.method)} N {short_number(other.num_params)}, loss "
        f"{short_loss(other.loss)}"
        for other in answer.others
    )
    return f"By single methods at {short_flops(answer.budget)}: {said}."


def formulas(law: ScalingLaw) -> Iterator[str]:
    """The loss surface where there is one, and N_opt over the trained budgets."""
    for method, found in law.fits.laws.items():
        if isinstance(found, OfSurface) and isinstance(found.surface, LossSurface):
            yield f"{surface_formula(found.surface)}  ({number_of(method)})"
    a = law.fits.laws[law.answer].a
    scale = float(law.law.N_opt(law.largest_budget)) / law.largest_budget**a
    yield f"N_opt = {scale:.3g} C^{exponent(law, law.answer)}  ({number_of(law.answer)})"
    others = [
        f"by {number_of(method)} C^{exponent(law, method)}"
        for method in law.fits.laws
        if method != law.answer
    ]
    if others:
        yield f"        {', '.join(others)}"


def surface_formula(surface: LossSurface) -> str:
    """L(N, D) with its numbers."""
    mixed = f" N^{surface.kappa:.3f}" if surface.kappa else ""
    return (
        f"L = {surface.E:.4g} + {surface.A:.4g}/N^{surface.alpha:.3f} + "
        f"{surface.B:.4g}{mixed}/D^{surface.beta:.3f}"
    )


def exponent(law: ScalingLaw, method: str) -> str:
    """The exponent of N_opt in C by `method`, with its interval."""
    bounds = law.intervals.get(f"{method}.a", {}).get(SHOWN_LEVEL)
    shown = f" ({bounds[0]:.3f}-{bounds[1]:.3f})" if bounds else ""
    return f"{law.fits.laws[method].a:.3f}{shown}"


def in_brackets(
    intervals: Intervals | None, shown: Callable[[float], str] = short_number, unit: float = 1
) -> str:
    """The interval behind a value, in 1/`unit`; nothing without one."""
    bounds = (intervals or {}).get(SHOWN_LEVEL)
    return f" ({span(unit * bounds[0], unit * bounds[1], shown)})" if bounds else ""


def left_out_line(dropped: Sequence[Dropped]) -> str:
    """Which runs the fit does not use, and why; law.json lists each."""
    reasons = Counter(one.reason for one in dropped)
    first = {one.reason: one.id for one in reversed(dropped)}
    shown = [
        f"{first[reason]} ({reason})" if count == 1 else f"{count} runs ({reason})"
        for reason, count in reasons.most_common(MOST_REASONS)
    ]
    more = len(reasons) - len(shown)
    return f"left out: {', '.join(shown)}" + (f", and for {more} more reasons" if more else "")
