"""What a method of fitting is to the rest: a name, and a law with its draws from points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
class MethodKind:
    """What people and law.json call a kind of method, and how its laws are read back.

    `name` is the key of its section in law.json and, but for a user's own, the name of the method.
    `numbers` are the keys of that section that hold null where the method refused.
    """

    name: str
    read_law: Callable[[Mapping[str, Any], FlopRule], FittedLaw]
    read_draws: Callable[[Mapping[str, Array], FlopRule], FittedDraws]
    approach: int | None = None
    words: str = ""
    numbers: tuple[str, ...] = ()

    def section_of(self, law: FittedLaw | None) -> dict[str, Any]:
        """A law as law.json has it, or the nulls in its place."""
        return dict.fromkeys(self.numbers) if law is None else law.to_json()


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

    def recorded(self) -> dict[str, Any]:
        """All settings that decide the law, as law.json keeps them."""
