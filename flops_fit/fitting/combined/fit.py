"""Methods weighed by what their forecasts were worth, on this sweep and on published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from flops_fit.fitting.combined.backtests import Cut, Laws, Targets, cuts_of, laws_of
from flops_fit.fitting.combined.draws import CombinedDraws
from flops_fit.fitting.combined.errors import loss_errors, size_errors
from flops_fit.fitting.combined.evidence import LOSS, SIZE, calibration, own_tests, weights
from flops_fit.fitting.combined.law import CombinedLaw, Part, Width
from flops_fit.fitting.contract import FitSettings, Fitted, Method
from flops_fit.fitting.errors import FitError, NoLawFits
from flops_fit.fitting.isoflop import Akima, IsoflopFit
from flops_fit.fitting.isoflop.fit import FEWEST_BRACKETED
from flops_fit.fitting.isoflop.loss_trend import TrendPosterior
from flops_fit.fitting.methods import kind_for
from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.provenance import recorded_settings
from flops_fit.fitting.surface import SurfaceFit
from flops_fit.laws import Array, FlopRule
from flops_fit.plan.run import Run

NAME = "combined"


def with_budgets() -> dict[str, Any]:
    """Candidates for sweeps whose budgets have a minimum."""
    return {
        "parabola": IsoflopFit(),
        "parabola of the last 4": IsoflopFit(recent=4),
        "akima": IsoflopFit(curve=Akima()),
        "surface within 4x": SurfaceFit(within=4.0),
    }


def without_budgets() -> dict[str, Any]:
    """Candidates for any other table: they know the loss of any size."""
    return {
        "surface": SurfaceFit(),
        "interaction": SurfaceFit(interaction=True),
        "interaction of the dearest half": SurfaceFit(interaction=True, dearest=0.5),
    }


@dataclass(frozen=True)
class CombinedFit:
    """Several candidates, each with the weight that back-tests give it.

    `with_budgets` are tried where at least two budgets have a bracketed minimum, `without_budgets`
    elsewhere: name -> method.
    """

    with_budgets: Mapping[str, Any] = field(default_factory=with_budgets)
    without_budgets: Mapping[str, Any] = field(default_factory=without_budgets)

    method: ClassVar[str] = NAME

    def __post_init__(self) -> None:
        for name, candidates in vars(self).items():
            if not candidates:
                raise FitError(f"{name} is empty", "name one method or more, as in fit/auto.yaml")

    def __call__(self, runs: Sequence[Run], flop_rule: FlopRule | None = None) -> CombinedLaw:
        points, _ = usable_points(runs, flop_rule or FlopRule.constant())
        return self.law(points)

    def law(self, points: Points) -> CombinedLaw:
        """Raises `FitError` where no candidate gives a law."""
        optima = Targets.of_optima(points)
        if len(optima) >= FEWEST_BRACKETED:
            return weighed(ready(self.with_budgets, points), points, optima)
        return weighed(ready(self.without_budgets, points), points, Targets.of_rows(points))

    def fitted(self, points: Points, draws: int, seed: int) -> Fitted:
        """The law, and its draws.

        None where neither optima of budgets nor a back-test tells how far off it may be: a surface
        through hardly more runs than it has numbers hits them all.
        """
        law = self.law(points)
        is_told = bool(law.loss.tests) or isinstance(law.loss.errors, TrendPosterior)
        return Fitted(law, CombinedDraws.of(law, draws, seed) if draws and is_told else None)

    def recorded(self) -> dict[str, Any]:
        return recorded_settings(self)


def ready(candidates: Mapping[str, FitSettings], points: Points) -> Mapping[str, Method]:
    """Anyone's settings as methods. There are no training curves to look at."""
    no_curves = points.rows(np.array([], dtype=np.int64))
    return {name: kind_for(one).method(one, no_curves) for name, one in candidates.items()}


def weighed(candidates: Mapping[str, Method], points: Points, targets: Targets) -> CombinedLaw:
    """The candidates as one law. Raises `FitError` where none gives a law."""
    laws, refusals = laws_of(candidates, points)
    if not laws:
        raise NoLawFits(refusals)
    cuts = cuts_of(candidates, points, targets)
    return CombinedLaw(
        parts=_parts(candidates, laws, cuts, targets),
        size=_size_width(cuts, targets),
        loss=_loss_width(cuts, targets),
        trained=points.flops_range,
        flop_rule=points.flop_rule,
    )


def _parts(
    candidates: Mapping[str, Method], laws: Laws, cuts: Sequence[Cut], targets: Targets
) -> dict[str, Part]:
    """Where only losses can be tested, they decide about sizes too."""
    names = list(laws)
    for_loss = weights(names, cuts, LOSS)
    for_size = weights(names, cuts, SIZE) if targets.are_optima else for_loss
    return {
        name: Part(candidates[name].method, laws[name], float(size), float(loss))
        for name, size, loss in zip(names, for_size, for_loss, strict=True)
    }


def _size_width(cuts: Sequence[Cut], targets: Targets) -> Width:
    def stated(cut: Cut) -> Array:
        return size_errors(targets.up_to(cut.level)).variance(cut.flops)

    tests = own_tests(cuts, SIZE, stated) if targets.are_optima else ()
    return Width(size_errors(targets), calibration(tests, SIZE), tests)


def _loss_width(cuts: Sequence[Cut], targets: Targets) -> Width:
    def stated(cut: Cut) -> Array:
        return loss_errors(targets.up_to(cut.level)).variance(cut.flops)

    tests = own_tests(cuts, LOSS, stated)
    return Width(loss_errors(targets), calibration(tests, LOSS), tests)
