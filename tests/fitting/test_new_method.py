"""A method that is added as one package is fitted, examined, kept, read and predicted with."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sweeps import BUDGETS, CHINCHILLA, sweep

import flops_fit.fitting
from flops_fit.cli import main
from flops_fit.fitting import FitError, ScalingLaw, fit_runs, is_fit_of
from flops_fit.fitting.methods import in_words, kind_of, kinds, short_name
from flops_fit.laws import FlopRule
from flops_fit.report.summary import formulas
from flops_fit.tables import write_runs

TOY = '''
"""The best run of each budget, and lines through these: a method of one file."""

from dataclasses import dataclass, field

import numpy as np

from flops_fit.fitting.contract import Examined, Fitted, MethodKind
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.provenance import recorded_settings
from flops_fit.laws import FlopRule, PowerLaw

__all__ = ["ToyFit"]


@dataclass(frozen=True)
class ToyLaw:
    """Also knows what any size costs: the loss of the best, and more the further N is from it."""

    line: PowerLaw
    loss: PowerLaw
    flop_rule: FlopRule

    def __call__(self, num_params, num_tokens):
        flops = self.flop_rule(num_params) * num_tokens
        return self.loss(flops) * (1 + 0.01 * np.log(num_params / self.N_opt(flops)) ** 2)

    def tokens_to_reach(self, loss, num_params):
        lengths = np.geomspace(1e3, 1e18, 4000)
        enough = self(num_params, lengths) <= loss
        return np.asarray(lengths[enough.argmax()] if enough.any() else np.inf)

    @property
    def a(self):
        return self.line.exponent

    def N_opt(self, flops):
        return self.line(flops)

    def D_opt(self, flops):
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops):
        return self.loss(flops)

    def to_json(self):
        return {"line": vars(self.line), "loss": vars(self.loss)}

    @classmethod
    def from_json(cls, data, rule):
        return cls(PowerLaw(**data["line"]), PowerLaw(**data["loss"]), rule)


@dataclass(frozen=True)
class ToyDraws:
    """One law, its size off by a factor of each draw."""

    law: ToyLaw
    factors: np.ndarray
    flop_rule: FlopRule

    @property
    def num_draws(self):
        return len(self.factors)

    def N_opt(self, flops):
        return self.law.N_opt(flops) * self.factors

    def D_opt(self, flops):
        return self.flop_rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops):
        return self.law.loss_opt(flops) * np.ones(self.num_draws)

    def quantities(self):
        return {"a": self.law.a + 0 * self.factors, "factor": self.factors}

    def columns(self):
        numbers = [*vars(self.law.line).values(), *vars(self.law.loss).values()]
        return {"factors": self.factors, "law": np.array(numbers)}

    @classmethod
    def from_columns(cls, columns, law):
        size, a, loss, fall = map(float, columns["law"])
        rule = law.flop_rule
        return cls(ToyLaw(PowerLaw(size, a), PowerLaw(loss, fall), rule), columns["factors"], rule)


@dataclass(frozen=True)
class ToyFit:
    factor: float = 1.0
    method = "toy"

    def __call__(self, runs, flop_rule):
        raise NotImplementedError

    def law(self, points):
        if len(points.budgets) < 2:
            raise FitError("one budget", "train another")
        best = [points.at_budget(budget) for budget in points.budgets]
        size = [group.num_params[group.loss.argmin()] * self.factor for group in best]
        loss = [group.loss.min() for group in best]
        flops = points.budgets
        return ToyLaw(
            PowerLaw.through(flops, size), PowerLaw.through(flops, loss), points.flop_rule
        )

    def fitted(self, points, draws, seed):
        law = self.law(points)
        factors = np.random.default_rng(seed).uniform(0.9, 1.1, draws)
        return Fitted(law, ToyDraws(law, factors, points.flop_rule) if draws else None)

    def recorded(self):
        return recorded_settings(self)


@dataclass(frozen=True)
class ToyNumbers:
    num_best: int

    def to_json(self):
        return vars(self)


def examined(fit, points, law, draws):
    if law is None:
        return Examined()
    count = len(points.budgets)
    return Examined(ToyNumbers(count), (f"toy: {count} best runs",), ("toy: try another method",))


KIND = MethodKind(
    name="toy",
    settings=ToyFit,
    method=lambda settings, curves: settings,
    read_law=ToyLaw.from_json,
    read_draws=ToyDraws.from_columns,
    words="best runs",
    numbers=("line", "loss"),
    always_tried=ALWAYS,
    preference=9,
    examined=examined,
    read_numbers=lambda data: ToyNumbers(**data),
)
'''

RUNS = sweep(CHINCHILLA, noise=0.003, seed=1)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Adds the package, tried in every fit if so asked, and gives it back."""

    def add(always_tried: bool):
        (tmp_path / "rooms/toy").mkdir(parents=True)
        text = TOY.replace("ALWAYS", str(always_tried))
        (tmp_path / "rooms/toy/__init__.py").write_text(text, encoding="utf-8")
        path = [*flops_fit.fitting.__path__, str(tmp_path / "rooms")]
        monkeypatch.setattr(flops_fit.fitting, "__path__", path)
        importlib.invalidate_caches()
        return importlib.import_module("flops_fit.fitting.toy")

    yield add
    sys.modules.pop("flops_fit.fitting.toy", None)
    vars(flops_fit.fitting).pop("toy", None)


