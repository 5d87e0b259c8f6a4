"""Methods beside approaches 2 and 3: a user's own, and approach 1 on training curves."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from sweeps import BUDGETS, CHINCHILLA, sweep

from flops_fit.fitting import EnvelopeFit, FitError, ScalingLaw, SurfaceFit, fit_runs, is_fit_of
from flops_fit.fitting.tabulated import TabulatedDraws, TabulatedLaw
from flops_fit.laws import FlopRule, PowerLaw
from flops_fit.plan.run import Run

SIX = FlopRule.constant()


@dataclasses.dataclass(frozen=True)
class BestLaw:
    """Power laws of N_opt and loss."""

    size: PowerLaw
    loss: PowerLaw
    rule: FlopRule

    def N_opt(self, flops):
        return self.size(flops)

    def D_opt(self, flops):
        return self.rule.tokens(flops, self.N_opt(flops))

    def loss_opt(self, flops):
        return self.loss(flops)


@dataclasses.dataclass(frozen=True)
class BestOfBudget:
    """Through the best run of each budget: the crudest method there is."""

    degree: int = 1

    def __call__(self, runs, flop_rule):
        best = {}
        for run in runs:
            if run.budget not in best or run.loss < best[run.budget].loss:
                best[run.budget] = run
        flops = [run.budget for run in best.values()]
        size = PowerLaw.through(flops, [run.num_params for run in best.values()])
        return BestLaw(size, PowerLaw.through(flops, [r.loss for r in best.values()]), flop_rule)


@dataclasses.dataclass(frozen=True)
class Spendthrift(BestOfBudget):
    """Counts 1 FLOP per parameter and token, whatever the rule."""

    def __call__(self, runs, flop_rule):
        return super().__call__(runs, FlopRule.constant(1.0))


@dataclasses.dataclass(frozen=True)
class Refusing(BestOfBudget):
    def __call__(self, runs, flop_rule):
        raise FitError("this is a test", "use another")


@dataclasses.dataclass(frozen=True)
class Sinking(BestOfBudget):
    """Its loss falls below nothing before the end of what is asked."""

    def __call__(self, runs, flop_rule):
        law = super().__call__(runs, flop_rule)
        return dataclasses.replace(law, loss=lambda flops: 3.0 - 1e-22 * flops)


@pytest.fixture(scope="module")
def noisy():
    return sweep(CHINCHILLA, noise=0.003, seed=1)


@pytest.fixture(scope="module")
def law(noisy):
    return fit_runs(noisy, answer=BestOfBudget(), draws=200)


def test_a_users_method_answers_what_its_law_says(noisy, law):
    own = BestOfBudget()(noisy, SIX)
    assert law.answer == "BestOfBudget"
    for budget in (BUDGETS[0] / 5, 3e18, 1e22):
        prediction = law.predict(budget)
        assert prediction.method == "BestOfBudget"
        assert prediction.num_params == pytest.approx(own.N_opt(budget), rel=1e-9)
        assert prediction.loss == pytest.approx(own.loss_opt(budget), rel=1e-9)
        assert 6 * prediction.num_params * prediction.num_tokens == pytest.approx(budget)
    assert law.fits.laws["BestOfBudget"].a == pytest.approx(own.size.exponent)
    methods = {"isoflop", "surface", "combined", "BestOfBudget"}
    assert law.diagnostics.numbers.exponents.keys() == methods


def test_the_other_methods_are_what_they_are_without_it(noisy, law):
    plain = fit_runs(noisy, draws=200)
    assert law.of("surface") == plain.of("surface")
    assert law.intervals["surface.a"] == plain.intervals["surface.a"]
    assert law.intervals["isoflop.a"] == plain.intervals["isoflop.a"]
    assert law.of("combined").to_json() == plain.of("combined").to_json()
    assert law.intervals["combined.a"] == plain.intervals["combined.a"]


def test_its_intervals_come_from_calling_it_again_on_resampled_runs(law):
    (low, high), (wide_low, wide_high) = (law.intervals["BestOfBudget.a"][k] for k in ("80", "95"))
    assert wide_low <= low < high <= wide_high
    for name in ("num_params", "num_tokens", "loss"):
        low, high = law.predict(1e21).intervals[name]["95"]
        assert low < high
    assert law.diagnostics.numbers.num_draws["BestOfBudget"] == 200


def test_a_method_that_is_called_again_is_called_at_most_500_times(noisy):
    result = fit_runs(noisy, answer=BestOfBudget(), draws=600)
    assert result.diagnostics.numbers.num_draws == {
        "isoflop": 600,
        "surface": 600,
        "combined": 600,
        "BestOfBudget": 500,
    }
    said = "the intervals of BestOfBudget rest on 500 of 600 draws"
    assert said in result.diagnostics.findings


def test_methods_beside_the_one_that_answers_have_at_most_1000_draws(noisy):
    of_surface = fit_runs(noisy, answer=SurfaceFit(), draws=1200).diagnostics.numbers
    assert of_surface.num_draws == {"isoflop": 1000, "surface": 1200, "combined": 1000}
    of_all = fit_runs(noisy, draws=1200).diagnostics
    assert of_all.numbers.num_draws == {"isoflop": 1000, "surface": 1000, "combined": 1200}
    assert not any("draws asked for" in finding for finding in of_all.findings)


def test_json_and_file_give_it_back(law, tmp_path):
    text = json.dumps(law.to_json(), allow_nan=False)
    read = ScalingLaw.from_json(json.loads(text))
    assert read.to_json() == law.to_json()
    assert read.predict(1e22).num_params == law.predict(1e22).num_params
    law.save(tmp_path)
    assert ScalingLaw.load(tmp_path).predict(2e21) == law.predict(2e21)
    section = law.to_json()["own"]
    assert section["method"] == "BestOfBudget"
    assert section["refusal"] is None


def test_its_settings_are_on_record_and_decide_what_it_is_a_fit_of(noisy, law):
    settings = law.provenance["settings"]["BestOfBudget"]
    assert settings == {"type": f"{__name__}.BestOfBudget", "degree": 1}
    how = {"flop_rule": SIX, "draws": 200, "seed": 0}
    assert is_fit_of(law, noisy, answer=BestOfBudget(), **how)
    assert not is_fit_of(law, noisy, answer=BestOfBudget(degree=2), **how)
    assert not is_fit_of(law, noisy, answer=SurfaceFit(), **how)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Refusing(), "this is a test"),
        (Spendthrift(), "Spendthrift spends .* FLOPs by the FLOP rule"),
        (Sinking(), "Sinking says loss_opt = -"),
    ],
)
def test_where_it_refuses_or_is_no_law_the_preferred_method_answers(noisy, answer, reason):
    result = fit_runs(noisy, answer=answer, draws=0)
    assert result.answer == "combined"
    (refusal,) = result.refusals.values()
    assert re.search(reason, refusal)
    assert any(finding.startswith(type(answer).__name__) for finding in result.diagnostics.findings)
    read = ScalingLaw.from_json(json.loads(json.dumps(result.to_json())))
    assert read.refusals == result.refusals


def test_what_is_no_dataclass_is_refused_with_what_to_do(noisy):
    with pytest.raises(FitError, match="frozen dataclass of its settings"):
        fit_runs(noisy, answer=lambda runs, rule: BestOfBudget()(runs, rule), draws=0)


def test_a_method_that_fails_on_half_of_the_resamples_has_no_intervals(noisy):
    @dataclasses.dataclass(frozen=True)
    class Choosy(BestOfBudget):
        def __call__(self, runs, flop_rule):
            if len({run.id for run in runs}) < len(noisy):
                raise ValueError("not these")
            return super().__call__(runs, flop_rule)

    result = fit_runs(noisy, answer=Choosy(), draws=50)
    assert result.answer == "Choosy"
    assert result.draws is None
    assert "No intervals: these 40 runs" in result.diagnostics.verdict


def test_a_table_follows_a_law_of_any_shape_and_goes_on_straight_beyond():
    surface = SurfaceFit()(sweep(CHINCHILLA))
    table = TabulatedLaw.of(surface, "surface", (1e18, 1e20), SIX)
    for flops in np.geomspace(2e17, 5e23, 37):
        assert table.loss_opt(flops) == pytest.approx(surface.loss_opt(flops), rel=1e-5)
        assert table.N_opt(flops) == pytest.approx(surface.N_opt(flops), rel=1e-9)
    assert table.N_opt(1e30) == pytest.approx(surface.N_opt(1e30), rel=1e-9)
    assert table.a == pytest.approx(CHINCHILLA.a, rel=1e-6)
    many = TabulatedDraws.stacked([table, dataclasses.replace(table, log_loss=table.log_loss + 1)])
    np.testing.assert_allclose(many.loss_opt(3e19), [1, math.e] * table.loss_opt(3e19))
    each_its_own = many.loss_opt(np.array([1e18, 1e20]))
    np.testing.assert_allclose(each_its_own, [1, math.e] * table.loss_opt(np.array([1e18, 1e20])))


# Approach 1.


def curves(runs: list[Run], points: int = 12) -> list[Run]:
    """Checkpoints of every run whose losses are those of finished runs as long."""
    return [
        dataclasses.replace(
            run,
            num_tokens=run.num_tokens * share,
            flops=run.flops * share,
            num_steps=round(1000 * share),
            loss=float(CHINCHILLA(run.num_params, run.num_tokens * share)),
        )
        for run in runs
        for share in np.geomspace(0.01, 1.0, points)
    ]


@pytest.fixture(scope="module")
def enveloped():
    runs = sweep(CHINCHILLA)
    return fit_runs(runs, answer=EnvelopeFit(), checkpoints=curves(runs), draws=100)


def test_envelope_of_training_curves_answers_with_the_planted_exponent(enveloped):
    assert enveloped.answer == "envelope"
    assert enveloped.fits.laws["envelope"].a == pytest.approx(CHINCHILLA.a, abs=0.02)
    best = CHINCHILLA.N_opt(1e20, SIX)
    assert enveloped.predict(1e20).num_params == pytest.approx(best, rel=0.15)
    low, high = enveloped.intervals["envelope.a"]["95"]
    assert low < CHINCHILLA.a < high
    assert any("of which" in f and "end their run" in f for f in enveloped.diagnostics.findings)


def test_envelope_survives_json_and_file(enveloped, tmp_path):
    text = json.dumps(enveloped.to_json(), allow_nan=False)
    assert ScalingLaw.from_json(json.loads(text)).to_json() == enveloped.to_json()
    enveloped.save(tmp_path)
    assert ScalingLaw.load(tmp_path).predict(1e21) == enveloped.predict(1e21)
    section = enveloped.to_json()["envelope"]
    assert {"a", "N_coefficient", "num_final", "points", "refusal"} <= section.keys()
    assert 0 < section["num_final"] <= len(section["points"])


def test_envelope_without_curves_leaves_it_to_the_preferred_method():
    result = fit_runs(sweep(CHINCHILLA), answer=EnvelopeFit(), draws=0)
    assert result.answer == "combined"
    assert "columns.num_steps" in result.refusals["envelope"]


def test_curves_are_part_of_what_an_envelope_is_of(enveloped):
    runs = sweep(CHINCHILLA)
    how = {"flop_rule": SIX, "answer": EnvelopeFit(), "draws": 100, "seed": 0}
    assert is_fit_of(enveloped, runs, checkpoints=curves(runs), **how)
    assert not is_fit_of(enveloped, runs, **how)


def test_it_is_examined_like_ours_and_may_fail_on_parts_of_the_runs_as_it_likes(noisy, law):
    numbers = law.diagnostics.numbers
    blind = BestOfBudget()([run for run in noisy if run.budget < BUDGETS[-1]], SIX)
    (test,) = (test for test in numbers.back_tests if test.method == "BestOfBudget")
    top = law.budgets[-1]
    assert test.loss_predicted == pytest.approx(float(blind.loss_opt(top.flops)), rel=1e-4)
    for budget, part in zip(BUDGETS, numbers.without_budget, strict=True):
        a = BestOfBudget()([run for run in noisy if run.budget != budget], SIX).size.exponent
        assert part.exponents["BestOfBudget"] == pytest.approx(a, rel=1e-6)
    assert {bias.method for bias in numbers.biases} == {"isoflop", "BestOfBudget"}

    @dataclasses.dataclass(frozen=True)
    class OfAll(BestOfBudget):
        def __call__(self, runs, flop_rule):
            if len(runs) < len(noisy):
                raise ValueError("not these")
            return super().__call__(runs, flop_rule)

    numbers = fit_runs(noisy, answer=OfAll(), draws=0).diagnostics.numbers
    assert {part.exponents["OfAll"] for part in numbers.without_budget} == {None}
    assert {test.method for test in numbers.back_tests} == {"isoflop", "surface"}
