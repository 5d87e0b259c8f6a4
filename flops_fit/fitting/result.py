"""The result of a fit: its laws, how sure they are, and everything needed to repeat them."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.errors import StudyError, StudyWarning, UserError
from flops_fit.files import (
    DAMAGE,
    LARGEST_FILE,
    plain,
    read_bytes,
    read_record,
    reading,
    within,
    write_bytes,
    write_record,
)
from flops_fit.fitting.answer import Answer, local_formula
from flops_fit.fitting.contract import FittedLaw, MethodKind, Optimum
from flops_fit.fitting.earlier import one_level_of_two_methods
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.examine.diagnostics import Diagnostics
from flops_fit.fitting.fits import Fits
from flops_fit.fitting.methods import kind_of, named_kind, preference_of
from flops_fit.fitting.points import Dropped
from flops_fit.laws import Array, FlopRule, Law, LawDraws
from flops_fit.laws.prediction import (
    FlatBand,
    Intervals,
    LossLaw,
    LossLawDraws,
    NoSuchRun,
    OtherSize,
    Prediction,
    budget_for_num_params,
    budget_for_num_tokens,
    cost_of_size,
    flat_band,
    intervals_from_json,
)
from flops_fit.plan.versions import FileVersions, VersionError
from flops_fit.records import of_type, read_as, read_list

LAW_FILE, DRAWS_FILE = "law.json", "draws.npz"

LAW_VERSIONS = FileVersions(LAW_FILE, 2, {1: one_level_of_two_methods})

DRAWS_SHA256 = "draws_sha256"
"""Key of the digest of the draws.npz that belongs to a law."""

SAME_ANSWER = 1e-4
"""Relative difference up to which a law still says what it said on the machine that fitted it."""

BUDGETS = "budgets"
"""Key of the budgets' own optima in the section of the method that finds them."""


