"""What repeats are worth by a fit, and what is weak of it, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flops_fit.fitting.contract import Examined
from flops_fit.fitting.points import Points
from flops_fit.fitting.repeated.fit import RepeatedFit
from flops_fit.fitting.repeated.law import RepeatedDraws, RepeatedLaw
from flops_fit.laws.prediction import central_intervals

LOW_AGREEMENT = 0.3
"""Share of starts at the best optimum below which it is called uncertain."""


@dataclass(frozen=True)
class RepeatedNumbers:
    """`most_repeated` is the largest D over U of a run."""

    most_repeated: float

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def examined(
    fit: RepeatedFit, points: Points, law: RepeatedLaw | None, draws: RepeatedDraws | None
) -> Examined:
    """How far repeats help, and what the runs do not determine."""
    if law is None or points.unique_tokens is None:
        return Examined()
    most = float((points.num_tokens / points.unique_tokens).max())
    return Examined(
        numbers=RepeatedNumbers(most),
        findings=(_worth(law, draws, most), *_ending_findings(law)),
        why=f"one law through {len(points)} runs, at {law.unique_tokens:.4g} unique tokens",
    )


def _worth(law: RepeatedLaw, draws: RepeatedDraws | None, most: float) -> str:
    """What endless repeats are worth, and how sure that is."""
    reach, sure = float(law.surface.R_D_star), ""
    if draws is not None:
        low, high = central_intervals(draws.surface.R_D_star)["95"]
        sure = f" (95%: {low:.3g} to {high:.3g})"
    return (
        f"repeated data: R_D* = {reach:.3g}{sure}, so that endless repeats are worth "
        f"{1 + reach:.3g} times the unique tokens; runs saw theirs up to {most:.3g} times"
    )


def _ending_findings(law: RepeatedLaw) -> list[str]:
    found = []
    if law.at_bounds:
        found.append(
            f"{', '.join(law.at_bounds)} ended at a limit: the runs do not determine "
            + ("it" if len(law.at_bounds) == 1 else "them")
        )
    if law.start_agreement < LOW_AGREEMENT:
        found.append(
            f"only {law.start_agreement:.0%} of the starts reached the best optimum of repeated "
            "data: there are several that are nearly as good"
        )
    return found
