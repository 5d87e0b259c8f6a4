"""Results on stdout: a law for people, and JSON for programs."""

from __future__ import annotations

from typing import Any

from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.fitting.methods import in_words
from flops_fit.report import tables
from flops_fit.report.screen import json_text, results


def print_law(law: ScalingLaw) -> None:
    """Verdict, who answers and why, optima, exponents, answers, what weakens them, what to run."""
    console = results()
    console.print(law.diagnostics.verdict, markup=False, soft_wrap=True)
    if law.diagnostics.why:
        said = f"answered by {in_words(law.answer)}: {law.diagnostics.why}"
        console.print(said, markup=False, soft_wrap=True)
    console.print(tables.budgets_table(law))
    for line in tables.law_lines(law):
        console.print(line, markup=False, soft_wrap=True)
    console.print(tables.answers_table(law.answers, law.metric, console.width))
    for finding in law.diagnostics.findings:
        console.print(f"- {finding}", markup=False, soft_wrap=True)
    if law.dropped:
        console.print(f"- {tables.left_out_line(law.dropped)}", markup=False, soft_wrap=True)
    for step in law.diagnostics.advice:
        console.print(f"next: {step}", markup=False, soft_wrap=True)


def print_refusal(refusal: Refusal) -> None:
    """Why there is no law, and what each budget shows."""
    console = results()
    console.print(str(refusal), markup=False, soft_wrap=True)
    if refusal.budgets:
        console.print(tables.refused_budgets_table(refusal))
    if refusal.dropped:
        console.print(f"- {tables.left_out_line(refusal.dropped)}", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document."""
    print(json_text(value))