@dataclass(frozen=True)
class ScalingLaw:
    """What a sweep says: `of(method)` is a method's law, `refusals` say why another has none.

    `answer` names the method whose law answers `predict`: that of one of our rooms, or the class
    of a user's own fit; where the one that was asked refused, it is another. `metric` is what is
    fitted and predicted under the name of loss. `intervals` has keys such as "<method>.a". A law
    read from law.json without draws.npz has no draws, and its `predict` no intervals.
    """

    answer: str
    metric: str
    fits: Fits
    flop_rule: FlopRule
    largest_budget: float  # FLOPs: where extrapolation begins
    budgets: tuple[Optimum, ...]  # verdict and optimum of each by itself
    intervals: Mapping[str, Intervals]
    predictions: tuple[Prediction, ...]
    diagnostics: Diagnostics
    rows_used: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    provenance: Mapping[str, Any]  # settings, filters, seeds, versions, input hash

    def of(self, method: str) -> FittedLaw:
        """The law by one of the methods. Raises `FitError` where it refused, or was not tried."""
        return self.fits.of(method)

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

    def predict(self, budget: float) -> Answer:
        """The compute-optimal run at `budget` FLOPs, by the law that answers, and how sure."""
        others = []
        for method in self.fits.laws:
            if method != self.answer:
                with suppress(NoSuchRun):
                    others.append(self.predict_by(method, budget))
        return self._answer([self.predict_by(self.answer, budget), *others])

    def _answer(self, said: Sequence[Prediction]) -> Answer:
        """What all methods say at one budget, by the one that answers."""
        (prediction,) = (p for p in said if p.method == self.answer)
        return Answer(
            prediction=prediction,
            why=self.diagnostics.why,
            formula=local_formula(self.law, prediction.budget),
            others=tuple(p for p in said if p.method != self.answer),
            reach=self.diagnostics.numbers.reached,
            verdict=self.diagnostics.verdict,
            advice=self.diagnostics.advice,
        )

    @property
    def answers(self) -> tuple[Answer, ...]:
        """At the trained budgets and beyond, as law.json states them."""
        budgets = [p.budget for p in self.predictions if p.method == self.answer]
        return tuple(
            self._answer([p for p in self.predictions if p.budget == budget]) for budget in budgets
        )

    def predict_by(self, method: str, budget: float) -> Prediction:
        """The compute-optimal run at `budget` FLOPs by one of the methods."""
        return self.fits.predict(method, budget, self.largest_budget)

    def predict_for_num_params(self, num_params: float) -> Answer:
        """The run at the budget for which `num_params` is the optimal size."""
        return self.predict(budget_for_num_params(self.law, num_params))

    def predict_for_num_tokens(self, num_tokens: float) -> Answer:
        """The run at the budget for which `num_tokens` is the optimal number of tokens."""
        return self.predict(budget_for_num_tokens(self.law, num_tokens))

    @property
    def knows_other_sizes(self) -> bool:
        """Whether `flat_band` and `cost_of_size` have an answer."""
        return bool(self.fits.knowing)

    def flat_band(self, budget: float) -> FlatBand:
        """The sizes within 0.1% of the best loss at `budget`."""
        law, draws = self._knowing()
        return flat_band(law, draws, budget)

    def cost_of_size(self, budget: float, num_params: float) -> OtherSize:
        """What another size than the optimal costs at `budget`."""
        law, draws = self._knowing()
        return cost_of_size(law, draws, budget, num_params)

    def _knowing(self) -> tuple[LossLaw, LossLawDraws | None]:
        """The law that knows the loss of any size: the one that answers, else the preferred."""
        laws = self.fits.knowing
        if not laws:
            reasons = "".join(f" ({method}: {why})" for method, why in self.refusals.items())
            raise FitError(
                f"no law tells the loss of any size{reasons}",
                "what other sizes cost can't be said from the optima alone",
            )
        method = min(laws, key=lambda m: (m != self.answer, preference_of(m)))
        return laws[method], self.fits.draws_knowing(method)

    def to_json(self) -> dict[str, Any]:
        """As docs/law-json.md describes it. Holds no NaN and no draws."""
        return {
            "schema_version": LAW_VERSIONS.current,
            "answer": self.answer,
            "metric": self.metric,
            "largest_budget": self.largest_budget,
            **{kind_of(m).name: self._section(m, kind_of(m)) for m in self.fits.methods},
            "intervals": plain(self.intervals),
            "predictions": [p.to_json() for p in self.predictions],
            "diagnostics": self.diagnostics.to_json(),
            "flop_rule": plain(vars(self.flop_rule)),
            "rows_used": list(self.rows_used),
            "rows_dropped": [plain(vars(d)) for d in self.dropped],
            "provenance": plain(self.provenance),
        }

    def _section(self, method: str, kind: MethodKind) -> dict[str, Any]:
        """What a method found, under the key of its kind."""
        own_name = {} if method == kind.name else {"method": method}
        optima = [] if kind.optima is None else [optimum.to_json() for optimum in self.budgets]
        return {
            **kind.section_of(self.fits.laws.get(method)),
            **({} if kind.optima is None else {BUDGETS: optima}),
            **own_name,
            "refusal": self.refusals.get(method),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScalingLaw:
        """Without draws. Raises `FitError` for what is no law, `StudyError` for another schema."""
        try:
            law = _from_json(LAW_VERSIONS.upgraded(data))
            _check(law)
        except VersionError:
            raise
        except DAMAGE as error:
            raise FitError(f"{LAW_FILE} holds no law ({_said(error)})", "fit again") from error
        return law

    def save(self, folder: Path) -> Path:
        """Write law.json and, for intervals at any budget, draws.npz; returns the former."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {
            f"{method}.{name}": column
            for method, draws in self.fits.draws.items()
            for name, column in draws.columns().items()
        }
        packed = io.BytesIO()
        np.savez_compressed(packed, **columns)  # type: ignore[arg-type]
        write_bytes(folder / DRAWS_FILE, packed.getvalue())
        digest = hashlib.sha256(packed.getvalue()).hexdigest()
        write_record(folder / LAW_FILE, {**self.to_json(), DRAWS_SHA256: digest})
        return folder / LAW_FILE

    @classmethod
    def load(cls, folder: Path) -> ScalingLaw:
        """The law of a folder, with its draws. Where draws.npz is not as it was written, without
        these, and a `StudyWarning` says so.

        Raises `FileNotFoundError` without a law, `StudyError` or `FitError` where it can't be read.
        """
        path = within(folder, LAW_FILE)
        data = read_record(path)
        with reading(path, "law"):
            law = cls.from_json(data)
        try:
            path = within(folder, DRAWS_FILE)
            with reading(path, "file of draws"):
                return _with_draws(law, _columns(read_bytes(path), data.get(DRAWS_SHA256)))
        except FileNotFoundError:
            problem = f"{path} is gone"
        except StudyError as error:
            problem = f"{error}"
        if law.diagnostics.numbers.num_draws:
            warnings.warn(
                f"{problem}: there are no intervals but those in {LAW_FILE}; `flops-fit fit` makes "
                "them anew",
                StudyWarning,
                stacklevel=2,
            )
        return law


def _columns(content: bytes, digest: str | None) -> dict[str, Array]:
    """The arrays of a draws.npz. Raises `StudyError` where it is not the one of the digest, or
    holds what no draws are made of; earlier versions wrote no digest."""
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise StudyError(f"it is not the one that {LAW_FILE} was written with")
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        if sum(member.file_size for member in members.infolist()) > LARGEST_FILE:
            raise StudyError("it unpacks to more than any draws are")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        columns = dict(stored)
    for name, column in columns.items():
        if column.dtype.kind not in "fiu" or not np.isfinite(column).all():
            raise StudyError(f"{name} is not made of finite numbers")
    return columns


def _check(law: ScalingLaw) -> None:
    """Raises `StudyError` where a law doesn't say what law.json says that it says."""
    with np.errstate(all="ignore"):  # of numbers that no fit wrote
        said = [
            (p, law.fits.predict(p.method, p.budget, law.largest_budget))
            for p in law.predictions
            if p.method in law.fits.laws
        ]
        _ = law.answers
    for stated, found in said:
        for name in ("num_params", "num_tokens", "loss"):
            numbers = getattr(found, name), getattr(stated, name)
            if not np.isclose(*numbers, rtol=SAME_ANSWER, atol=0.0):
                raise StudyError(
                    f"its law says {name} {numbers[0]:.6g} at {stated.budget:.3g} FLOPs, its "
                    f"prediction {numbers[1]:.6g}"
                )


def _said(error: BaseException) -> str:
    return f"{error}" if isinstance(error, UserError) else f"{error!r}"


def _from_json(data: Mapping[str, Any]) -> ScalingLaw:
    rule = read_as(FlopRule, data["flop_rule"], "flop_rule")
    laws: dict[str, FittedLaw] = {}
    refusals = {}
    budgets: Sequence[Optimum] = ()
    for kind, section in _sections(data):
        method = of_type(str, section.get("method", kind.name), "method")
        if section["refusal"]:
            refusals[method] = of_type(str, section["refusal"], "refusal")
        else:
            laws[method] = kind.read_law(section, rule)
        if kind.read_optima is not None:
            budgets = kind.read_optima(section)
    if data["answer"] not in laws:
        raise FitError(f"{LAW_FILE} has no law by {data['answer']!r}, which answers", "fit again")
    return ScalingLaw(
        answer=data["answer"],
        metric=of_type(str, data["metric"], "metric"),
        fits=Fits(laws, {}, refusals),
        flop_rule=rule,
        largest_budget=of_type(float, data["largest_budget"], "largest_budget"),
        budgets=tuple(budgets),
        intervals=intervals_from_json(data["intervals"]),
        predictions=tuple(
            Prediction.from_json(prediction, f"predictions[{i}]")
            for i, prediction in enumerate(of_type(list[Any], data["predictions"], "predictions"))
        ),
        diagnostics=Diagnostics.from_json(data["diagnostics"]),
        rows_used=of_type(tuple[str, ...], data["rows_used"], "rows_used"),
        dropped=read_list(Dropped, data["rows_dropped"], "rows_dropped"),
        provenance=of_type(Mapping, data["provenance"], "provenance"),
    )


def _sections(data: Mapping[str, Any]) -> Iterator[tuple[MethodKind, Mapping[str, Any]]]:
    """The sections of methods that there still are, each with its kind."""
    for key, section in data.items():
        kind = named_kind(key)
        if kind is not None:
            yield kind, section


def _with_draws(law: ScalingLaw, columns: Mapping[str, Array]) -> ScalingLaw:
    by_method: dict[str, dict[str, Array]] = {}
    for key, column in columns.items():
        method, _, name = key.rpartition(".")
        by_method.setdefault(method, {})[name] = column
    draws = {
        method: kind_of(method).read_draws(mine, law.of(method))
        for method, mine in by_method.items()
    }
    with np.errstate(all="ignore"):
        for method, drawn in draws.items():
            for answer in (drawn.N_opt(law.largest_budget), drawn.loss_opt(law.largest_budget)):
                if np.shape(answer) != (drawn.num_draws,) or not np.isfinite(answer).any():
                    raise StudyError(f"the draws by {method} tell nothing of the largest budget")
    return replace(law, fits=replace(law.fits, draws=draws))
