import dataclasses

import numpy as np
import pytest
from sweeps import CHINCHILLA, sweep

from flops_fit.fitting import FitError, IsoflopFit, fit_runs
from flops_fit.laws import FlopRule
from flops_fit.prediction import Prediction, central_intervals, cost_of_size, flat_band

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


def test_flat_band_ends_where_the_loss_is_a_tenth_of_a_percent_up():
    low, high = flat_band(CHINCHILLA, SIX, 1e21)
    best = float(CHINCHILLA.N_opt(1e21, SIX))
    assert low < best < high
    for edge in (low, high):
        loss = CHINCHILLA(edge, SIX.tokens(1e21, edge))
        assert loss == pytest.approx(1.001 * CHINCHILLA.loss_opt(1e21, SIX), rel=1e-9)


def test_cost_of_the_optimal_size_is_nothing_and_of_others_what_more_compute_mends():
    best = float(CHINCHILLA.N_opt(1e21, SIX))
    none = cost_of_size(CHINCHILLA, SIX, 1e21, best)
    assert none.excess_loss == pytest.approx(0.0, abs=1e-12)
    assert none.excess_compute == pytest.approx(0.0, abs=1e-9)
    other = cost_of_size(CHINCHILLA, SIX, 1e21, best / 3)
    more_tokens = other.num_tokens * (1 + other.excess_compute)
    assert CHINCHILLA(best / 3, more_tokens) == pytest.approx(float(CHINCHILLA.loss_opt(1e21, SIX)))
    assert other.excess_compute > 0.3
    assert cost_of_size(CHINCHILLA, SIX, 1e21, best / 1000).excess_compute is None


def test_the_cost_of_sizes_needs_a_surface(law):
    refused = dataclasses.replace(
        law.fits, surface=None, surface_draws=None, refusals={"surface": "too few runs"}
    )
    only_line = dataclasses.replace(law, answer="isoflop", fits=refused)
    with pytest.raises(FitError, match=r"no loss surface .too few runs."):
        only_line.flat_band(1e20)
    assert only_line.predict(1e20).method == "isoflop"


def test_far_targets_carry_a_warning(law):
    assert law.predict(30 * law.largest_budget).warning is None
    assert "100 times" in law.predict(100 * law.largest_budget).warning


def test_intervals_are_percentiles_of_the_finite_draws():
    draws = np.append(np.arange(1001.0), [np.nan, np.inf])
    assert central_intervals(draws) == {"80": (100.0, 900.0), "95": (25.0, 975.0)}
    assert central_intervals([]) == {}


def test_prediction_survives_json(law):
    prediction = law.predict(1e21)
    assert Prediction.from_json(prediction.to_json()) == prediction


def test_isoflop_answers_all_questions_of_budget():
    law = fit_runs(sweep(CHINCHILLA, noise=0.002), answer=IsoflopFit(), draws=200)
    prediction = law.predict(1e21)
    assert prediction.method == "isoflop"
    assert law.predict_for_num_params(prediction.num_params).budget == pytest.approx(1e21)
    assert set(prediction.intervals) == {"num_params", "num_tokens", "loss"}
