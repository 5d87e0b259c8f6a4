"""L(C) through the optima: what it says of the asymptote, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.fitting import FitError
from flops_fit.fitting.isoflop.loss_trend import (
    AGE,
    DEPARTURE,
    SHARE,
    SHARE_SPREAD,
    LossTrend,
    TrendPosterior,
)
from flops_fit.laws import Array

FLOPS = np.geomspace(1e17, 1e20, 6)


def planted(flops: Array, asymptote: float = 1.8, gamma: float = 0.15) -> Array:
    return np.asarray(asymptote + 2.0 * (flops / 1e18) ** -gamma)


def test_the_optima_of_an_exact_law_are_continued():
    posterior = TrendPosterior(FLOPS, planted(FLOPS))
    assert posterior.trend(1e19) == pytest.approx(float(planted(np.array(1e19))), rel=3e-3)
    assert posterior.trend(1e22) == pytest.approx(float(planted(np.array(1e22))), rel=0.02)
    assert posterior.weights.sum() == pytest.approx(1)


def test_a_pinned_asymptote_is_taken_as_it_is():
    trend = TrendPosterior(FLOPS[:3], planted(FLOPS[:3]), asymptote=1.8).trend
    assert trend.asymptote == 1.8
    assert trend.gamma == pytest.approx(0.15, rel=1e-9)
    assert trend(1e24) == pytest.approx(float(planted(np.array(1e24))), rel=1e-9)


def test_an_asymptote_above_a_measured_loss_is_refused():
    with pytest.raises(FitError, match=r"pinned at 2\.9, and a loss of 2\.802"):
        TrendPosterior(FLOPS, planted(FLOPS), asymptote=2.9)


def test_two_budgets_put_the_asymptote_where_published_laws_have_it():
    loss = planted(FLOPS[-2:])
    posterior = TrendPosterior(FLOPS[-2:], loss)
    share = float(posterior.trend.asymptote) / loss.min()
    assert share == pytest.approx(SHARE, abs=0.02)


def test_a_loss_of_another_kind_that_falls_to_nothing_is_believed():
    """An error rate or squared error without a floor: no share of it is left over."""
    loss = 0.3 * (FLOPS / 1e17) ** -0.4
    posterior = TrendPosterior(FLOPS, loss)
    assert posterior.trend.asymptote < 0.15 * loss.min()
    assert posterior.trend(1e21) == pytest.approx(0.3 * 1e4**-0.4, rel=0.15)


def test_old_budgets_count_less_than_new_ones():
    loss = planted(FLOPS)
    early, late = (np.where(np.arange(6) == i, 1.02, 1.0) * loss for i in (0, 5))
    clean = TrendPosterior(FLOPS, loss, 1.8).trend(1e22)
    moved = [abs(TrendPosterior(FLOPS, y, 1.8).trend(1e22) - clean) for y in (early, late)]
    assert moved[0] < 0.2 * moved[1]


def test_draws_have_the_mean_and_variance_that_the_posterior_says():
    posterior = TrendPosterior(FLOPS[-4:], planted(FLOPS[-4:]) * [1.004, 0.998, 1.0, 1.001])
    trends, departure = posterior.draws(40_000, np.random.default_rng(0))
    for flops in (1e19, 1e20, 1e21, 1e22):
        drawn = np.log(trends(flops)) + departure
        assert drawn.std() == pytest.approx(float(posterior.variance(flops)[0]) ** 0.5, rel=0.08)
        assert drawn.mean() == pytest.approx(np.log(posterior.trend(flops)), abs=0.01)


@pytest.mark.parametrize("budgets", [3, 5])
def test_intervals_hold_what_they_promise_where_the_prior_is_true(budgets: int):
    """Laws drawn from the prior: the nominal 80% interval of the next optimum holds 80%."""
    generator = np.random.default_rng(budgets)
    log_c = np.linspace(-2.5, 0, budgets)
    inside = []
    for _ in range(400):
        share = generator.normal(SHARE, SHARE_SPREAD)
        spread = DEPARTURE * np.sqrt(4 / generator.chisquare(4))
        line = generator.normal(-0.15, 0.05) * log_c
        exact = np.log(share + (1 - share) * np.exp(line))
        errors = spread * (1 - log_c / AGE) * generator.standard_normal(budgets)
        posterior = TrendPosterior(np.exp(log_c), 3.0 * np.exp(exact + errors))
        true = _beyond(share, line, log_c) + spread * generator.standard_normal()
        trends, departure = posterior.draws(1000, generator)
        low, high = np.quantile(np.log(trends(np.exp(1.5))) + departure, (0.1, 0.9))
        inside.append(low <= np.log(3.0) + true <= high)
    assert 0.72 < np.mean(inside) < 0.9


def _beyond(share: float, line: Array, log_c: Array) -> float:
    slope = line[0] / log_c[0]
    return float(np.log(share + (1 - share) * np.exp(1.5 * slope)))


def test_noise_widens_and_its_part_is_told():
    loss = planted(FLOPS)
    quiet, noisy = TrendPosterior(FLOPS, loss), TrendPosterior(FLOPS, loss, noise=0.01)
    assert noisy.variance(1e21)[0] > 2 * quiet.variance(1e21)[0]
    assert quiet.noise_variance(1e21)[0] == 0
    assert noisy.noise_variance(1e21)[0] > 0.3 * noisy.variance(1e21)[0]


def test_what_it_follows_from_is_written_and_read():
    posterior = TrendPosterior(FLOPS, planted(FLOPS), noise=0.001)
    again = TrendPosterior.from_json(posterior.to_json())
    np.testing.assert_array_equal(again.weights, posterior.weights)
    trend = LossTrend.from_json(posterior.trend.to_json())
    assert trend(1e23) == posterior.trend(1e23)
