"""A law known only by what it answers: a table over compute, for laws of any shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.fitting.errors import FitError
from flops_fit.laws import Array, FlopRule, Law, exponent_between, finite_exp
from flops_fit.records import of_type

BELOW, BEYOND = 10.0, 1e4
"""The table reaches from the smallest budget / 10 to 10,000 times the largest."""

PER_DECADE = 24
"""Entries. Straight lines between them are off by 1e-5 where the exponent changes by 0.01 from one
e-fold of compute to the next."""

TABLES = ("log_flops", "log_num_params", "log_loss")

SAME_FLOPS = 1e-3
"""Relative difference between a budget and what its optimum costs by the FLOP rule that is still
taken for rounding."""


@dataclass(frozen=True)
class TabulatedLaw:
    """ln N_opt and ln loss at rising ln C, (G,) each, straight lines between and beyond.

    D follows by the FLOP rule. `budgets` are the smallest and largest trained ones, FLOPs.
    """

    log_flops: Array
    log_num_params: Array
    log_loss: Array
    budgets: tuple[float, float]
    flop_rule: FlopRule

    @classmethod
    def of(cls, law: Law, name: str, budgets: tuple[float, float], rule: FlopRule) -> TabulatedLaw:
        """What `law` answers. Raises `FitError` where it is no law under the FLOP rule."""
        flops = table_flops(budgets)
        with np.errstate(all="ignore"):  # whatever comes out is looked at below
            n, d, loss = (
                np.array([float(answer(c)) for c in flops])
                for answer in (law.N_opt, law.D_opt, law.loss_opt)
            )
        _check_answers(name, flops, {"N_opt": n, "D_opt": d, "loss_opt": loss})
        _check_spending(name, flops, rule(n) * d)
        return cls(np.log(flops), np.log(n), np.log(loss), budgets, rule)

    @property
    def a(self) -> float:
        return float(exponent_between(self, *self.budgets))

    def N_opt(self, flops: ArrayLike) -> Array:
        return finite_exp(_looked_up(self.log_flops, self.log_num_params, flops))

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return finite_exp(_looked_up(self.log_flops, self.log_loss, flops))

    def to_json(self) -> dict[str, Any]:
        """All but the FLOP rule, which stands for itself in law.json."""
        tables = {name: getattr(self, name).tolist() for name in TABLES}
        return {"a": self.a, **tables, "budgets": list(self.budgets)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], rule: FlopRule) -> TabulatedLaw:
        budgets = of_type(tuple[float, float], data["budgets"], "budgets")
        tables = (of_type(Array, data[name], name) for name in TABLES)
        log_flops, log_n, log_loss = tables
        if not len(log_flops) == len(log_n) == len(log_loss):
            raise ValueError("its tables have different lengths")
        return cls(log_flops, log_n, log_loss, budgets, rule)


@dataclass(frozen=True)
class TabulatedDraws:
    """Many tabulated laws on one table: ln C (G,), ln N_opt and ln loss (G, draws)."""

    log_flops: Array
    log_num_params: Array
    log_loss: Array
    budgets: tuple[float, float]
    flop_rule: FlopRule

    @classmethod
    def stacked(cls, laws: Sequence[TabulatedLaw]) -> TabulatedDraws:
        """Laws on the same table, a draw each."""
        return cls(
            laws[0].log_flops,
            np.stack([law.log_num_params for law in laws], axis=1),
            np.stack([law.log_loss for law in laws], axis=1),
            laws[0].budgets,
            laws[0].flop_rule,
        )

    @property
    def num_draws(self) -> int:
        return int(self.log_loss.shape[1])

    def N_opt(self, flops: ArrayLike) -> Array:
        return finite_exp(_looked_up(self.log_flops, self.log_num_params, flops))

    def D_opt(self, flops: ArrayLike) -> Array:
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops: ArrayLike) -> Array:
        return finite_exp(_looked_up(self.log_flops, self.log_loss, flops))

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""
        return {"a": exponent_between(self, *self.budgets)}

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back with `from_columns`."""
        tables = {name: getattr(self, name) for name in TABLES}
        return {**tables, "budgets": np.array(self.budgets)}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], law: Law) -> TabulatedDraws:
        low, high = map(float, columns["budgets"])
        log_flops, log_n, log_loss = (columns[name] for name in TABLES)
        return cls(log_flops, log_n, log_loss, (low, high), law.flop_rule)


def _looked_up(log_flops: Array, table: Array, flops: ArrayLike) -> Array:
    """The table's entry at `flops`; with draws, elementwise for one C or one C per draw."""
    step = log_flops[1] - log_flops[0]
    place = (np.log(np.asarray(flops, dtype=float)) - log_flops[0]) / step
    left = np.clip(np.floor(place), 0, len(log_flops) - 2).astype(int)
    if table.ndim == 1:
        low, high = table[left], table[left + 1]
    else:
        draw = np.arange(table.shape[1])
        low, high = table[left, draw], table[left + 1, draw]
    return np.asarray(low + (place - left) * (high - low))


def table_flops(budgets: tuple[float, float]) -> Array:
    """FLOPs of the table's entries, evenly spaced in logs."""
    first, last = budgets[0] / BELOW, budgets[1] * BEYOND
    return np.geomspace(first, last, round(PER_DECADE * np.log10(last / first)) + 1)


def _check_answers(name: str, flops: Array, answers: Mapping[str, Array]) -> None:
    for quantity, values in answers.items():
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if wrong.size:
            raise FitError(
                f"{name} says {quantity} = {values[wrong[0]]:.4g} at {flops[wrong[0]]:.3g} FLOPs",
                f"a law answers finite positive numbers from {flops[0]:.2g} to {flops[-1]:.2g}",
            )


def _check_spending(name: str, flops: Array, spent: Array) -> None:
    worst = int(np.argmax(np.abs(spent / flops - 1)))
    if abs(spent[worst] / flops[worst] - 1) > SAME_FLOPS:
        raise FitError(
            f"{name} spends {spent[worst]:.4g} of {flops[worst]:.4g} FLOPs by the FLOP rule",
            "let D_opt be flop_rule.tokens(C, N_opt(C))",
        )
