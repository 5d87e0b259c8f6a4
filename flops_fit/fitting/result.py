"""The result of a fit: both laws, how sure they are, and everything needed to repeat them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.files import plain, read_json, write_json
from flops_fit.fitting.contract import FittedLaw
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.examine.diagnostics import Diagnostics
from flops_fit.fitting.isoflop import ISOFLOP, BudgetOptimum, IsoflopLaw
from flops_fit.fitting.isoflop.optima import budgets_from_json
from flops_fit.fitting.methods import ALWAYS_TRIED, ASKED_FOR, Fits, kind_of
from flops_fit.fitting.points import Dropped
from flops_fit.fitting.surface import SURFACE, SurfaceLaw
from flops_fit.laws import Array, FlopRule, Law, LawDraws
from flops_fit.laws.prediction import (
    FlatBand,
    Intervals,
    OtherSize,
    Prediction,
    budget_for_num_params,
    budget_for_num_tokens,
    cost_of_size,
    flat_band,
    intervals_from_json,
)
from flops_fit.plan.versions import SCHEMA_VERSION, upgraded

LAW_FILE, DRAWS_FILE = "law.json", "draws.npz"


@dataclass(frozen=True)
class ScalingLaw:
    """What a sweep says. `isoflop` or `surface` is None where `refusals` says why.

    `answer` names the method whose law answers `predict`: "isoflop", "surface", "envelope", or the
    class of a user's own; where the one that was asked refused, it is another. `metric` is what is
    fitted and predicted under the name of loss. `intervals` has keys such as "isoflop.a" and
    "surface.alpha". A law read from law.json without draws.npz has no draws, and its `predict` no
    intervals.
    """

    answer: str
    metric: str
    fits: Fits
    flop_rule: FlopRule
    largest_budget: float  # FLOPs: where extrapolation begins
    budgets: tuple[BudgetOptimum, ...]  # verdict and optimum of each, approach 2
    intervals: Mapping[str, Intervals]
    predictions: tuple[Prediction, ...]
    diagnostics: Diagnostics
    rows_used: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    provenance: Mapping[str, Any]  # settings, filters, seeds, versions, input hash

    @property
    def isoflop(self) -> IsoflopLaw | None:
        return self.fits.isoflop

    @property
    def surface(self) -> SurfaceLaw | None:
        return self.fits.surface

    @property
    def refusals(self) -> Mapping[str, str]:
        """Method -> why it gives no law."""
        return self.fits.refusals

    @property
    def law(self) -> Law:
        """The law that answers."""
        return self.fits.law_and_draws(self.answer)[0]

    @property
    def draws(self) -> LawDraws | None:
        """The bootstrap laws of the law that answers: one number per draw."""
        return self.fits.law_and_draws(self.answer)[1]

    def predict(self, budget: float) -> Prediction:
        """The compute-optimal run at `budget` FLOPs, by the law that answers."""
        return self.predict_by(self.answer, budget)

    def predict_by(self, method: str, budget: float) -> Prediction:
        """The compute-optimal run at `budget` FLOPs by one of the methods."""
        return self.fits.predict(method, budget, self.largest_budget)

    def predict_for_num_params(self, num_params: float) -> Prediction:
        """The run at the budget for which `num_params` is the optimal size."""
        return self.predict(budget_for_num_params(self.law, num_params))

    def predict_for_num_tokens(self, num_tokens: float) -> Prediction:
        """The run at the budget for which `num_tokens` is the optimal number of tokens."""
        return self.predict(budget_for_num_tokens(self.law, num_tokens))

    def flat_band(self, budget: float) -> FlatBand:
        """The sizes within 0.1% of the best loss at `budget`, by the surface."""
        return flat_band(self._surface(), self.fits.surface_draws, budget)

    def cost_of_size(self, budget: float, num_params: float) -> OtherSize:
        """What another size than the optimal costs at `budget`, by the surface."""
        return cost_of_size(self._surface(), self.fits.surface_draws, budget, num_params)

    def _surface(self) -> SurfaceLaw:
        if self.surface is None:
            raise FitError(
                f"there is no loss surface ({self.refusals[SURFACE.name]})",
                "what other sizes cost can't be said from the optima alone",
            )
        return self.surface

    def to_json(self) -> dict[str, Any]:
        """As docs/law-json.md describes it. Holds no NaN and no draws."""
        return {
            "schema_version": SCHEMA_VERSION,
            "answer": self.answer,
            "metric": self.metric,
            "largest_budget": self.largest_budget,
            ISOFLOP.name: {
                **ISOFLOP.section_of(self.isoflop),
                "budgets": [optimum.to_json() for optimum in self.budgets],
                "refusal": self.refusals.get(ISOFLOP.name),
            },
            SURFACE.name: {
                **SURFACE.section_of(self.surface),
                "refusal": self.refusals.get(SURFACE.name),
            },
            **self._third_section(),
            "intervals": plain(self.intervals),
            "predictions": [p.to_json() for p in self.predictions],
            "diagnostics": self.diagnostics.to_json(),
            "flop_rule": plain(vars(self.flop_rule)),
            "rows_used": list(self.rows_used),
            "rows_dropped": [plain(vars(d)) for d in self.dropped],
            "provenance": plain(self.provenance),
        }

    def _third_section(self) -> dict[str, Any]:
        """The section of a third method, where one was asked."""
        method = self.fits.third
        if method is None:
            return {}
        kind = kind_of(method)
        section = {
            **kind.section_of(self.fits.laws.get(method)),
            "method": method,
            "refusal": self.refusals.get(method),
        }
        return {kind.name: section}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScalingLaw:
        """Without draws. Raises `FitError` for missing keys, `StudyError` for another schema."""
        data = upgraded(data, LAW_FILE)
        try:
            return _from_json(data)
        except (KeyError, TypeError) as error:
            raise FitError(f"{LAW_FILE} is incomplete ({error!r})", "fit again") from error

    def save(self, folder: Path) -> Path:
        """Write law.json and, for intervals at any budget, draws.npz; returns the former."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {
            f"{method}.{name}": column
            for method, draws in self.fits.draws.items()
            for name, column in draws.columns().items()
        }
        np.savez_compressed(folder / DRAWS_FILE, **columns)  # type: ignore[arg-type]
        write_json(folder / LAW_FILE, self.to_json())
        return folder / LAW_FILE

    @classmethod
    def load(cls, folder: Path) -> ScalingLaw:
        """The law of a folder, with its draws where draws.npz is there."""
        law = cls.from_json(read_json(folder / LAW_FILE))
        if not (folder / DRAWS_FILE).exists():
            return law
        with np.load(folder / DRAWS_FILE) as columns:
            return _with_draws(law, dict(columns))


