"""A law on stdout, for people."""

from __future__ import annotations

from collections.abc import Sequence

from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.answer import Answer
from flops_fit.report import tables
from flops_fit.report.screen import results, show, show_table
from flops_fit.report.summary import Summary, left_out_line


def print_law(law: ScalingLaw, asked: Sequence[Answer] = ()) -> None:
    """The answer, how far it is good and its formulas; the budgets, the predictions; what is weak,
    and what to run next."""
    summary = Summary.of(law, asked)
    for line in (*summary.answers, summary.basis, summary.reach, *summary.formulas):
        if line:
            show(line)
    if law.budgets:
        show_table(tables.budgets_table(law))
        if meaning := tables.verdicts_line(law.budgets):
            show(meaning)
    print_answers(law.answers, law.metric)
    if summary.others:
        show(summary.others)
    for title, lines in (("Weak or worth a look", summary.weak), ("Next", summary.advice)):
        if lines:
            show(f"\n{title}:")
        for line in lines:
            show(line, "- ")


def print_answers(answers: Sequence[Answer], metric: str) -> None:
    """Budget -> N, D and loss with intervals, and what of it can be relied on."""
    show_table(tables.answers_table(answers, metric, results().width))
    show(tables.RELY_ON_MEANS)


def print_refusal(refusal: Refusal) -> None:
    """Why there is no law, and what each budget shows."""
    show(str(refusal))
    if refusal.budgets:
        show_table(tables.refused_budgets_table(refusal))
    if refusal.dropped:
        show(left_out_line(refusal.dropped), "- ")
