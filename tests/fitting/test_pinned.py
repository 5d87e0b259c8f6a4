"""Approach 2 with an asymptote that is pinned, or an exponent that is held."""

import json

import numpy as np
import pytest
from sweeps import BUDGETS, SYMMETRIC, points, sweep

from flops_fit.cli import main
from flops_fit.fitting import IsoflopFit
from flops_fit.fitting.isoflop.loss_trend import (
    AGE,
    DEPARTURE,
    DEPARTURE_FREEDOM,
    SHARE,
    SHARE_SPREAD,
    TrendPosterior,
)
from flops_fit.laws import FlopRule
from flops_fit.tables import write_runs

NINE_TENTHS = (0.05, 0.95)


def loss_interval(asymptote, runs, flops):
    fitted = IsoflopFit(asymptote=asymptote).fitted(points(runs), draws=300, seed=0)
    return np.quantile(fitted.draws.loss_opt(flops), NINE_TENTHS)


@pytest.mark.parametrize(("beyond", "at_most"), [(10, 0.75), (100, 0.5)])
def test_a_pinned_asymptote_narrows_the_loss_and_its_interval_holds_the_truth(beyond, at_most):
    """Of 12 sweeps with 0.3% noise all; the free one is about twice and four times as wide."""
    flops = beyond * BUDGETS[-1]
    truth = float(SYMMETRIC.loss_opt(flops, FlopRule.constant()))
    ratios = []
    for seed in range(12):
        runs = sweep(SYMMETRIC, noise=0.003, seed=seed)
        low, high = loss_interval(SYMMETRIC.E, runs, flops)
        assert low < truth < high
        ratios.append((high - low) / np.ptp(loss_interval(None, runs, flops)))
    assert np.mean(ratios) < at_most


@pytest.mark.parametrize("budgets", [2, 3, 5])
def test_the_interval_of_a_pinned_trend_comes_from_the_departures_of_the_optima(budgets):
    """Optima that depart as published ones do: the nominal 80% interval of the next holds 80%."""
    generator = np.random.default_rng(budgets)
    log_c = np.linspace(-2.5, 0, budgets)
    inside = []
    for _ in range(400):
        share = generator.normal(SHARE, SHARE_SPREAD)
        spread = DEPARTURE * np.sqrt(DEPARTURE_FREEDOM / generator.chisquare(DEPARTURE_FREEDOM))
        slope = generator.normal(-0.15, 0.05)
        exact = np.log(share + (1 - share) * np.exp(slope * np.array([*log_c, 1.5])))
        errors = spread * (1 - np.minimum([*log_c, 0.0], 0) / AGE)
        loss = 3.0 * np.exp(exact + errors * generator.standard_normal(budgets + 1))
        posterior = TrendPosterior(np.exp(log_c), loss[:-1], asymptote=3.0 * share)
        trends, departure = posterior.draws(1000, generator)
        low, high = np.quantile(trends(np.exp(1.5)) * np.exp(departure), (0.1, 0.9))
        inside.append(low <= loss[-1] <= high)
    assert 0.72 < np.mean(inside) < 0.88


@pytest.fixture
def answered(tmp_path, monkeypatch, capsys):
    """law.json and the prediction at ten times the largest budget, by settings of `fit`."""
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "sweep.csv", sweep(SYMMETRIC, noise=0.002, seed=3))

    def by(*words):
        say = ["fit", "runs=sweep.csv", "fit=isoflop", "draws=200", "json=true", *words]
        assert main(say) == 0
        law = json.loads(capsys.readouterr().out)
        assert main(["predict", "study=sweep", "budget=1e21", "json=true"]) == 0
        return law, json.loads(capsys.readouterr().out)["predictions"][0]

    return by


def test_a_pinned_asymptote_from_the_command_line(answered):
    _, free = answered()
    law, pinned = answered("fit.asymptote=1.7")
    assert law["isoflop"]["trend"]["asymptote"] == 1.7
    low, high = pinned["intervals"]["loss"]["95"]
    assert low < float(SYMMETRIC.loss_opt(1e21, FlopRule.constant())) < high
    assert high - low < 0.8 * np.ptp(free["intervals"]["loss"]["95"])


def test_an_exponent_that_is_held_from_the_command_line(answered):
    law, prediction = answered("fit.exponent=0.5")
    assert law["isoflop"]["a"] == 0.5
    assert law["intervals"]["isoflop.a"] == {"80": [0.5, 0.5], "95": [0.5, 0.5]}
    assert law["provenance"]["settings"]["isoflop"]["exponent"] == 0.5
    assert prediction["method"] == "isoflop"
    truth = float(SYMMETRIC.N_opt(1e21, FlopRule.constant()))
    assert prediction["num_params"] == pytest.approx(truth, rel=0.1)
    low, high = prediction["intervals"]["num_params"]["95"]
    _, free = answered()
    free_low, free_high = free["intervals"]["num_params"]["95"]
    assert low < truth < high
    assert high / low < (free_high / free_low) ** 0.8