def _from_json(data: Mapping[str, Any]) -> ScalingLaw:
    rule = FlopRule(**{name: tuple(values) for name, values in data["flop_rule"].items()})
    laws: dict[str, FittedLaw] = {}
    refusals = {}
    for kind in (*ALWAYS_TRIED, *(other for other in ASKED_FOR if other.name in data)):
        section = data[kind.name]
        method = section.get("method", kind.name)
        if section["refusal"]:
            refusals[method] = section["refusal"]
        else:
            laws[method] = kind.read_law(section, rule)
    return ScalingLaw(
        answer=data["answer"],
        metric=data["metric"],
        fits=Fits(laws, {}, refusals),
        flop_rule=rule,
        largest_budget=data["largest_budget"],
        budgets=budgets_from_json(data[ISOFLOP.name]),
        intervals=intervals_from_json(data["intervals"]),
        predictions=tuple(Prediction.from_json(entry) for entry in data["predictions"]),
        diagnostics=Diagnostics.from_json(data["diagnostics"]),
        rows_used=tuple(data["rows_used"]),
        dropped=tuple(Dropped(**entry) for entry in data["rows_dropped"]),
        provenance=data["provenance"],
    )


def _with_draws(law: ScalingLaw, columns: Mapping[str, Array]) -> ScalingLaw:
    by_method: dict[str, dict[str, Array]] = {}
    for key, column in columns.items():
        method, _, name = key.rpartition(".")
        by_method.setdefault(method, {})[name] = column
    draws = {
        method: kind_of(method).read_draws(mine, law.flop_rule)
        for method, mine in by_method.items()
    }
    return replace(law, fits=replace(law.fits, draws=draws))
