"""The numbers of the diagnostics are what refits by hand give."""

from dataclasses import replace

import numpy as np
import pytest
from sweeps import ASYMMETRIC, BUDGETS, CHINCHILLA, points, sweep

from flops_fit.fitting import Cubic, IsoflopFit, SquaredError, SurfaceFit, fit_runs
from flops_fit.fitting.bootstrap import standard_error
from flops_fit.fitting.examine.examination import measured
from flops_fit.fitting.methods import Methods
from flops_fit.laws import FlopRule

SIX = FlopRule.constant()
FITS = {"isoflop": IsoflopFit(), "surface": SurfaceFit()}
FEW = {"budgets": (1e18, 3e18, 1e19), "sizes": (1 / 4, 1 / 2, 1, 2, 4)}
"""Budgets and sizes of a sweep of 15 runs."""


@pytest.fixture(scope="module")
def runs():
    return sweep(CHINCHILLA, noise=0.003, seed=1)


@pytest.fixture(scope="module")
def law(runs):
    return fit_runs(runs, draws=300)


@pytest.fixture(scope="module")
def numbers(law):
    return law.diagnostics.numbers


@pytest.fixture(scope="module")
def of_surface(law):
    return law.diagnostics.of_methods["surface"]


def width(bounds):
    return bounds[1] - bounds[0]


# Back-tests.


def test_a_back_test_is_a_fit_that_has_not_seen_the_largest_budget(runs, law, numbers):
    top = law.budgets[-1]
    assert {test.method for test in numbers.back_tests} == {"isoflop", "surface"}
    for test in numbers.back_tests:
        blind = FITS[test.method]([run for run in runs if run.budget < BUDGETS[-1]])
        assert test.loss_predicted == pytest.approx(float(blind.loss_opt(top.flops)), rel=1e-9)
        assert test.log10_num_params_error == pytest.approx(
            np.log10(float(blind.N_opt(top.flops)) / top.N_opt), rel=1e-9
        )


def test_a_back_test_compares_with_what_was_measured_at_the_largest_budget(law, numbers):
    top = law.budgets[-1]
    for test in numbers.back_tests:
        assert test.budget == BUDGETS[-1]
        assert test.extrapolation == pytest.approx(BUDGETS[-1] / BUDGETS[-2])
        assert test.loss_measured == top.loss
        assert test.loss_error == pytest.approx(test.loss_predicted / top.loss - 1)


def test_a_largest_budget_that_went_2_percent_worse_is_predicted_2_percent_too_low():
    worse = [
        replace(run, loss=run.loss * 1.02) if run.budget == BUDGETS[-1] else run
        for run in sweep(CHINCHILLA)
    ]
    clean, tests = (
        {
            test.method: test.loss_error
            for test in fit_runs(r, draws=0).diagnostics.numbers.back_tests
        }
        for r in (sweep(CHINCHILLA), worse)
    )
    for method, error in tests.items():
        assert error == pytest.approx((1 + clean[method]) / 1.02 - 1, rel=1e-9)
    assert tests["surface"] == pytest.approx(1 / 1.02 - 1, abs=2e-3)
    assert clean["isoflop"] == pytest.approx(0, abs=6e-3)  # a prior on the asymptote


# Reach, agreement, identification: read off the intervals of law.json.


def test_reach_is_the_last_target_known_within_a_factor_of_2_either_way():
    runs = sweep(CHINCHILLA, **FEW, noise=0.02, seed=3)
    law = fit_runs(runs, answer=SurfaceFit(), draws=400)

    def is_useful(multiple):
        prediction = law.predict(multiple * law.largest_budget)
        low, high = prediction.intervals["num_params"]["80"]
        return high / low <= 2**2

    reach = law.diagnostics.numbers.reach
    assert 1 < reach < 30
    assert is_useful(reach)
    assert not is_useful(2 * reach)


def test_exponents_agree_as_long_as_their_95_percent_intervals_overlap():
    """A sweep whose 80% intervals don't."""
    runs = sweep(CHINCHILLA, **FEW, noise=0.003, seed=14)
    law = fit_runs(runs, answer=IsoflopFit(curve=Cubic()), draws=200)
    overlap = {}
    for level in ("80", "95"):
        line, surface = (law.intervals[f"{m}.a"][level] for m in ("isoflop", "surface"))
        overlap[level] = line[0] <= surface[1] and surface[0] <= line[1]
    assert overlap == {"80": False, "95": True}
    (agreement,) = law.diagnostics.numbers.agreements
    assert agreement.agree is True


