import re

import numpy as np
import pytest
from scipy.interpolate import Akima1DInterpolator
from sweeps import ASYMMETRIC, BUDGETS, CHINCHILLA, SIZES, SYMMETRIC, points, rows, sweep

from flops_fit.fitting import Akima, Cubic, FitError, Huber, IsoflopFit, Parabola, SurfaceLaw
from flops_fit.fitting.examine.sensitivity import bias_on_grid
from flops_fit.laws import FlopRule

SIX = FlopRule.constant()


def valley(budget, sizes, best, curvature=0.1, noise=0.0, seed=0):
    """Rows of one budget whose loss is a parabola in ln N with its minimum at `best`."""
    n = np.asarray(sizes, dtype=float)
    loss = 3 + curvature * np.log(n / best) ** 2
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return n, budget / 6 / n, loss, np.full(len(n), budget)


def joined(*budgets):
    n, d, loss, c = (np.concatenate(columns) for columns in zip(*budgets, strict=True))
    return rows(n, d, loss, budget=c)


def test_line_through_planted_minima_has_their_exponent():
    best = {1e18: 1e8, 1e19: 3e8, 1e20: 9e8}
    fitted = IsoflopFit().law(
        joined(*(valley(c, n * np.geomspace(1 / 4, 4, 5), n) for c, n in best.items()))
    )
    assert fitted.a == pytest.approx(np.log10(3.0))
    assert fitted.b == pytest.approx(1 - np.log10(3.0))
    assert fitted.N_opt(1e21) == pytest.approx(27e8)
    assert 6 * fitted.N_opt(1e23) * fitted.D_opt(1e23) == pytest.approx(1e23, rel=1e-12)
    for optimum in fitted.budgets:
        assert optimum.verdict == "ok"
        assert optimum.N_opt == pytest.approx(best[optimum.budget])
        assert optimum.loss == pytest.approx(3.0)


def test_symmetric_surface_on_symmetric_grids_has_no_bias():
    fitted = IsoflopFit().law(points(sweep(SYMMETRIC)))
    assert fitted.a == pytest.approx(0.5, abs=1e-9)
    assert fitted.N_opt(1e24) == pytest.approx(SYMMETRIC.N_opt(1e24, SIX), rel=1e-8)


def bias_of(fit, sample, surface):
    """At 1e24 FLOPs if `surface` is exact."""
    exact = SurfaceLaw(surface, SIX, Huber(), 0.0, start_agreement=1.0, promised_decrease=0.0)
    return bias_on_grid(sample, fit, exact, "surface", 1e24)


@pytest.mark.parametrize("surface", [SYMMETRIC, CHINCHILLA, ASYMMETRIC])
@pytest.mark.parametrize("drift", [1.0, 3.0])
@pytest.mark.parametrize("curve", [Parabola(), Cubic(), Akima()])
def test_F6_bias_on_noise_free_losses_is_what_the_estimator_says(surface, drift, curve):
    sample = points(sweep(surface, drift=drift))
    fit = IsoflopFit(curve=curve)
    fitted = fit.law(sample)
    bias = bias_of(fit, sample, surface)
    shift = np.log10(fitted.N_opt(1e24) / surface.N_opt(1e24, SIX))
    assert bias.log10_num_params == pytest.approx(float(shift), abs=1e-9)
    assert bias.a == pytest.approx(fitted.a - surface.a, abs=1e-9)


def test_bias_of_a_parabola_is_a_constant_shift_where_exponents_differ():
    """Where centres follow N_opt every budget has the same curve: only the intercept is off."""
    bias = bias_of(IsoflopFit(), points(sweep(ASYMMETRIC)), ASYMMETRIC)
    assert bias.a == pytest.approx(0.0, abs=1e-9)
    assert bias.log10_num_params > 0.01
    drifting = points(sweep(ASYMMETRIC, drift=3.0))
    assert abs(bias_of(IsoflopFit(window=None), drifting, ASYMMETRIC).a) > 5e-3


SIZES_OF_TEST = np.geomspace(2.5e7, 4e8, 5)
GOOD = valley(1e18, SIZES_OF_TEST, 1e8, noise=1e-3)


@pytest.mark.parametrize(
    ("budget", "verdict", "words"),
    [
        (valley(1e19, SIZES_OF_TEST, 1e6, noise=1e-3), "edge", "smallest size.*train 12.5M"),
        (valley(1e19, SIZES_OF_TEST, 1e10, noise=1e-3), "edge", "largest size.*train 800M"),
        (valley(1e19, SIZES_OF_TEST, 1e8, curvature=1e-4, noise=1e-3), "flat", "no different"),
        (valley(1e19, SIZES_OF_TEST, 1e8, curvature=-0.1, noise=1e-3), "concave", "downward"),
        (valley(1e19, SIZES_OF_TEST[:2], 1e8), "few", "2 sizes, a curve needs 3"),
        (valley(1e19, SIZES_OF_TEST, 1e8, noise=1e-3), "ok", "minimum between"),
    ],
)
def test_each_budget_gets_its_verdict_and_the_reason(budget, verdict, words):
    fit = IsoflopFit()
    sample = joined(GOOD, budget)
    first, second = fit.optima(sample, fit.noise(sample))
    assert first.verdict == "ok"
    assert second.verdict == verdict
    assert re.search(words, second.reason)


def test_fewer_than_two_bracketed_budgets_are_refused_with_what_to_run():
    edge = valley(1e19, SIZES_OF_TEST, 1e10)
    with pytest.raises(FitError, match=r"1 of 2 budgets .*1e19 FLOPs: edge.* train 800M"):
        IsoflopFit().law(joined(GOOD, edge))
    with pytest.raises(FitError, match=r"1 budget: .*at least two"):
        IsoflopFit().law(joined(GOOD))


