"""Which methods there are, which of them a fit tries, and what came of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flops_fit.fitting.contract import FitSettings, FittedDraws, FittedLaw, Method, MethodKind
from flops_fit.fitting.envelope import ENVELOPE, EnvelopeFit, EnvelopeLaw, EnvelopeOfCurves
from flops_fit.fitting.errors import FitError, NoLawFits
from flops_fit.fitting.isoflop import ISOFLOP, IsoflopDraws, IsoflopFit, IsoflopLaw
from flops_fit.fitting.own import OWN, OwnFit
from flops_fit.fitting.points import Points
from flops_fit.fitting.surface import SURFACE, SurfaceDraws, SurfaceFit, SurfaceLaw
from flops_fit.laws import Law, LawDraws
from flops_fit.laws.prediction import Intervals, Prediction, central_intervals, predict_at_budget

ALWAYS_TRIED, ASKED_FOR = (ISOFLOP, SURFACE), (ENVELOPE, OWN)
"""Approaches 2 and 3 check each other in every fit; the others are tried where one is asked."""

T = TypeVar("T")


def kind_of(method: str) -> MethodKind:
    """The kind of a method by its name; any other name is the class of a user's own."""
    known = {kind.name: kind for kind in (ISOFLOP, SURFACE, ENVELOPE)}
    return known.get(method, OWN)


def short_name(method: str) -> str:
    """A method in a sentence: ours by its number, a user's own by its class."""
    kind = kind_of(method)
    return f"approach {kind.approach} ({method})" if kind.approach else method


def in_words(method: str) -> str:
    """A method as the head of a line: ours by number and words, a user's own by its class."""
    kind = kind_of(method)
    return f"approach {kind.approach}, {kind.words}" if kind.approach else method


@dataclass(frozen=True)
class Methods:
    """The methods to try: always approaches 2 and 3, and a third where another is asked."""

    isoflop: IsoflopFit
    surface: SurfaceFit
    other: EnvelopeOfCurves | OwnFit | None
    asked: Method

    @classmethod
    def answering(cls, answer: FitSettings, curves: Points) -> Methods:
        """`answer` with its settings, the others with their defaults."""
        match answer:
            case IsoflopFit():
                return cls(answer, SurfaceFit(), None, answer)
            case SurfaceFit():
                return cls(IsoflopFit(), answer, None, answer)
            case EnvelopeFit():
                envelope = EnvelopeOfCurves(answer, curves)
                return cls(IsoflopFit(), SurfaceFit(), envelope, envelope)
        own = OwnFit(answer)
        return cls(IsoflopFit(), SurfaceFit(), own, own)

    def __iter__(self) -> Iterator[Method]:
        yield from (self.isoflop, self.surface)
        if self.other is not None:
            yield self.other

    @property
    def by_preference(self) -> tuple[Method, ...]:
        """Who answers: the method that was asked, else approach 3, else 2."""
        return (self.asked, self.surface, self.isoflop)


@dataclass(frozen=True)
class Fits:
    """Laws and draws by method; a method that gave no law has its reason in `refusals`."""

    laws: Mapping[str, FittedLaw]
    draws: Mapping[str, FittedDraws]
    refusals: Mapping[str, str]

    def law_and_draws(self, method: str) -> tuple[Law, LawDraws | None]:
        """The law of a method. Raises `FitError` where it refused."""
        if method in self.laws:
            return self.laws[method], self.draws.get(method)
        known = ", ".join((*self.laws, *self.refusals))
        raise FitError(
            f"there is no law by {method!r}", self.refusals.get(method, f"use one of {known}")
        )

    def predict(self, method: str, budget: float, largest_budget: float) -> Prediction:
        law, draws = self.law_and_draws(method)
        return predict_at_budget(
            law, budget, method=method, largest_budget=largest_budget, draws=draws
        )

    @property
    def isoflop(self) -> IsoflopLaw | None:
        return _the(IsoflopLaw, self.laws)

    @property
    def surface(self) -> SurfaceLaw | None:
        return _the(SurfaceLaw, self.laws)

    @property
    def envelope(self) -> EnvelopeLaw | None:
        return _the(EnvelopeLaw, self.laws)

    @property
    def isoflop_draws(self) -> IsoflopDraws | None:
        return _the(IsoflopDraws, self.draws)

    @property
    def surface_draws(self) -> SurfaceDraws | None:
        return _the(SurfaceDraws, self.draws)

    @property
    def third(self) -> str | None:
        """The method that was tried beside approaches 2 and 3."""
        always = {kind.name for kind in ALWAYS_TRIED}
        return next((m for m in (*self.laws, *self.refusals) if m not in always), None)

    @property
    def intervals(self) -> dict[str, Intervals]:
        """The intervals of every fitted number, by keys such as "isoflop.a" and "surface.alpha"."""
        return {
            f"{method}.{name}": central_intervals(values)
            for method, draws in self.draws.items()
            for name, values in draws.quantities().items()
        }


def _the(kind: type[T], found: Mapping[str, object]) -> T | None:
    """The one of this type, None where there is none."""
    return next((value for value in found.values() if isinstance(value, kind)), None)


def fit_all(points: Points, methods: Iterable[Method], draws: int, seed: int) -> Fits:
    """Every method on the same points. Raises `FitError` where all of them refuse."""
    laws: dict[str, FittedLaw] = {}
    all_draws: dict[str, FittedDraws] = {}
    refusals: dict[str, FitError] = {}
    for method in methods:
        try:
            fitted = method.fitted(points, draws, seed)
        except FitError as error:
            refusals[method.method] = error
            continue
        laws[method.method] = fitted.law
        if fitted.draws is not None:
            all_draws[method.method] = fitted.draws
    if not laws:
        raise NoLawFits(refusals)
    return Fits(laws, all_draws, {name: str(error) for name, error in refusals.items()})
