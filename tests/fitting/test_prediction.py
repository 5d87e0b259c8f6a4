import dataclasses
import json

import numpy as np
import pytest
from sweeps import CHINCHILLA, points, sweep

from flops_fit.fitting import FitError, IsoflopFit, SurfaceFit, fit_runs
from flops_fit.laws import FlopRule
from flops_fit.laws.prediction import (
    PLAUSIBLE_N,
    NoSuchRun,
    Prediction,
    central_intervals,
    cost_of_size,
    flat_band,
)
from flops_fit.laws.publication import predict_published
from flops_fit.laws.published import published_law
from flops_fit.report.summary import answer_words
from flops_fit.report.tables import band_line, cost_line

SIX = FlopRule.constant()


@pytest.fixture(scope="module")
def law():
    return fit_runs(sweep(CHINCHILLA, noise=0.002), draws=200)


def test_prediction_from_size_or_tokens_is_the_one_at_their_budget(law):
    at_budget = law.predict(3e21)
    by_size = law.predict_for_num_params(at_budget.num_params)
    by_tokens = law.predict_for_num_tokens(at_budget.num_tokens)
    assert by_size.budget == pytest.approx(3e21, rel=1e-6)
    assert by_tokens.loss == pytest.approx(at_budget.loss, rel=1e-6)


@pytest.mark.parametrize("wrong", [0.0, -1e9, float("nan"), float("inf")])
def test_impossible_targets_are_refused(law, wrong):
    for question in (law.predict, law.predict_for_num_params, law.predict_for_num_tokens):
        with pytest.raises(ValueError, match="not a finite positive number"):
            question(wrong)


def test_sizes_beyond_any_budget_are_refused(law):
    with pytest.raises(ValueError, match="no budget makes N"):
        law.predict_for_num_params(1e40)


@pytest.fixture(scope="module")
def exact():
    """The planted surface as a law."""
    return SurfaceFit().law(points(sweep(CHINCHILLA)))


def test_flat_band_ends_where_the_loss_is_a_tenth_of_a_percent_up(exact):
    band = flat_band(exact, None, 1e21)
    best = float(CHINCHILLA.N_opt(1e21, SIX))
    assert band.low < best < band.high
    assert band.intervals == {}
    for edge in (band.low, band.high):
        loss = CHINCHILLA(edge, SIX.tokens(1e21, edge))
        assert loss == pytest.approx(1.001 * CHINCHILLA.loss_opt(1e21, SIX), rel=1e-9)


def test_cost_of_the_optimal_size_is_nothing_and_of_others_what_more_compute_mends(exact):
    best = float(exact.N_opt(1e21))
    none = cost_of_size(exact, None, 1e21, best)
    assert none.excess_loss == pytest.approx(0.0, abs=1e-12)
    assert none.excess_compute == pytest.approx(0.0, abs=1e-9)
    other = cost_of_size(exact, None, 1e21, best / 3)
    more_tokens = other.num_tokens * (1 + other.excess_compute)
    assert CHINCHILLA(best / 3, more_tokens) == pytest.approx(float(CHINCHILLA.loss_opt(1e21, SIX)))
    assert other.excess_compute > 0.3
    assert cost_of_size(exact, None, 1e21, best / 1000).excess_compute is None


def test_intervals_of_band_and_cost_hold_the_planted_ones(law, exact):
    band, true_band = law.flat_band(1e21), flat_band(exact, None, 1e21)
    cost, true_cost = law.cost_of_size(1e21, 5e8), cost_of_size(exact, None, 1e21, 5e8)
    for found, true, name in (
        (band, true_band, "low"),
        (band, true_band, "high"),
        (cost, true_cost, "loss"),
        (cost, true_cost, "excess_loss"),
        (cost, true_cost, "excess_compute"),
    ):
        (low, high), (wide_low, wide_high) = (found.intervals[name][k] for k in ("80", "95"))
        assert wide_low < low < high < wide_high, name
        assert wide_low < getattr(found, name) < wide_high, name
        assert wide_low < getattr(true, name) < wide_high, name


