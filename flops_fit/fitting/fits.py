"""Both methods on the same points, each with its law and draws, or with its refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flops_fit.fitting.bootstrap import resample_weights
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.isoflop import IsoflopDraws, IsoflopFit, IsoflopLaw
from flops_fit.fitting.points import Points, places
from flops_fit.fitting.surface import SurfaceDraws, SurfaceFit, SurfaceLaw
from flops_fit.laws import Law
from flops_fit.prediction import Intervals, Prediction, central_intervals, predict_at_budget


@dataclass(frozen=True)
class Fits:
    """The two laws with their draws; a law is None where `refusals` says why."""

    isoflop: IsoflopLaw | None
    surface: SurfaceLaw | None
    isoflop_draws: IsoflopDraws | None
    surface_draws: SurfaceDraws | None
    refusals: Mapping[str, str]

    def law_and_draws(self, method: str) -> tuple[Law, Law | None]:
        """The law of "isoflop" or "surface". Raises `FitError` where it refused."""
        if method == "isoflop" and self.isoflop is not None:
            return self.isoflop, self.isoflop_draws
        if method == "surface" and self.surface is not None:
            return self.surface, self.surface_draws
        raise FitError(
            f"there is no law by {method!r}", self.refusals.get(method, "use isoflop or surface")
        )

    def predict(self, method: str, budget: float, largest_budget: float) -> Prediction:
        law, draws = self.law_and_draws(method)
        return predict_at_budget(
            law, budget, method=method, largest_budget=largest_budget, draws=draws
        )

    @property
    def draws(self) -> dict[str, IsoflopDraws | SurfaceDraws]:
        """Method -> its draws, where there are any."""
        both = {"isoflop": self.isoflop_draws, "surface": self.surface_draws}
        return {method: draws for method, draws in both.items() if draws is not None}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that gave a law."""
        both = {"isoflop": self.isoflop, "surface": self.surface}
        return tuple(method for method, law in both.items() if law is not None)

    @property
    def intervals(self) -> dict[str, Intervals]:
        """Of every fitted number, under keys such as "isoflop.a" and "surface.alpha"."""
        return {
            f"{method}.{name}": central_intervals(values)
            for method, draws in self.draws.items()
            for name, values in draws.quantities().items()
        }


def fit_both(
    points: Points, isoflop: IsoflopFit, surface: SurfaceFit, draws: int, seed: int
) -> Fits:
    """Raises `FitError` where both methods refuse."""
    refusals: dict[str, FitError] = {}
    isoflop_law, surface_law = None, None
    try:
        isoflop_law = isoflop.law(points)
    except FitError as error:
        refusals["isoflop"] = error
    try:
        surface_law = surface.law(points)
    except FitError as error:
        refusals["surface"] = error
    if isoflop_law is None and surface_law is None:
        raise FitError(
            f"no law fits: by IsoFLOP curves, {refusals['isoflop']}",
            f"by a surface, {refusals['surface']}",
        )
    isoflop_draws, surface_draws = None, None
    if draws and isoflop_law is not None:
        isoflop_draws = isoflop.draws(points, isoflop_law, draws, seed)
    if draws and surface_law is not None and surface.can_resample(points):
        weights = resample_weights(places(points), draws, seed, surface.fewest_runs)
        surface_draws = surface.draws(points, surface_law, weights)
    return Fits(
        isoflop=isoflop_law,
        surface=surface_law,
        isoflop_draws=isoflop_draws,
        surface_draws=surface_draws,
        refusals={method: str(error) for method, error in refusals.items()},
    )