@pytest.mark.parametrize(("share", "agree"), [(0.94, True), (0.99, False)])
def test_exponents_agree_up_to_the_end_of_the_95_percent_interval_of_the_line(share, agree):
    """Draws of the line of which a share lies below all that the surface may be."""
    runs = sweep(CHINCHILLA, noise=0.003, seed=1)
    law = fit_runs(runs, draws=100)
    lowest, _ = law.intervals["surface.a"]["95"]
    line = law.fits.draws["isoflop"]
    a = lowest + 0.01 * (np.linspace(0, 1, line.num_draws) - share)
    draws = {**law.fits.draws, "isoflop": replace(line, a=a)}
    methods = Methods.answering(SurfaceFit(), points(()))
    fits = replace(law.fits, draws=draws)
    (found,) = measured(points(runs), methods, fits, "surface", law.budgets).agreements
    assert found.agree is agree


def test_a_bias_explains_exponents_that_differ_by_it_and_in_its_direction():
    """Draws of approach 2 that lie by its bias above, or below, those of the surface."""
    runs = sweep(ASYMMETRIC, sizes=tuple(np.geomspace(1 / 16, 16, 9)), drift=3.0, noise=1e-4)
    methods = Methods.answering(IsoflopFit(window=None), points(()))
    law = fit_runs(runs, answer=methods.asked, draws=200)
    (found,) = law.diagnostics.numbers.biases
    bias, line = found.a, law.fits.draws["isoflop"]
    assert abs(bias) > 0.005
    scatter = 1e-4 * np.random.default_rng(0).standard_normal(line.num_draws)
    for sign, explains in ((1, True), (-1, False)):
        a = np.median(law.fits.draws["surface"].a) + sign * bias + scatter
        draws = {**law.fits.draws, "isoflop": replace(line, a=a)}
        fits = replace(law.fits, draws=draws)
        (found,) = measured(points(runs), methods, fits, "isoflop", law.budgets).agreements
        assert found.agree is False
        assert (found.biased, found.exact) == ("isoflop", "surface")
        assert found.agree_less_bias is explains


@pytest.mark.parametrize(
    ("noise", "seed", "identifiable"),
    # The widest 95% interval of the second is 0.31, its 80% interval 0.14.
    [(0.003, 1, True), (0.008, 2, False), (0.005, 4, True)],
)
def test_a_surface_is_identified_where_both_95_percent_intervals_are_below_0_3(
    noise, seed, identifiable
):
    law = fit_runs(sweep(CHINCHILLA, **FEW, noise=noise, seed=seed), draws=400)
    widest = max(width(law.intervals[f"surface.{name}"]["95"]) for name in ("alpha", "beta"))
    assert (widest <= 0.3) is identifiable
    assert law.diagnostics.of_methods["surface"].identifiable is identifiable


def test_exponents_are_those_of_the_predictions_over_the_trained_budgets(law, numbers):
    low, high = BUDGETS[0], BUDGETS[-1]
    for method, a in numbers.exponents.items():
        sizes = [law.predict_by(method, budget).num_params for budget in (low, high)]
        assert a == pytest.approx(np.log(sizes[1] / sizes[0]) / np.log(high / low), rel=1e-6)


# What happens without parts of the sweep.


def test_exponents_without_a_budget_are_those_of_a_fit_to_the_others(runs, numbers):
    assert len(numbers.without_budget) == len(BUDGETS)
    for budget, part in zip(BUDGETS, numbers.without_budget, strict=True):
        rest = [run for run in runs if run.budget != budget]
        assert part.left_out == f"budget {budget:.4g}"
        assert part.exponents["isoflop"] == pytest.approx(IsoflopFit()(rest).a, rel=1e-9)
        assert part.exponents["surface"] == pytest.approx(SurfaceFit()(rest).a, abs=1e-4)


def test_without_edges_is_without_the_smallest_and_the_largest_size_of_every_budget(runs, numbers):
    inner = []
    for budget in BUDGETS:
        inner += sorted((r for r in runs if r.budget == budget), key=lambda r: r.num_params)[1:-1]
    assert numbers.without_edges.left_out == "edge sizes"
    assert numbers.without_edges.exponents["isoflop"] == pytest.approx(
        IsoflopFit()(inner).a, rel=1e-9
    )
    assert numbers.without_edges.exponents["surface"] == pytest.approx(
        SurfaceFit()(inner).a, abs=1e-4
    )


