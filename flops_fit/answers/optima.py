"""A study beside a published law, or two of these: N_opt, D_opt and tokens per parameter.

Losses are told only of two published laws in one unit, with a warning where their data differ: no
file can say that a study measured on the held-out data and with the tokenizer of a publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any

import numpy as np

from flops_fit.answers.comparison import (
    BEYOND,
    COMPARISON_VERSION,
    SAME_BUDGET,
    Contender,
    Estimate,
    unanswered,
)
from flops_fit.files import plain
from flops_fit.laws import Array, LawDraws, Optima
from flops_fit.laws.prediction import (
    PLAUSIBLE_D,
    PLAUSIBLE_N,
    NoSuchRun,
    central_intervals,
    check_optimum,
)
from flops_fit.laws.publication import (
    PublishedLaw,
    PublishedSurface,
    outside_warning,
    trained_budgets,
)
from flops_fit.shown import short_flops

PLAUSIBLE_RATIO = (1e-6, 1e9)
"""Tokens per parameter of any run that can be: a thousand times beyond those there are."""

NO_LOSSES = (
    "no losses: they can be compared only on the same held-out data with the same tokenizer, which "
    "no published law is known to share with a study of yours"
)
NO_LOSS_KNOWN = "no losses: not both of the laws tell one"
LOSSES_OF_ONE_UNIT = "losses are in {unit}, each on the held-out data of its own source"


@dataclass(frozen=True)
class Side:
    """One law, under the name it was asked by, and the budgets (FLOPs) it was trained at."""

    name: str
    law: Optima
    draws: LawDraws | None
    budgets: tuple[float, ...]
    published: PublishedLaw | None

    @classmethod
    def of_study(cls, study: Contender) -> Side:
        return cls(study.name, study.law, study.draws, study.budgets, None)

    @classmethod
    def of_publication(cls, name: str, law: PublishedLaw) -> Side:
        return cls(name, law, None, trained_budgets(law), law)

    @property
    def counts(self) -> str:
        """What N counts."""
        return (
            self.published.publication.counts if self.published else "what its runs call num_params"
        )

    @property
    def has_loss(self) -> bool:
        return isinstance(self.published, PublishedSurface)

    def to_json(self) -> dict[str, Any]:
        published = self.published and self.published.publication.to_json()
        budgets = list(self.budgets)
        return {"name": self.name, "budgets": budgets, "counts": self.counts, "law": published}


@dataclass(frozen=True)
class OptimumAt:
    """The optimum of one law at one budget; without draws no intervals, without a loss None."""

    num_params: Estimate
    num_tokens: Estimate
    tokens_per_param: Estimate
    loss: float | None

    @classmethod
    def of(cls, side: Side, budget: float, *, with_loss: bool) -> OptimumAt:
        """Raises `NoSuchRun` where no run can be that."""
        num_params, num_tokens = float(side.law.N_opt(budget)), float(side.law.D_opt(budget))
        check_optimum(f"the law of {side.name}", budget, num_params, num_tokens)
        draws_n, draws_d = _draws(side, budget)
        surface = side.published if with_loss else None
        return cls(
            Estimate(num_params, central_intervals(draws_n, PLAUSIBLE_N)),
            Estimate(num_tokens, central_intervals(draws_d, PLAUSIBLE_D)),
            Estimate(
                num_tokens / num_params, central_intervals(draws_d / draws_n, PLAUSIBLE_RATIO)
            ),
            float(surface.loss_opt(budget)) if isinstance(surface, PublishedSurface) else None,
        )


@dataclass(frozen=True)
class OptimaRow:
    """Both optima at one budget (FLOPs), who was trained there, and N_opt of B over that of A."""

    budget: float
    trained_in: tuple[str, ...]
    a: OptimumAt
    b: OptimumAt
    ratio: float


@dataclass(frozen=True)
class OptimaComparison:
    """What `compare_optima` found; `losses` says why there are none, or what they are."""

    a: Side
    b: Side
    verdict: str
    losses: str
    warnings: tuple[str, ...]
    rows: tuple[OptimaRow, ...]

    def to_json(self) -> dict[str, Any]:
        """As docs/law-json.md describes it."""
        return {
            "schema_version": COMPARISON_VERSION,
            "verdict": self.verdict,
            "losses": self.losses,
            "warnings": list(self.warnings),
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "rows": [plain(vars(row)) for row in self.rows],
        }


def compare_optima(a: Side, b: Side) -> OptimaComparison:
    """N_opt, D_opt and tokens per parameter of both, where they were trained and beyond.

    Raises `NoSuchRun` where at all these budgets one of the laws has no answer.
    """
    rows, refusal = [], None
    budgets = budgets_of(a, b)
    for budget in budgets:
        try:
            rows.append(_row(a, b, budget))
        except NoSuchRun as error:
            refusal = error
    if not rows and refusal:
        raise refusal
    left_out = unanswered(budgets, [row.budget for row in rows])
    warnings = (*_warnings(a, b), *left_out)
    return OptimaComparison(a, b, _verdict(a, b, rows), _on_losses(a, b), warnings, tuple(rows))


def _row(a: Side, b: Side, budget: float) -> OptimaRow:
    with_loss = a.has_loss and b.has_loss
    return OptimaRow(
        budget,
        tuple(side.name for side in (a, b) if _has_trained(side, budget)),
        OptimumAt.of(a, budget, with_loss=with_loss),
        OptimumAt.of(b, budget, with_loss=with_loss),
        float(b.law.N_opt(budget) / a.law.N_opt(budget)),
    )


def budgets_of(a: Side, b: Side) -> list[float]:
    """Those of the studies and `BEYOND`; of two publications the decades that both span."""
    studies = [side for side in (a, b) if side.published is None]
    found = sorted({budget for side in studies for budget in side.budgets})
    if not found:
        low, high = min(a.budgets[0], b.budgets[0]), max(a.budgets[-1], b.budgets[-1])
        found = [10.0**k for k in range(floor(log10(low)), ceil(log10(high)) + 1)]
    distinct = [y for x, y in pairwise([0.0, *found]) if y > SAME_BUDGET * x]
    return distinct + [multiple * distinct[-1] for multiple in BEYOND]


def _draws(side: Side, budget: float) -> tuple[Array, Array]:
    """N_opt and D_opt of every draw, (draws,); (0,) without draws."""
    if side.draws is None:
        return np.empty(0), np.empty(0)
    return side.draws.N_opt(budget), side.draws.D_opt(budget)


def _has_trained(side: Side, budget: float) -> bool:
    return side.budgets[0] / SAME_BUDGET <= budget <= side.budgets[-1] * SAME_BUDGET


def _on_losses(a: Side, b: Side) -> str:
    """Why there are no losses, or what those that are shown mean."""
    if a.published is None or b.published is None:
        return NO_LOSSES
    if not (a.has_loss and b.has_loss):
        return NO_LOSS_KNOWN
    return LOSSES_OF_ONE_UNIT.format(unit=a.published.publication.loss_unit)


def _warnings(a: Side, b: Side) -> tuple[str, ...]:
    """What stands between the two laws."""
    found = []
    if a.counts != b.counts:
        found += [f"N of {side.name} counts {side.counts}" for side in (a, b)]
    data = [s.published.publication.data for s in (a, b) if s.published and s.has_loss]
    if len({*data}) == 2:
        found.append(
            f"{a.name} was measured on {data[0]}, {b.name} on {data[1]}: their losses don't say "
            "which is better"
        )
    return (*found, *_out_of_reach(a, b), *_out_of_reach(b, a))


def _out_of_reach(study: Side, reference: Side) -> list[str]:
    """A warning where the largest budget of a study is none that a publication was fitted to."""
    if study.published or not reference.published:
        return []
    text = outside_warning(reference.published, study.budgets[-1])
    return [text] if text else []


def _verdict(a: Side, b: Side, rows: Sequence[OptimaRow]) -> str:
    """N_opt of B against that of A, where A is trained and beyond."""
    trained = [row for row in rows if row.trained_in]
    first, last = (trained or rows)[-1], rows[-1]
    return (
        f"at {short_flops(first.budget)} FLOPs {_in_words(a, b, first)}; at "
        f"{short_flops(last.budget)} FLOPs {_in_words(a, b, last)}"
    )


def _in_words(a: Side, b: Side, row: OptimaRow) -> str:
    """How far apart both are at one budget."""
    per_param = f"{row.b.tokens_per_param.value:.3g} tokens per parameter, not "
    per_param += f"{row.a.tokens_per_param.value:.3g}"
    return f"the best model of {b.name} is {row.ratio:.2g} times that of {a.name} ({per_param})"