def test_it_is_found_and_named(toy):
    room = toy(False)
    ours = ["isoflop", "surface", "combined", "envelope", "own", "repeated"]
    assert [kind.name for kind in kinds()] == [*ours, "toy"]
    assert kind_of("toy") is room.KIND
    assert (short_name("toy"), in_words("toy")) == ("toy", "toy, best runs")


def test_asked_it_answers_and_is_examined_like_the_others(toy):
    law = fit_runs(RUNS, answer=toy(False).ToyFit(), draws=60)
    assert law.answer == "toy"
    assert law.fits.methods == ("isoflop", "surface", "combined", "toy")
    numbers = law.diagnostics.numbers
    assert numbers.exponents["toy"] == pytest.approx(law.of("toy").a)
    assert {test.method for test in numbers.back_tests} == {"isoflop", "surface", "toy"}
    assert all(part.exponents["toy"] for part in (*numbers.without_budget, numbers.without_edges))
    assert {(b.method, b.if_exact) for b in numbers.biases} == {
        ("isoflop", "surface"), ("toy", "surface"), ("isoflop", "toy"), ("surface", "toy")
    }  # fmt: skip
    assert {(a.first, a.second) for a in numbers.agreements} == {
        ("isoflop", "surface"), ("isoflop", "toy"), ("surface", "toy")
    }  # fmt: skip
    assert law.diagnostics.of_methods["toy"].num_best == len(BUDGETS)
    findings = law.diagnostics.findings
    assert "toy: 5 best runs" in findings
    assert "toy: try another method" in law.diagnostics.advice
    assert "toy: try another method" not in findings
    assert any(f.startswith("back-test from") and ", toy loss " in f for f in findings)


def test_what_other_sizes_cost_is_said_by_it_where_it_answers(toy):
    law = fit_runs(RUNS, answer=toy(False).ToyFit(), draws=0)
    band = law.flat_band(1e19)
    width = np.exp(np.sqrt(0.001 / 0.01))
    best = law.predict(1e19).num_params
    assert (band.low, band.high) == pytest.approx((best / width, best * width), rel=1e-6)


def test_it_survives_json_and_file(toy, tmp_path):
    law = fit_runs(RUNS, answer=toy(False).ToyFit(), draws=60)
    read = ScalingLaw.from_json(json.loads(json.dumps(law.to_json(), allow_nan=False)))
    assert read.to_json() == law.to_json()
    law.save(tmp_path)
    again = ScalingLaw.load(tmp_path)
    assert again.diagnostics == law.diagnostics
    assert again.predict(1e21) == law.predict(1e21)
    assert again.predict(1e21).intervals["num_params"]["95"][0] > 0
    assert any(line.endswith("  (toy)") for line in formulas(again))


def test_it_is_a_fit_of_its_own_settings(toy):
    settings = toy(False).ToyFit
    law = fit_runs(RUNS, answer=settings(), draws=0)
    how = {"flop_rule": FlopRule.constant(), "draws": 0, "seed": 0}
    assert is_fit_of(law, RUNS, answer=settings(), **how)
    assert not is_fit_of(law, RUNS, answer=settings(factor=2.0), **how)


def test_where_it_refuses_the_preferred_one_answers(toy):
    room = toy(True)
    one = sweep(CHINCHILLA, budgets=(1e18,)) + sweep(CHINCHILLA, budgets=(1e19,), sizes=(1.0,))
    law = fit_runs(one, answer=room.ToyFit(), draws=0)
    assert law.answer == "combined"
    assert law.refusals["toy"] == "one budget: train another"
    section = law.to_json()["toy"]
    assert section == {"line": None, "loss": None, "refusal": "one budget: train another"}


def test_always_tried_it_stands_beside_the_others_in_every_fit(toy):
    toy(True)
    law = fit_runs(RUNS, draws=60)
    assert law.answer == "combined"
    assert list(law.provenance["settings"]) == ["isoflop", "surface", "combined", "toy"]
    assert law.of("toy").a == pytest.approx(CHINCHILLA.a, abs=0.1)


def test_a_law_of_a_method_that_is_no_longer_there_is_read_without_it(toy, monkeypatch):
    law = fit_runs(RUNS, answer=toy(False).ToyFit(), draws=0)
    data = law.to_json()
    monkeypatch.setattr(flops_fit.fitting, "__path__", flops_fit.fitting.__path__[:-1])
    with pytest.raises(FitError, match="no law by 'toy'"):
        ScalingLaw.from_json(data)
    others = ScalingLaw.from_json({**data, "answer": "surface"})
    assert set(others.fits.laws) == {"isoflop", "surface", "combined"}
    assert others.predict(1e21).prediction == law.predict_by("surface", 1e21)


def test_the_command_line_takes_it_by_one_config(toy, tmp_path, monkeypatch, capsys):
    toy(False)
    monkeypatch.chdir(tmp_path)
    Path("conf/fit").mkdir(parents=True)
    Path("conf/fit/toy.yaml").write_text("_target_: flops_fit.fitting.toy.ToyFit\nfactor: 2.0\n")
    write_runs(tmp_path / "sweep.csv", RUNS)
    assert main(["fit", "runs=sweep.csv", "fit=toy", "draws=20"]) == 0
    assert "  (toy)\n" in capsys.readouterr().out
    assert main(["predict", "study=sweep", "budget=1e21", "json=true"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["method"] == "toy"
