"""What a method of fitting is to the rest: a package of this folder that exposes one `KIND`.

Its fit, law, draws, JSON, what is examined of it and the words for that live in its own room; the
rest of flops-fit knows it by what stands here, and never by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.fitting.errors import FitError
from flops_fit.fitting.points import Points
from flops_fit.laws import Array, FlopRule, Law, LawDraws
from flops_fit.plan.run import Run

Mask = NDArray[np.bool_]

WORTH_SAYING_OF_A = 0.01
"""Change of the exponent a below which nothing is said of it: a tenth of a decade of N over ten of
compute."""

Exponents = list[float | None]
"""The exponent a of several refits; None where the method refuses."""


class FitSettings(Protocol):
    """What `fit=` names: a frozen dataclass of settings, called with runs. Anyone's will do."""

    def __call__(self, runs: Sequence[Run], flop_rule: FlopRule, /) -> Law: ...


class FittedLaw(Law, Protocol):
    """A law with its exponent, that can be written down."""

    @property
    def a(self) -> float:
        """Exponent of N_opt in C."""

    def to_json(self) -> dict[str, Any]: ...


@runtime_checkable
class OfSurface(Protocol):
    """A law that is the optimum of a loss surface."""

    @property
    def surface(self) -> object: ...


class FittedDraws(LawDraws, Protocol):
    """Draws whose fitted numbers are known, and that can be written down."""

    def quantities(self) -> dict[str, Array]:
        """The fitted numbers that law.json gives intervals for, (draws,) each."""

    def columns(self) -> dict[str, Array]:
        """Everything needed to read the draws back."""


class Optimum(Protocol):
    """What one budget says by itself. `flops` is the geometric mean really spent.

    `N_opt`, `D_opt`, `loss` and `curve` (loss over N) are None where there are too few sizes.
    """

    @property
    def budget(self) -> float: ...
    @property
    def flops(self) -> float: ...
    @property
    def verdict(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def is_bracketed(self) -> bool: ...
    @property
    def N_opt(self) -> float | None: ...
    @property
    def D_opt(self) -> float | None: ...
    @property
    def loss(self) -> float | None: ...
    @property
    def curve(self) -> Callable[[ArrayLike], Array] | None: ...

    def to_json(self) -> dict[str, Any]: ...


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


class MethodNumbers(Protocol):
    """What was measured of one method alone."""

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Examined:
    """What a method's own room says of a fit of it.

    `numbers` are kept in law.json. `findings` are said before those that all methods have, `advice`
    is what to run next. `why` says on what its answer rests, `doubt` why it can't be relied on.
    """

    numbers: MethodNumbers | None = None
    findings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    why: str = ""
    doubt: str | None = None


def knows_as_others_do(law: FittedLaw) -> bool:
    """A law that can be asked for the loss of any size knows it."""
    return True


def nothing_to_add(
    method: Method, points: Points, law: FittedLaw | None, draws: FittedDraws | None
) -> Examined:
    """What is examined of a method about which nothing more is said than of all."""
    return Examined()


def law_of_all(method: Method, points: Points) -> FittedLaw:
    """What `method` makes of points, whichever they are."""
    return method.law(points)


@dataclass(frozen=True)
class MethodKind:
    """A kind of method: what people and law.json call it, and all that its room does.

    `name` is that of its package, the key of its section in law.json and, but for a user's own,
    the name of the method. `settings` is the class of its settings, whose defaults fit; None marks
    the one kind that takes what no other does. `method(settings, curves)` makes them ready, given
    the checkpoints of all training curves; `reads_curves` says whether it looks at these.

    `always_tried` kinds check each other in every fit, the others are tried where one is asked.
    Where the asked one refuses, the one of the lowest `preference` answers; None never does.
    `numbers` are the keys of its section that hold null where the method refused.

    `optima(method, points, law)` are those of each budget by itself, kept under "budgets" of its
    section and read by `read_optima`; `errors_of_optima(method, points)` says by how much the noise
    of the runs moves ln N of each, a standard deviation by budget. `examined(method, points, law,
    draws)` is asked of every fit, law None where the method refused; `read_numbers` reads what it
    keeps. `refit(method, points)` is its law of some of the points, `exponents_of_parts` may refit
    to many parts at once; what is not `probed` is never refitted, since it probes itself.
    `read_draws(columns, law)` reads the draws of a law back. `knows_any_size(law)` says whether a
    law that can be asked for the loss of any size has an answer.
    """

    name: str
    settings: type[Any] | None
    method: Callable[[Any, Points], Method]
    read_law: Callable[[Mapping[str, Any], FlopRule], FittedLaw]
    read_draws: Callable[[Mapping[str, Array], Any], FittedDraws]
    approach: int | None = None
    words: str = ""
    numbers: tuple[str, ...] = ()
    always_tried: bool = False
    preference: int | None = None
    reads_curves: bool = False
    optima: Callable[[Any, Points, Any], Sequence[Optimum]] | None = None
    read_optima: Callable[[Mapping[str, Any]], Sequence[Optimum]] | None = None
    errors_of_optima: Callable[[Any, Points], Mapping[float, float]] | None = None
    examined: Callable[[Any, Points, Any, Any], Examined] = nothing_to_add
    read_numbers: Callable[[Mapping[str, Any]], MethodNumbers] | None = None
    exponents_of_parts: Callable[[Any, Points, Sequence[Mask], Any], Exponents] | None = None
    probed: bool = True
    knows_any_size: Callable[[Any], bool] = knows_as_others_do
    refit: Callable[[Any, Points], FittedLaw] = law_of_all

    def takes(self, settings: object) -> bool:
        """Whether these are settings of this kind."""
        return self.settings is not None and isinstance(settings, self.settings)

    def section_of(self, law: FittedLaw | None) -> dict[str, Any]:
        """A law as law.json has it, or the nulls in its place."""
        return dict.fromkeys(self.numbers) if law is None else law.to_json()

    def law_of_part(self, method: Method, points: Points) -> FittedLaw | None:
        """The law of some of the points, or of changed ones; None where the method refuses."""
        try:
            return self.refit(method, points)
        except FitError:
            return None

    def exponents(
        self, method: Method, points: Points, parts: Sequence[Mask], law: FittedLaw
    ) -> Exponents:
        """The exponents a of `method`, whose law of all points is `law`, refitted to each part."""
        if self.exponents_of_parts is not None:
            return self.exponents_of_parts(method, points, parts, law)
        found = [self.law_of_part(method, points.where(part)) for part in parts]
        return [None if refit is None else refit.a for refit in found]
