"""What came of each method: its law and draws, or why it refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flops_fit.fitting.contract import FittedDraws, FittedLaw, Method
from flops_fit.fitting.errors import FitError, NoLawFits
from flops_fit.fitting.methods import kind_of, place_of
from flops_fit.fitting.points import Points
from flops_fit.laws.prediction import (
    Intervals,
    LossLaw,
    LossLawDraws,
    Prediction,
    central_intervals,
    is_a_run,
    predict_at_budget,
)
from flops_fit.shown import short_flops, short_number, span


@dataclass(frozen=True)
class Fits:
    """Laws and draws by method; a method that gave no law has its reason in `refusals`."""

    laws: Mapping[str, FittedLaw]
    draws: Mapping[str, FittedDraws]
    refusals: Mapping[str, str]

    @property
    def methods(self) -> tuple[str, ...]:
        """All that were tried, in the order of their kinds."""
        return tuple(sorted((*self.laws, *self.refusals), key=place_of))

    def of(self, method: str) -> FittedLaw:
        """The law of a method. Raises `FitError` where it refused, or was not tried."""
        if method in self.laws:
            return self.laws[method]
        known = ", ".join((*self.laws, *self.refusals))
        raise FitError(
            f"there is no law by {method!r}", self.refusals.get(method, f"use one of {known}")
        )

    def law_and_draws(self, method: str) -> tuple[FittedLaw, FittedDraws | None]:
        """The law of a method. Raises `FitError` where it refused."""
        return self.of(method), self.draws.get(method)

    def predict(self, method: str, budget: float, largest_budget: float) -> Prediction:
        law, draws = self.law_and_draws(method)
        return predict_at_budget(
            law, budget, method=method, largest_budget=largest_budget, draws=draws
        )

    @property
    def knowing(self) -> Mapping[str, LossLaw]:
        """The laws that know the loss of any size and length."""
        return {
            method: law
            for method, law in self.laws.items()
            if isinstance(law, LossLaw) and kind_of(method).knows_any_size(law)
        }

    def draws_knowing(self, method: str) -> LossLawDraws | None:
        """The draws of such a law."""
        draws = self.draws.get(method)
        return draws if isinstance(draws, LossLawDraws) else None

    @property
    def intervals(self) -> dict[str, Intervals]:
        """The intervals of every fitted number, by keys such as "<method>.a"."""
        return {
            f"{method}.{name}": central_intervals(values)
            for method, draws in self.draws.items()
            for name, values in draws.quantities().items()
        }


MOST_DRAWS_BESIDE = 1000
"""Draws of a method that doesn't answer: the 2.5% tail then holds 25."""


FARTHEST_SIZE = 100.0
"""Factor by which optima of trained budgets may lie outside of the trained sizes."""


def check_optima(law: FittedLaw, points: Points) -> None:
    """Raises `FitError` where the optima of the trained budgets are far from all trained sizes."""
    smallest, largest = float(points.num_params.min()), float(points.num_params.max())
    for flops in points.flops_range:
        n, d, loss = (float(v(flops)) for v in (law.N_opt, law.D_opt, law.loss_opt))
        near = smallest / FARTHEST_SIZE <= n <= largest * FARTHEST_SIZE
        if not (near and is_a_run(n, d, loss)):
            raise FitError(
                f"the best size at {short_flops(flops)} FLOPs would be N = {short_number(n)} "
                f"(D = {short_number(d)}, loss {loss:.3g}), where N = {span(smallest, largest)} "
                "were trained",
                "train sizes on both sides of the least loss, or look for rows that went wrong",
            )


def fit_all(points: Points, methods: Iterable[Method], answer: str, draws: int, seed: int) -> Fits:
    """Every method on the same points, `answer` with all draws. `FitError` where all refuse."""
    laws: dict[str, FittedLaw] = {}
    all_draws: dict[str, FittedDraws] = {}
    refusals: dict[str, FitError] = {}
    for method in methods:
        try:
            mine = draws if method.method == answer else min(draws, MOST_DRAWS_BESIDE)
            fitted = method.fitted(points, mine, seed)
            check_optima(fitted.law, points)
        except FitError as error:
            refusals[method.method] = error
            continue
        laws[method.method] = fitted.law
        if fitted.draws is not None:
            all_draws[method.method] = fitted.draws
    if not laws:
        raise NoLawFits(refusals)
    return Fits(laws, all_draws, {name: str(error) for name, error in refusals.items()})