def test_a_size_that_some_draws_never_mend_has_no_upper_limit():
    """N whose capacity alone takes it just below the best loss by the law, not by each draw."""
    law = fit_runs(sweep(CHINCHILLA, noise=0.002), answer=SurfaceFit(), draws=200)
    s = law.of("surface").surface
    edge = ((law.law.loss_opt(1e21) - s.E) / s.A) ** (-1 / s.alpha)
    cost = law.cost_of_size(1e21, 1.02 * float(edge))
    low, high = cost.intervals["excess_compute"]["95"]
    assert 0 < low < cost.excess_compute < high == np.inf
    assert json.loads(json.dumps(cost.to_json()))["intervals"]["excess_compute"]["95"][1] is None
    assert "x the FLOPs" in cost_line(cost, 1e21)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_the_cost_of_an_impossible_size_is_refused(law, wrong):
    with pytest.raises(ValueError, match="not a finite positive number"):
        law.cost_of_size(1e21, wrong)


def test_the_cost_of_sizes_needs_a_surface(law):
    laws = {"isoflop": law.of("isoflop")}
    refused = dataclasses.replace(law.fits, laws=laws, refusals={"surface": "too few runs"})
    only_line = dataclasses.replace(law, answer="isoflop", fits=refused)
    with pytest.raises(
        FitError, match=r"no law tells the loss of any size .surface: too few runs."
    ):
        only_line.flat_band(1e20)
    assert only_line.predict(1e20).method == "isoflop"


def test_far_targets_carry_a_warning(law):
    assert law.predict(30 * law.largest_budget).warning is None
    assert "100 times" in law.predict(100 * law.largest_budget).warning


def test_intervals_are_percentiles_of_the_finite_draws():
    draws = np.append(np.arange(1001.0), [np.nan, np.inf])
    assert central_intervals(draws) == {"80": (100.0, 900.0), "95": (25.0, 975.0)}
    assert central_intervals([]) == {}


def test_ends_that_no_run_can_have_are_open():
    draws = [0.01, *np.geomspace(1e3, 1e9, 98), 1e130, np.inf, np.nan]
    assert central_intervals(draws, PLAUSIBLE_N)["95"][1] < 1e18
    low, high = central_intervals([*draws, *[0.01] * 5, *[1e130] * 5], PLAUSIBLE_N)["95"]
    assert (low, high) == (0.0, np.inf)


def test_prediction_survives_json(law):
    prediction = law.predict(1e21).prediction
    assert Prediction.from_json(prediction.to_json()) == prediction
    ends = {"80": (1e9, np.inf), "95": (0.0, np.inf)}
    wide = dataclasses.replace(prediction, intervals={"num_params": ends})
    stored = json.loads(json.dumps(wide.to_json(), allow_nan=False))
    assert stored["intervals"]["num_params"] == {"80": [1e9, None], "95": [0.0, None]}
    assert Prediction.from_json(stored) == wide
    answer = dataclasses.replace(law.predict(1e21), prediction=wide)
    assert " (no limit), D = " in answer_words(answer)


def test_a_band_without_edges_has_no_numbers_for_them():
    exact = SurfaceFit().law(points(sweep(dataclasses.replace(CHINCHILLA, E=1e6))))
    band = flat_band(exact, None, 1e21)
    assert (band.low, band.high) == (0.0, np.inf)
    assert band.to_json()["high"] is None
    assert band_line(band) == "at 1e21 FLOPs all sizes lose less than 0.1%"


@pytest.mark.parametrize("budget", [1e-3, 1e60])
def test_no_law_answers_what_no_run_can_be(law, exact, budget):
    chinchilla = published_law("chinchilla")
    for ask in (law.predict, lambda c: predict_published(chinchilla, c)):
        with pytest.raises(NoSuchRun, match="which no run can have"):
            ask(budget)
    with pytest.raises(NoSuchRun, match="no run can be that"):
        cost_of_size(exact, None, 1e21, 1e30)


def test_isoflop_answers_all_questions_of_budget():
    law = fit_runs(sweep(CHINCHILLA, noise=0.002), answer=IsoflopFit(), draws=200)
    prediction = law.predict(1e21)
    assert prediction.method == "isoflop"
    assert law.predict_for_num_params(prediction.num_params).budget == pytest.approx(1e21)
    assert set(prediction.intervals) == {"num_params", "num_tokens", "loss"}