def test_only_bracketed_budgets_enter_the_line():
    line = [valley(c, n * np.geomspace(1 / 4, 4, 5), n) for c, n in ((1e18, 1e8), (1e19, 3e8))]
    edge = valley(1e20, SIZES_OF_TEST, 1e12)
    assert IsoflopFit().law(joined(*line, edge)).a == pytest.approx(
        IsoflopFit().law(joined(*line)).a, rel=1e-12
    )


@pytest.mark.parametrize("family", [Parabola(), Cubic(), Akima()])
def test_lowest_point_of_a_curve_is_that_of_a_dense_grid(family):
    for optimum in IsoflopFit(curve=family).optima(points(sweep(CHINCHILLA, noise=0.01)), 0.01):
        knots = optimum.curve.knots
        dense = np.exp(np.linspace(knots[0], knots[-1], 20001))
        assert optimum.loss == pytest.approx(optimum.curve(dense).min(), rel=1e-8)
        assert optimum.curve(optimum.N_opt) == pytest.approx(optimum.loss, rel=1e-12)


def test_akima_curve_is_scipys():
    n, _, loss, _ = valley(1e18, np.geomspace(1e7, 1e9, 7), 9e7, noise=0.05)
    curve = Akima().curve(np.log(n), loss)
    inside = np.geomspace(1e7, 1e9, 50)
    np.testing.assert_allclose(curve(inside), Akima1DInterpolator(np.log(n), loss)(np.log(inside)))


def test_window_keeps_the_sizes_near_the_least_loss_but_never_too_few():
    wide = valley(1e18, 1e8 * np.geomspace(1 / 64, 64, 13), 1e8)
    bent = (wide[0], wide[1], wide[2] + np.where(wide[0] > 9e8, 2.0, 0.0), wide[3])
    (near,) = IsoflopFit().optima(joined(bent), None)
    (everything,) = IsoflopFit(window=None).optima(joined(bent), None)
    assert near.N_opt == pytest.approx(1e8)
    assert everything.N_opt < 9e7
    (five,) = IsoflopFit(window=1.1).optima(joined(bent), None)
    assert np.exp(np.ptp(five.curve.knots)) == pytest.approx(64 ** (4 / 6))


def test_noise_is_that_of_the_losses_and_of_repeated_seeds_where_there_are_any():
    many = joined(
        *(valley(c, np.geomspace(3e7, 3e8, 9), 1e8, noise=0.01, seed=i) for i, c in
          enumerate(np.geomspace(1e18, 1e20, 40)))
    )  # fmt: skip
    assert IsoflopFit().noise(many) == pytest.approx(0.01, rel=0.2)
    n, d, loss, c = valley(1e18, np.geomspace(3e7, 3e8, 9), 1e8)
    seeds = joined((n, d, loss * np.exp(0.02), c), (n, d, loss * np.exp(-0.02), c))
    assert IsoflopFit().noise(seeds) == pytest.approx(0.02 * np.sqrt(2), rel=1e-6)


def test_three_sizes_per_budget_tell_no_noise_and_give_no_draws():
    sample = points(sweep(CHINCHILLA, sizes=(0.5, 1.0, 2.0)))
    law = IsoflopFit().law(sample)
    assert law.noise is None
    assert IsoflopFit().draws(sample, law, 100, seed=0) is None


def test_draws_scatter_as_repeated_sweeps_do():
    fit = IsoflopFit()
    exponents = [fit.law(points(sweep(CHINCHILLA, noise=0.003, seed=seed))).a for seed in range(80)]
    sample = points(sweep(CHINCHILLA, noise=0.003, seed=1000))
    draws = fit.draws(sample, fit.law(sample), 2000, seed=0)
    assert draws.a.std() == pytest.approx(np.std(exponents), rel=0.6)


def test_intervals_allow_for_the_shift_of_a_parabola_where_exponents_differ():
    clean = IsoflopFit().fitted(points(sweep(CHINCHILLA, noise=0.0005)), 500, 0)
    low, high = np.quantile(clean.draws.N_opt(1e20), (0.05, 0.95))
    assert low < CHINCHILLA.N_opt(1e20, SIX) < clean.law.N_opt(1e20) < high
    assert np.std(clean.draws.a) < 0.003  # the shift is the same at all budgets


def test_what_few_budgets_leave_open_of_the_asymptote_is_in_the_interval():
    """A power law through three budgets would put the loss below the planted one, surely."""
    sample = points(sweep(CHINCHILLA, budgets=(1e18, 1e19, 1e20), noise=0.001))
    fit = IsoflopFit()
    law = fit.law(sample)
    draws = fit.draws(sample, law, 1000, seed=0)
    low, high = np.quantile(draws.loss_opt(1e24), (0.025, 0.975))
    assert low < law.loss_opt(1e24) < high
    assert low < CHINCHILLA.loss_opt(1e24, SIX) < high
    assert np.ptp(np.quantile(draws.loss_opt(1e19), (0.025, 0.975))) < 0.3 * (high - low)


def test_many_draws_are_fitted_as_each_alone():
    rng = np.random.default_rng(0)
    log_n = np.log(np.geomspace(1e7, 1e9, 7))
    losses = 3 + 0.1 * (log_n - 18.5)[:, None] ** 2 + 0.02 * rng.standard_normal((7, 5))
    for family in (Parabola(), Cubic(), Akima()):
        together, _ = family.curve(log_n, losses).lowest()
        alone = [float(family.curve(log_n, losses[:, i]).lowest()[0]) for i in range(5)]
        np.testing.assert_allclose(together, alone, rtol=1e-10)


def test_the_sweep_of_these_tests_is_what_it_says():
    assert len(points(sweep(CHINCHILLA))) == len(BUDGETS) * len(SIZES) == 40
