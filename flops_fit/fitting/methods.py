"""All methods on the same points, each with its law and draws, or with its refusal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flops_fit.fitting.contract import FittedDraws, FittedLaw, Method
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.isoflop.draws import IsoflopDraws
from flops_fit.fitting.isoflop.law import IsoflopLaw
from flops_fit.fitting.points import Points
from flops_fit.fitting.surface.draws import SurfaceDraws
from flops_fit.fitting.surface.law import SurfaceLaw
from flops_fit.laws import Law, LawDraws
from flops_fit.laws.prediction import Intervals, Prediction, central_intervals, predict_at_budget


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
        law = self.laws.get("isoflop")
        return law if isinstance(law, IsoflopLaw) else None

    @property
    def surface(self) -> SurfaceLaw | None:
        law = self.laws.get("surface")
        return law if isinstance(law, SurfaceLaw) else None

    @property
    def isoflop_draws(self) -> IsoflopDraws | None:
        draws = self.draws.get("isoflop")
        return draws if isinstance(draws, IsoflopDraws) else None

    @property
    def surface_draws(self) -> SurfaceDraws | None:
        draws = self.draws.get("surface")
        return draws if isinstance(draws, SurfaceDraws) else None

    @property
    def intervals(self) -> dict[str, Intervals]:
        """Of every fitted number, under keys such as "isoflop.a" and "surface.alpha"."""
        return {
            f"{method}.{name}": central_intervals(values)
            for method, draws in self.draws.items()
            for name, values in draws.quantities().items()
        }


def fit_all(points: Points, methods: Iterable[Method], draws: int, seed: int) -> Fits:
    """Raises `FitError` where every method refuses."""
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
        reasons = "; ".join(f"{name}: {error}" for name, error in refusals.items())
        raise FitError("no law fits", reasons)
    return Fits(laws, all_draws, {name: str(error) for name, error in refusals.items()})
