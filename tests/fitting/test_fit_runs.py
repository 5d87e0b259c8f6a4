import dataclasses
import json
import math

import numpy as np
import pytest
from sweeps import ASYMMETRIC, BUDGETS, CHINCHILLA, SIZES, SYMMETRIC, sweep

from flops_fit.fitting import (
    CombinedFit,
    Cubic,
    FitError,
    Huber,
    IsoflopFit,
    LowestLoss,
    ScalingLaw,
    SquaredError,
    SurfaceFit,
    fit_runs,
)
from flops_fit.laws import FlopRule
from flops_fit.shown import short_flops, span

UNEVEN = FlopRule((1e8, 1e9, 1e10), (8.5e8, 6.9e9, 6.2e10))

METHODS = ("isoflop", "surface", "combined")


@pytest.fixture(scope="module")
def noisy():
    return sweep(CHINCHILLA, noise=0.003, seed=1)


@pytest.fixture(scope="module")
def law(noisy):
    return fit_runs(noisy, draws=500)


def numbers(value):
    """Every float of a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for entry in value for number in numbers(entry)]
    return [value] if isinstance(value, float) else []


def test_all_methods_find_the_planted_law_within_their_intervals(law):
    assert law.answer == "combined"
    for method in METHODS:
        low, high = law.intervals[f"{method}.a"]["95"]
        assert low < CHINCHILLA.a < high
        low, high = law.predict_by(method, 1e22).intervals["num_params"]["95"]
        assert low < CHINCHILLA.N_opt(1e22, FlopRule.constant()) < high


def test_predictions_stand_at_trained_budgets_and_up_to_a_thousand_times_beyond(law):
    expected = [*BUDGETS, *(m * BUDGETS[-1] for m in (10, 100, 1000))]
    for method in METHODS:
        mine = [p for p in law.predictions if p.method == method]
        assert [p.budget for p in mine] == pytest.approx(expected)
        assert mine[-1].extrapolation == pytest.approx(1000)
    assert law.predictions[-1] == law.predict_by("combined", expected[-1])
    assert len(law.predictions) == len(METHODS) * len(expected)


def test_eighty_percent_lies_inside_ninety_five_and_both_about_the_prediction(law):
    prediction = law.predict(1e21)
    for name, levels in prediction.intervals.items():
        (low, high), (wide_low, wide_high) = levels["80"], levels["95"]
        assert wide_low < low < high < wide_high
        assert wide_low < getattr(prediction, name) < wide_high


@pytest.mark.parametrize("rule", [FlopRule.constant(), UNEVEN])
@pytest.mark.parametrize("answer", [IsoflopFit(), SurfaceFit(), CombinedFit()])
def test_every_prediction_spends_its_budget_by_the_flop_rule(rule, answer):
    result = fit_runs(sweep(CHINCHILLA, rule=rule), flop_rule=rule, answer=answer, draws=0)
    for prediction in result.predictions:
        spent = rule(prediction.num_params) * prediction.num_tokens
        assert spent == pytest.approx(prediction.budget, rel=1e-9)
    assert result.diagnostics.numbers.flops_ratio == pytest.approx(1.0, rel=1e-12)


def test_json_gives_the_law_back_and_holds_no_nan(law):
    text = json.dumps(law.to_json(), allow_nan=False)
    read = ScalingLaw.from_json(json.loads(text))
    assert read.to_json() == law.to_json()
    assert read.predict(1e22).num_params == law.predict(1e22).num_params
    assert read.predict(1e22).intervals == {}
    assert all(math.isfinite(number) for number in numbers(law.to_json()))


def test_a_saved_law_predicts_with_its_intervals(law, tmp_path):
    assert law.save(tmp_path / "new").name == "law.json"
    read = ScalingLaw.load(tmp_path / "new")
    for budget in (1e18, 1e23):
        assert read.predict(budget) == law.predict(budget)
        for method in METHODS:
            assert read.predict_by(method, budget) == law.predict_by(method, budget)


def test_law_json_has_the_documented_keys(law):
    data = law.to_json()
    assert {"a", "b", "N_coefficient", "budgets"} <= set(data["isoflop"])
    assert {"budget", "N_opt", "D_opt", "loss", "verdict", "reason"} <= set(
        data["isoflop"]["budgets"][0]
    )
    surface = {
        "objective",
        "delta",
        "value",
        "E",
        "A",
        "B",
        "alpha",
        "beta",
        "kappa",
        "a",
        "b",
        "G",
    }
    assert surface <= set(data["surface"])
    assert set(data["combined"]) == {"a", "parts", "size", "loss", "trained", "refusal"}
    assert set(data["intervals"]) == {
        *(f"isoflop.{name}" for name in ("a", "b", "N_coefficient")),
        *(f"surface.{name}" for name in ("E", "A", "B", "alpha", "beta", "kappa", "a", "b", "G")),
        "combined.a",
    }
    assert set(data["intervals"]["isoflop.a"]) == {"80", "95"}
    assert {
        "method",
        "budget",
        "num_params",
        "num_tokens",
        "tokens_per_param",
        "loss",
        "extrapolation",
        "intervals",
    } == set(data["predictions"][0])
    assert data["flop_rule"] == {"num_params": [1.0], "flops_per_token": [6.0]}
    assert data["schema_version"] == 2
    assert data["provenance"]["input_sha256"]


def test_same_runs_and_seed_give_the_same_law_and_another_seed_other_intervals(noisy):
    first, again = (fit_runs(noisy, draws=50, seed=7).to_json() for _ in range(2))
    other = fit_runs(noisy, draws=50, seed=8).to_json()
    assert first == again
    assert first["surface"] == other["surface"]
    assert first["intervals"] != other["intervals"]


def test_the_input_hash_tells_one_changed_loss(noisy):
    changed = [dataclasses.replace(noisy[0], loss=noisy[0].loss + 1e-9), *noisy[1:]]
    hashes = {fit_runs(r, draws=0).provenance["input_sha256"] for r in (noisy, changed)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "answer",
    [IsoflopFit(curve=Cubic(), window=None), SurfaceFit(objective=SquaredError()), SurfaceFit(),
     CombinedFit()],
)  # fmt: skip
def test_the_asked_method_answers_with_its_settings_on_record(noisy, answer):
    result = fit_runs(noisy, answer=answer, draws=0)
    assert result.answer == result.predict(1e21).method == answer.method
    settings = result.provenance["settings"][answer.method]
    assert settings["type"] == type(answer).__name__
    json.dumps(settings)


def test_runs_without_a_result_are_left_out_by_name(noisy):
    broken = [
        dataclasses.replace(noisy[0], id="exploded", status="diverged", loss=None),
        dataclasses.replace(noisy[1], id="crashed", status="failed", loss=None),
        dataclasses.replace(noisy[2], id="unmeasured", loss=None),
        dataclasses.replace(noisy[3], id="twin"),
    ]
    result = fit_runs([*noisy, *broken], draws=0)
    reasons = {d.id: d.reason for d in result.dropped}
    assert reasons == {
        "exploded": "diverged",
        "crashed": "status is failed",
        "unmeasured": "has no loss",
        "twin": f"the same row as {noisy[3].id}",
    }
    assert result.rows_used == tuple(run.id for run in noisy)
    assert result.of("surface") == fit_runs(noisy, draws=0).of("surface")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": float("nan")}, "loss = nan"),
        ({"loss": float("inf")}, "loss = inf"),
        ({"loss": -2.0}, r"loss = -2\.0"),
        ({"num_params": 0.0}, r"num_params = 0\.0"),
        ({"num_tokens": float("inf")}, "num_tokens = inf"),
        ({"flops": 1e20}, r"100 times.*check the units"),
        ({"flops": 0.9999999e19}, r"10 times.*check the units"),
        ({"budget": float("nan")}, "budget = nan"),
    ],
)
def test_rows_that_can_not_be_true_are_refused_by_name(changes, message):
    runs = sweep(CHINCHILLA)
    runs[0] = dataclasses.replace(runs[0], **changes)
    with pytest.raises(FitError, match=f"{runs[0].id}.*{message}".replace("+", r"\+")):
        fit_runs(runs, draws=0)


@pytest.mark.parametrize("runs", [[], sweep(CHINCHILLA)[:3]])
def test_too_few_runs_are_refused_with_both_reasons(runs):
    with pytest.raises(FitError, match=r"different .* for a surface that needs 6") as refusal:
        fit_runs(runs)
    assert refusal.value.next_step


def test_constant_losses_are_refused_by_both_methods():
    runs = [dataclasses.replace(run, loss=3.0) for run in sweep(CHINCHILLA)]
    with pytest.raises(FitError, match=r"flat.*every loss is 3"):
        fit_runs(runs)


def test_one_sided_budgets_leave_others_to_answer():
    small = sweep(CHINCHILLA, sizes=tuple(np.geomspace(1 / 64, 1 / 4, 6)), noise=0.001)
    result = fit_runs(small, answer=IsoflopFit(), draws=100)
    assert "isoflop" not in result.fits.laws
    assert "edge" in result.refusals["isoflop"]
    assert result.answer == "combined"
    assert {o.verdict for o in result.budgets} == {"edge"}
    assert any("approach 2" in finding for finding in result.diagnostics.findings)
    read = ScalingLaw.from_json(json.loads(json.dumps(result.to_json())))
    assert "isoflop" not in read.fits.laws
    assert read.refusals == result.refusals
    with pytest.raises(FitError, match="no law by 'isoflop'"):
        result.predict_by("isoflop", 1e21)


def test_six_runs_give_a_law_but_no_intervals_that_would_flatter_it():
    runs = sweep(CHINCHILLA, budgets=(1e18, 1e19), sizes=(0.4, 1.0, 2.5))
    result = fit_runs(runs, answer=SurfaceFit(), draws=100)
    assert not any(name.startswith("surface") for name in result.intervals)
    assert result.predict(1e20).intervals == {}
    assert "No intervals: these 6 runs give too little" in result.diagnostics.verdict
    assert result.of("surface").surface.alpha == pytest.approx(CHINCHILLA.alpha, rel=1e-6)


def test_losses_that_only_a_line_can_follow_leave_it_to_answer():
    """Valleys of constant depth whose minimum moves with C^0.9: no surface does that."""
    runs = []
    for run in sweep(SYMMETRIC):
        shift = math.log(run.num_params / 3e8) - 0.9 * math.log(run.flops / 1e19)
        runs.append(dataclasses.replace(run, loss=3 + 0.02 * shift**2))
    result = fit_runs(runs, answer=SurfaceFit(), draws=50)
    assert result.answer == "combined"
    assert result.of("combined").a == pytest.approx(0.9, abs=1e-6)
    assert set(result.of("combined").parts) == {"parabola", "parabola of the last 4", "akima"}
    assert result.of("isoflop").a == pytest.approx(0.9, abs=1e-6)
    assert "no power law in N" in result.refusals["surface"]


def test_conflicting_twins_are_refused_unless_the_best_is_selected(noisy):
    other = dataclasses.replace(noisy[5], id="other learning rate", loss=noisy[5].loss * 1.2)
    with pytest.raises(FitError, match=r"other learning rate.*lowest"):
        fit_runs([*noisy, other], draws=0)
    result = fit_runs([*noisy, other], select=LowestLoss(), draws=0)
    assert [d.id for d in result.dropped] == ["other learning rate"]
    assert result.of("surface") == fit_runs(noisy, draws=0).of("surface")


def test_repeated_seeds_all_count():
    runs = sweep(CHINCHILLA, noise=0.002, seed=1)
    seeds = [
        dataclasses.replace(run, id=f"{run.id}-b", seed=1)
        for run in sweep(CHINCHILLA, noise=0.002, seed=2)
    ]
    result = fit_runs([*runs, *seeds], draws=0)
    assert len(result.rows_used) == 80
    assert result.of("isoflop").noise == pytest.approx(0.002, rel=0.4)


def test_no_draws_mean_no_intervals(noisy):
    result = fit_runs(noisy, draws=0)
    assert result.intervals == {}
    assert result.predict(1e20).intervals == {}
    with pytest.raises(FitError, match="draws is -1"):
        fit_runs(noisy, draws=-1)


def test_diagnostics_find_a_wrong_row_and_the_narrow_design():
    runs = sweep(CHINCHILLA, noise=0.001, seed=2)
    runs[7] = dataclasses.replace(runs[7], loss=runs[7].loss * 1.04)
    d = fit_runs(runs, answer=SurfaceFit(objective=SquaredError()), draws=300).diagnostics
    assert d.of_methods["surface"].influential_runs[0].id == runs[7].id
    close = sweep(CHINCHILLA, budgets=(1e18, 2e18, 3e18), sizes=(0.6, 0.8, 1, 1.3), noise=0.003)
    narrow = fit_runs(close, answer=SurfaceFit(), draws=300).diagnostics
    assert narrow.of_methods["surface"].identifiable is False
    assert "these runs don't fix how the loss falls" in narrow.verdict


def test_diagnostics_of_a_clean_sweep(law):
    assert law.diagnostics.verdict.startswith("Good to 3e21 FLOPs (30x)")
    d = law.diagnostics.numbers
    of_surface = law.diagnostics.of_methods["surface"]
    assert of_surface.identifiable is True
    (agreement,) = d.agreements
    assert agreement.agree is True
    assert d.reach == 30
    assert of_surface.noise == pytest.approx(0.003, rel=0.4)
    assert law.of("surface").start_agreement == 1.0
    assert [w.left_out for w in d.without_budget] == [f"budget {b:.4g}" for b in BUDGETS]
    for part in (*d.without_budget, d.without_edges):
        assert part.exponents["surface"] == pytest.approx(CHINCHILLA.a, abs=0.05)
    assert {t.method for t in d.back_tests} == {"isoflop", "surface"}
    for test in d.back_tests:
        assert test.extrapolation == pytest.approx(np.sqrt(10))
        assert abs(test.loss_error) < 0.02
    assert [f.delta for f in of_surface.deltas] == [1e-4, 1e-3, 1e-2, 1e-1]
    assert all(0 < p.narrowing < 1 for p in of_surface.next_runs)


def test_what_moves_the_exponent_is_said_in_words():
    """Sizes at the edges whose losses are off, and a budget of its own mind."""
    runs = sweep(CHINCHILLA)
    for i in range(0, len(runs), len(SIZES)):
        runs[i] = dataclasses.replace(runs[i], loss=runs[i].loss * (1 + 0.002 * i))
    for i in range(len(runs) - len(SIZES), len(runs)):
        tilted = runs[i].loss * (1 + 0.01 * math.log(runs[i].num_params / runs[-1].num_params))
        runs[i] = dataclasses.replace(runs[i], loss=tilted)
    d = fit_runs(runs, answer=SurfaceFit(objective=SquaredError()), draws=0).diagnostics
    (edges,) = (f for f in d.findings if "each budget's outermost sizes" in f)
    assert f"{d.numbers.without_edges.exponents['surface']:.3f}, not " in edges
    (budgets,) = (f for f in d.findings if "without one of the budgets" in f)
    lowest = min(part.exponents["surface"] for part in d.numbers.without_budget)
    assert f"{lowest:.3f} to" in budgets


def test_next_runs_are_said_with_their_cost_and_the_interval_before_and_after(law):
    (said,) = (line for line in law.diagnostics.advice if " runs at " in line)
    assert said not in law.diagnostics.findings
    proposals = law.diagnostics.of_methods["surface"].next_runs
    proposal = next(p for p in proposals if f"at {short_flops(p.budget)} (N" in said)
    assert f", {short_flops(proposal.total_flops)} FLOPs) narrow N at " in said
    for low, high in (proposal.num_params_80_now, proposal.num_params_80):
        assert span(low, high) in said
    now, after = proposal.num_params_80_now, proposal.num_params_80
    assert now[0] < after[0] < after[1] < now[1]


def test_expected_narrowing_is_what_more_runs_bring():
    """The proposal's promise against a fit with those very runs."""
    budgets = (1e18, 1e19, 1e20)
    runs, fit = sweep(CHINCHILLA, budgets=budgets, noise=0.003, seed=3), SurfaceFit()
    before = fit_runs(runs, answer=fit, draws=2000)
    proposal = before.diagnostics.of_methods["surface"].next_runs[-1]
    ratios = [n / CHINCHILLA.N_opt(proposal.budget, FlopRule.constant())
              for n in proposal.num_params]  # fmt: skip
    more = sweep(CHINCHILLA, budgets=(proposal.budget,), sizes=ratios, noise=0.003, seed=4)
    after = fit_runs([*runs, *more], answer=fit, draws=2000)

    def width(result):
        low, high = result.predict(proposal.target).intervals["num_params"]["80"]
        return math.log(high / low)

    assert width(after) / width(before) == pytest.approx(proposal.narrowing, abs=0.3)


def test_asymmetric_surface_is_recovered_where_parabolas_are_biased():
    result = fit_runs(sweep(ASYMMETRIC, drift=3.0), draws=0)
    assert result.of("surface").surface.a == pytest.approx(ASYMMETRIC.a, abs=1e-6)
    (bias,) = result.diagnostics.numbers.biases
    true = ASYMMETRIC.N_opt(bias.budget, FlopRule.constant())
    assert np.log10(result.of("isoflop").N_opt(bias.budget) / true) == pytest.approx(
        bias.log10_num_params, abs=1e-6
    )


def test_huber_threshold_of_the_config_reaches_the_law(noisy):
    result = fit_runs(noisy, answer=SurfaceFit(objective=Huber(1e-2)), draws=0)
    assert result.to_json()["surface"]["delta"] == 1e-2


def test_a_law_of_another_schema_or_with_missing_keys_is_refused(law):
    with pytest.raises(ValueError, match="schema version 99"):
        ScalingLaw.from_json({**law.to_json(), "schema_version": 99})
    data = law.to_json()
    del data["combined"]
    with pytest.raises(FitError, match=r"no law by 'combined'"):
        ScalingLaw.from_json(data)
