"""What a method of fitting is to the rest: a name, and a law with its draws from points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flops_fit.fitting.points import Points
from flops_fit.laws import Array, FlopRule, Law, LawDraws
from flops_fit.plan.run import Run


class FitSettings(Protocol):
    """What `fit=` names: a frozen dataclass of settings, called with runs. Anyone's will do."""

    def __call__(self, runs: Sequence[Run], flop_rule: FlopRule, /) -> Law: ...


class FittedLaw(Law, Protocol):
    """A law with its exponent, that can be written down."""

    @property
    def a(self) -> float:
        """Exponent of N_opt in C."""

    def to_json(self) -> dict[str, Any]: ...


class FittedDraws(LawDraws, Protocol):
    """Draws whose fitted numbers are known, and that can be written down."""

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back."""


@dataclass(frozen=True)
class Fitted:
    """A law and its draws, None where nothing tells how sure it is."""

    law: FittedLaw
    draws: FittedDraws | None


class Method(Protocol):
    """A way to fit, ready to be tried on any points."""

    @property
    def method(self) -> str:
        """The name that predictions carry."""

    def law(self, points: Points) -> FittedLaw:
        """Raises `FitError` where no law can be told."""

    def fitted(self, points: Points, draws: int, seed: int) -> Fitted:
        """The law with `draws` draws; none where it is 0. Raises as `law` does."""


Laws = Mapping[str, FittedLaw]
"""Method -> its law."""