def test_influential_are_the_runs_without_which_a_moves_by_a_standard_error():
    fit = SurfaceFit(objective=SquaredError())
    runs = sweep(CHINCHILLA, budgets=(1e18, 3e18, 1e19), sizes=(1 / 4, 1, 4), noise=0.003, seed=14)
    law = fit_runs(runs, answer=fit, draws=300)
    scatter = width(np.quantile(law.draws.a, (0.16, 0.84))) / 2
    moved = {
        run.id: (fit([r for r in runs if r is not run]).a - law.of("surface").a) / scatter
        for run in runs
    }
    found = law.diagnostics.of_methods["surface"].influential_runs
    expected = {run_id for run_id, by in moved.items() if abs(by) > 1}
    assert {influence.id for influence in found} == expected
    assert len(expected) == 2
    for influence in found:
        assert influence.standard_errors == pytest.approx(moved[influence.id], abs=0.02)
        a = law.of("surface").a + influence.standard_errors * scatter
        assert influence.a == pytest.approx(a)
    most, other = (influence.standard_errors for influence in found)
    assert most > -other > 1


def test_a_standard_error_is_the_standard_deviation_of_normal_draws_whatever_strays():
    draws = 3.0 + 0.25 * np.random.default_rng(0).standard_normal(20_000)
    assert standard_error(draws) == pytest.approx(0.25, rel=0.03)
    strayed = np.append(draws, np.full(100, 1e6))
    assert standard_error(strayed) == pytest.approx(0.25, rel=0.05)


def test_other_thresholds_are_fits_with_those_thresholds(runs, of_surface):
    assert len(of_surface.deltas) == 4
    for fit in of_surface.deltas:
        objective = replace(SurfaceFit().objective, delta=fit.delta)
        surface = SurfaceFit(objective=objective)(runs).surface
        found = (fit.a, fit.alpha, fit.beta)
        assert found == pytest.approx((surface.a, surface.alpha, surface.beta), rel=1e-9)


# Bias and proposals.


def test_the_bias_is_what_approach_2_makes_of_the_fitted_surface_itself(runs, law, numbers):
    surface = law.of("surface").surface
    exact = [replace(r, loss=float(surface(r.num_params, r.num_tokens))) for r in runs]
    line, budget = IsoflopFit()(exact), 10 * BUDGETS[-1]
    (bias,) = numbers.biases
    assert (bias.method, bias.if_exact) == ("isoflop", "surface")
    assert bias.budget == pytest.approx(budget)
    assert bias.a == pytest.approx(line.a - surface.a, abs=1e-9)
    off = float(line.N_opt(budget)) / float(surface.N_opt(budget, SIX))
    assert bias.log10_num_params == pytest.approx(np.log10(off), abs=1e-9)


def test_proposals_begin_with_the_interval_that_predict_gives_at_their_target(law, of_surface):
    assert [p.budget for p in of_surface.next_runs] == pytest.approx([1e20, 3e20, 1e21])
    for p in of_surface.next_runs:
        assert p.target == pytest.approx(100 * law.largest_budget)
        now = law.predict_by("surface", p.target).intervals["num_params"]["80"]
        assert p.num_params_80_now == pytest.approx(now, rel=1e-9)
        logs = [np.log(pair) for pair in (p.num_params_80, p.num_params_80_now)]
        assert width(logs[0]) / width(logs[1]) == pytest.approx(p.narrowing, rel=1e-9)


def test_a_proposal_is_of_five_sizes_about_the_optimum_and_costs_what_they_cost(law, of_surface):
    for p in of_surface.next_runs:
        assert len(p.num_params) == 5
        assert p.num_params[2] == pytest.approx(float(law.of("surface").N_opt(p.budget)))
        assert p.num_params[0] < p.num_params[2] < p.num_params[-1]
        assert p.total_flops == pytest.approx(5 * p.budget)


def test_more_expensive_proposals_promise_more(of_surface):
    narrowing = [p.narrowing for p in of_surface.next_runs]
    assert narrowing == sorted(narrowing, reverse=True)


# Noise.


def test_noise_about_the_surface_is_that_of_most_runs_however_bad_a_few_are():
    runs = sweep(CHINCHILLA, noise=0.004, seed=5)
    diagnostics = fit_runs(runs, draws=0).diagnostics
    clean = diagnostics.of_methods["surface"]
    assert clean.noise == pytest.approx(0.004, rel=0.35)
    assert diagnostics.numbers.seed_noise is None
    for i in (3, 17, 30):
        runs[i] = replace(runs[i], loss=runs[i].loss * 1.3)
    spoilt = fit_runs(runs, draws=0).diagnostics.of_methods["surface"]
    assert spoilt.noise == pytest.approx(clean.noise, rel=0.35)
