"""The result of a fit: both laws, how sure they are, and everything needed to repeat them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.experiments import SCHEMA_VERSION, check_schema_version
from flops_fit.fitting.diagnostics import Diagnostics
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.fits import Fits
from flops_fit.fitting.isoflop import BudgetOptimum, IsoflopDraws, IsoflopLaw
from flops_fit.fitting.points import Dropped
from flops_fit.fitting.surface import SurfaceDraws, SurfaceLaw
from flops_fit.laws import Array, FlopRule, Law, LossSurface
from flops_fit.prediction import (
    Interval,
    Intervals,
    OtherSize,
    Prediction,
    budget_for_num_params,
    budget_for_num_tokens,
    cost_of_size,
    flat_band,
)
from flops_fit.runs import read_json, write_json

LAW_FILE, DRAWS_FILE = "law.json", "draws.npz"

NO_ISOFLOP: Mapping[str, None] = dict.fromkeys(("a", "b", "N_coefficient", "trend", "noise"))
NO_SURFACE: Mapping[str, None] = dict.fromkeys(
    ("objective", "delta", "value", "E", "A", "B", "alpha", "beta", "a", "b", "G")
)
"""What stands in law.json in place of a law that was refused."""


@dataclass(frozen=True)
class ScalingLaw:
    """What a sweep says. `isoflop` or `surface` is None where `refusals` says why.

    `answer` ("isoflop" or "surface") names the law that answers `predict`; where the one that was
    asked refused, it is the other. `intervals` has keys such as "isoflop.a" and "surface.alpha".
    A law read from law.json without draws.npz has no draws, and its `predict` no intervals.
    """

    answer: str
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
    def draws(self) -> Law | None:
        """The bootstrap laws of the law that answers: one number per draw."""
        return self.fits.law_and_draws(self.answer)[1]

    def predict(self, budget: float) -> Prediction:
        """The compute-optimal run at `budget` FLOPs, by the law that answers."""
        return self.predict_by(self.answer, budget)

    def predict_by(self, method: str, budget: float) -> Prediction:
        """The compute-optimal run at `budget` FLOPs by "isoflop" or "surface"."""
        return self.fits.predict(method, budget, self.largest_budget)

    def predict_for_num_params(self, num_params: float) -> Prediction:
        """The run at the budget for which `num_params` is the optimal size."""
        return self.predict(budget_for_num_params(self.law, num_params))

    def predict_for_num_tokens(self, num_tokens: float) -> Prediction:
        """The run at the budget for which `num_tokens` is the optimal number of tokens."""
        return self.predict(budget_for_num_tokens(self.law, num_tokens))

    def flat_band(self, budget: float) -> Interval:
        """Smallest and largest N within 0.1% of the best loss at `budget`, by the surface."""
        return flat_band(self._surface(), self.flop_rule, budget)

    def cost_of_size(self, budget: float, num_params: float) -> OtherSize:
        """What another size than the optimal costs at `budget`, by the surface."""
        return cost_of_size(self._surface(), self.flop_rule, budget, num_params)

    def _surface(self) -> LossSurface:
        if self.surface is None:
            raise FitError(
                f"there is no loss surface ({self.refusals['surface']})",
                "what other sizes cost can't be said from the optima alone",
            )
        return self.surface.surface

    def to_json(self) -> dict[str, Any]:
        """As docs/law-json.md describes it. Holds no NaN and no draws."""
        return {
            "schema_version": SCHEMA_VERSION,
            "answer": self.answer,
            "largest_budget": self.largest_budget,
            "isoflop": {
                **(self.isoflop.to_json() if self.isoflop else NO_ISOFLOP),
                "budgets": [optimum.to_json() for optimum in self.budgets],
                "refusal": self.refusals.get("isoflop"),
            },
            "surface": {
                **(self.surface.to_json() if self.surface else NO_SURFACE),
                "refusal": self.refusals.get("surface"),
            },
            "intervals": _plain(self.intervals),
            "predictions": [_plain(p.to_json()) for p in self.predictions],
            "diagnostics": _plain(self.diagnostics.to_json()),
            "flop_rule": _plain(asdict(self.flop_rule)),
            "rows_used": list(self.rows_used),
            "rows_dropped": [asdict(d) for d in self.dropped],
            "provenance": _plain(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScalingLaw:
        """Without draws. Raises `FitError` for missing keys, `StudyError` for another schema."""
        check_schema_version(data, LAW_FILE)
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
    budgets = tuple(BudgetOptimum.from_json(entry) for entry in data["isoflop"]["budgets"])
    refusals = {
        method: data[method]["refusal"]
        for method in ("isoflop", "surface")
        if data[method]["refusal"]
    }
    isoflop, surface = data["isoflop"], data["surface"]
    return ScalingLaw(
        answer=data["answer"],
        fits=Fits(
            isoflop=None if "isoflop" in refusals else IsoflopLaw.from_json(isoflop, budgets, rule),
            surface=None if "surface" in refusals else SurfaceLaw.from_json(surface, rule),
            isoflop_draws=None,
            surface_draws=None,
            refusals=refusals,
        ),
        flop_rule=rule,
        largest_budget=data["largest_budget"],
        budgets=budgets,
        intervals={
            name: {level: (low, high) for level, (low, high) in levels.items()}
            for name, levels in data["intervals"].items()
        },
        predictions=tuple(Prediction.from_json(entry) for entry in data["predictions"]),
        diagnostics=Diagnostics.from_json(data["diagnostics"]),
        rows_used=tuple(data["rows_used"]),
        dropped=tuple(Dropped(**entry) for entry in data["rows_dropped"]),
        provenance=data["provenance"],
    )


def _with_draws(law: ScalingLaw, columns: Mapping[str, Array]) -> ScalingLaw:
    def of(method: str) -> dict[str, Array]:
        prefix = f"{method}."
        return {k.removeprefix(prefix): v for k, v in columns.items() if k.startswith(prefix)}

    isoflop, surface = of("isoflop"), of("surface")
    fits = replace(
        law.fits,
        isoflop_draws=IsoflopDraws.from_columns(isoflop, law.flop_rule) if isoflop else None,
        surface_draws=SurfaceDraws.from_columns(surface, law.flop_rule) if surface else None,
    )
    return replace(law, fits=fits)


def _plain(value: Any) -> Any:
    """As JSON has it: lists for tuples and arrays, None for what is not a finite number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
