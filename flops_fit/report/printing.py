"""Results on stdout: a law for people, and JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.laws.prediction import Prediction
from flops_fit.report import tables
from flops_fit.report.screen import results


def print_law(law: ScalingLaw) -> None:
    """Verdict, optima, exponents, predictions, and what weakens them."""
    console = results()
    console.print(law.diagnostics.verdict, markup=False, soft_wrap=True)
    console.print(tables.budgets_table(law))
    for line in tables.law_lines(law):
        console.print(line, markup=False, soft_wrap=True)
    console.print(tables.predictions_table(shown_predictions(law), law.metric))
    for finding in law.diagnostics.findings:
        console.print(f"- {finding}", markup=False, soft_wrap=True)
    if law.dropped:
        console.print(f"- {tables.left_out_line(law.dropped)}", markup=False, soft_wrap=True)


def print_refusal(refusal: Refusal) -> None:
    """Why there is no law, and what each budget shows."""
    console = results()
    console.print(str(refusal), markup=False, soft_wrap=True)
    if refusal.budgets:
        console.print(tables.refused_budgets_table(refusal))
    if refusal.dropped:
        console.print(f"- {tables.left_out_line(refusal.dropped)}", markup=False, soft_wrap=True)


def shown_predictions(law: ScalingLaw) -> list[Prediction]:
    """Those of the method that answers, and beyond the trained budgets the others' beside them."""
    shown = [p for p in law.predictions if p.method == law.answer or p.extrapolation > 1]
    return sorted(shown, key=lambda p: (p.budget, p.method != law.answer))


def print_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))
