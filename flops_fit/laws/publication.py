"""A scaling law as its source gives it: what it says, what it stands on, and how far it reaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from flops_fit.errors import UserError
from flops_fit.files import plain
from flops_fit.laws.law import Array, FlopRule, LossSurface, PowerLaw
from flops_fit.laws.prediction import (
    Interval,
    budget_for_num_params,
    check_budget,
    check_optimum,
)
from flops_fit.shown import short_flops, short_number, significant


@dataclass(frozen=True)
class Exponent:
    """The exponent a of N_opt ~ C^a as printed; `interval` at `level` percent, if there is one."""

    a: float
    interval: Interval | None = None
    level: float | None = None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.a:g}"
        low, high = self.interval
        return f"{self.a:g} ({self.level:g}%: {low:g} to {high:g})"


@dataclass(frozen=True)
class Trained:
    """What a law was fitted to: smallest and largest budget (FLOPs), or size."""

    budgets: Interval | None = None
    num_params: Interval | None = None

    def __str__(self) -> str:
        low, high = self.budgets or self.num_params or (0.0, 0.0)
        if self.budgets:
            return f"{short_flops(low)} to {short_flops(high)} FLOPs"
        return f"{short_number(low)} to {short_number(high)} parameters"


@dataclass(frozen=True)
class Publication:
    """Where a law stands and what its letters mean.

    `counts` is what N counts, `data` what was trained on, `loss_unit` that of the law's loss (None:
    it tells no loss, or none is kept here). `note` is what else to know of the numbers.
    """

    name: str
    aliases: tuple[str, ...]
    source: str
    counts: str
    data: str
    exponent: Exponent
    trained: Trained
    loss_unit: str | None = None
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    def __str__(self) -> str:
        """What a prediction by it stands on, in a line."""
        loss = f"loss in {self.loss_unit} on" if self.loss_unit else "no loss; trained on"
        return (
            f"{self.name}: {self.source}; N counts {self.counts}; {loss} {self.data}; fitted at "
            f"{self.trained}; N_opt ~ C^{self.exponent}"
        )

    def to_json(self) -> dict[str, Any]:
        return {**plain(vars(self)), "trained": str(self.trained), "exponent": str(self.exponent)}


@dataclass(frozen=True)
class PublishedOptima:
    """A published law of N_opt and D_opt alone, both power laws of C in FLOPs: it knows no loss."""

    publication: Publication
    N: PowerLaw
    D: PowerLaw

    def N_opt(self, flops: ArrayLike) -> Array:
        return self.N(flops)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.D(flops)


@dataclass(frozen=True)
class PublishedSurface:
    """A published loss surface L(N, D) with C = 6ND: it answers all that a fitted law does."""

    publication: Publication
    surface: LossSurface

    @property
    def flop_rule(self) -> FlopRule:
        return FlopRule.constant()

    def __call__(self, num_params: ArrayLike, num_tokens: ArrayLike) -> Array:
        return self.surface(num_params, num_tokens)

    def tokens_to_reach(self, loss: ArrayLike, num_params: float) -> Array:
        return self.surface.tokens_to_reach(loss, num_params)

    def N_opt(self, flops: ArrayLike) -> Array:
        return self.surface.N_opt(flops, self.flop_rule)

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return self.surface.loss_opt(flops, self.flop_rule)


PublishedLaw = PublishedOptima | PublishedSurface


@dataclass(frozen=True)
class PublishedPrediction:
    """The optimum at `budget` FLOPs by a published law; no `loss` where it knows none."""

    law: str
    budget: float
    num_params: float
    num_tokens: float
    tokens_per_param: float
    loss: float | None
    warning: str | None

    def to_json(self) -> dict[str, Any]:
        return plain(vars(self))


def predict_published(law: PublishedLaw, budget: float) -> PublishedPrediction:
    """The optimum of a published law.

    Raises `UserError` for what is no number of FLOPs, `NoSuchRun` for what no run can be.
    """
    check_budget(budget)
    num_params, num_tokens = float(law.N_opt(budget)), float(law.D_opt(budget))
    loss = float(law.loss_opt(budget)) if isinstance(law, PublishedSurface) else None
    whose = f"{law.publication.name}, fitted at {law.publication.trained},"
    check_optimum(whose, budget, num_params, num_tokens, loss)
    return PublishedPrediction(
        law=law.publication.name,
        budget=float(budget),
        num_params=num_params,
        num_tokens=num_tokens,
        tokens_per_param=num_tokens / num_params,
        loss=loss,
        warning=outside_warning(law, budget),
    )


def trained_budgets(law: PublishedLaw) -> Interval:
    """Smallest and largest budget (FLOPs): as told, else those that make the trained sizes best."""
    trained = law.publication.trained
    if trained.budgets:
        return trained.budgets
    if trained.num_params is None:
        raise UserError(f"{law.publication.name} says neither budgets nor sizes it was trained at")
    low, high = trained.num_params
    return budget_for_num_params(law, low), budget_for_num_params(law, high)


def outside_warning(law: PublishedLaw, budget: float) -> str | None:
    """A sentence where `budget` lies outside what the law was fitted to, else None."""
    low, high = trained_budgets(law)
    if low <= budget <= high:
        return None
    off = f"{significant(max(budget / high, low / budget), 3)} times "
    off += "above" if budget > high else "below"
    return (
        f"{short_flops(budget)} FLOPs is {off} what {law.publication.name} was fitted to "
        f"({law.publication.trained})"
    )
