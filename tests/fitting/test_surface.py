import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize
from sweeps import ASYMMETRIC, CHINCHILLA, SYMMETRIC, points, rows, sweep

from flops_fit.fitting import AbsoluteError, FitError, Huber, SquaredError, SurfaceFit
from flops_fit.fitting.surface.solver import Design, Ending, Space, solve
from flops_fit.laws import FlopRule, LossSurface

OBJECTIVES = (Huber(), Huber(1e-4), SquaredError(), AbsoluteError())


@pytest.mark.parametrize("surface", [SYMMETRIC, CHINCHILLA, ASYMMETRIC])
def test_F6_noise_free_losses_give_the_surface_back(surface):
    law = SurfaceFit().law(points(sweep(surface)))
    for name, value in dataclasses.asdict(surface).items():
        assert getattr(law.surface, name) == pytest.approx(value, rel=1e-6), name
    assert law.N_opt(1e24) == pytest.approx(surface.N_opt(1e24, FlopRule.constant()), rel=1e-6)
    assert law.start_agreement == 1.0
    assert law.at_bounds == ()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_step_of_an_independent_optimizer_improves_the_optimum(objective):
    noisy = points(sweep(CHINCHILLA, noise=0.01, seed=3))
    law = SurfaceFit(objective=objective).law(noisy)
    s = law.surface

    def total(p):
        E, log_a, log_b, alpha, beta = p
        shape = LossSurface(E, np.exp(log_a), np.exp(log_b), alpha, beta)
        predicted = shape(noisy.num_params, noisy.num_tokens)
        return float(objective.values(predicted, noisy.loss).sum())

    at = np.array([s.E, np.log(s.A), np.log(s.B), s.alpha, s.beta])
    assert total(at) == pytest.approx(law.value, rel=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(3):
        start = at * (1 + 0.01 * rng.standard_normal(5))
        found = minimize(total, start, method="Nelder-Mead", options={"maxiter": 4000})
        assert law.value <= found.fun * (1 + 1e-9)


def test_the_optimum_of_a_large_table_is_that_of_all_its_rows(monkeypatch):
    """Fewer rows decide only where it is looked for."""
    noisy = points(sweep(CHINCHILLA, noise=0.01, seed=3))
    all_rows = SurfaceFit().law(noisy)
    monkeypatch.setattr("flops_fit.fitting.surface.fit.MOST_ROWS_TO_SEARCH", len(noisy) // 2)
    half = SurfaceFit().law(noisy)
    assert half.value == pytest.approx(all_rows.value, rel=1e-12)
    for name, value in dataclasses.asdict(all_rows.surface).items():
        assert getattr(half.surface, name) == pytest.approx(value, rel=1e-6), name


def test_huber_of_hand_picked_residuals():
    predicted, measured = np.exp([0.0005, 0.01, -0.01]), np.ones(3)
    expected = [0.5 * 0.0005**2, 1e-3 * (0.01 - 0.0005), 1e-3 * (0.01 - 0.0005)]
    np.testing.assert_allclose(Huber(1e-3).values(predicted, measured), expected)
    np.testing.assert_allclose(SquaredError().values(np.array([3.0]), np.array([2.0])), [0.5])
    np.testing.assert_allclose(
        AbsoluteError().values(np.exp([0.25]), np.ones(1)), [0.25], rtol=1e-6
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_penalty_derivatives_are_those_of_finite_differences(objective):
    measured = np.full(6, 3.0)
    predicted = measured * np.exp([-0.3, -0.01, -2e-5, 3e-5, 0.02, 0.5])
    h = 1e-7
    if isinstance(objective, AbsoluteError):
        h = 1e-9
    penalty = objective.penalty(predicted, measured)
    up, down = (objective.penalty(predicted + s * h, measured) for s in (1, -1))
    np.testing.assert_allclose(penalty.value, objective.values(predicted, measured))
    np.testing.assert_allclose(
        penalty.slope, (up.value - down.value) / (2 * h), rtol=1e-4, atol=1e-9
    )
    np.testing.assert_allclose(
        penalty.curvature, (up.slope - down.slope) / (2 * h), rtol=1e-4, atol=1e-6
    )


def test_F10_the_mean_objective_has_the_optimum_of_the_sum():
    """Weights 1/n turn the sum into the mean; nothing but the value may change."""
    noisy = points(sweep(CHINCHILLA, noise=0.01, seed=5))
    design = Design.of(noisy.num_params, noisy.num_tokens, noisy.loss)
    start = design.centred(CHINCHILLA)[None]
    weights = np.ones((1, len(noisy)))
    ending = Ending(tolerance=1e-13, max_steps=400)
    ends = [
        solve(start, w, design, Huber(), Space.free(design), ending)
        for w in (weights, weights / len(noisy))
    ]
    np.testing.assert_allclose(ends[1].fits, ends[0].fits, rtol=1e-8)
    np.testing.assert_allclose(ends[1].values * len(noisy), ends[0].values, rtol=1e-8)


def test_integer_weights_are_repeated_rows():
    noisy = points(sweep(CHINCHILLA, noise=0.01, seed=1))
    fit = SurfaceFit()
    law = fit.law(noisy)
    counts = np.random.default_rng(0).integers(0, 3, size=len(noisy))
    refit = fit.refits(noisy, law, counts[None].astype(float))
    repeated = np.repeat(np.arange(len(noisy)), counts)
    columns = (noisy.num_params, noisy.num_tokens, noisy.loss)
    direct = fit.law(rows(*(column[repeated] for column in columns)))
    assert refit.alpha[0] == pytest.approx(direct.surface.alpha, abs=1e-4)
    assert refit.E[0] == pytest.approx(direct.surface.E, abs=1e-4)


def test_tied_exponents_are_equal_and_recover_a_symmetric_surface():
    fit = SurfaceFit(tied_exponents=True)
    law = fit.law(points(sweep(SYMMETRIC)))
    assert law.surface.alpha == law.surface.beta == pytest.approx(0.31, rel=1e-6)
    noisy = points(sweep(CHINCHILLA, noise=0.005))
    assert fit.law(noisy).surface.a == pytest.approx(0.5)
    assert fit.law(noisy).value >= SurfaceFit().law(noisy).value


def test_tied_exponents_need_only_four_runs():
    few = points(sweep(SYMMETRIC, budgets=(1e18, 1e19), sizes=(0.5, 2.0)))
    with pytest.raises(FitError, match=r"4 different .* needs 6.*tie the exponents"):
        SurfaceFit().law(few)
    law = SurfaceFit(tied_exponents=True).law(few)
    assert law.N_opt(1e20) == pytest.approx(SYMMETRIC.N_opt(1e20, FlopRule.constant()), rel=1e-3)


def test_a_pinned_asymptote_stays_where_it_is_put():
    noisy = points(sweep(CHINCHILLA, noise=0.005))
    law = SurfaceFit(asymptote=1.5).law(noisy)
    assert law.surface.E == 1.5
    assert law.at_bounds == ()
    exact = SurfaceFit(asymptote=CHINCHILLA.E).law(points(sweep(CHINCHILLA)))
    assert exact.surface.beta == pytest.approx(CHINCHILLA.beta, rel=1e-6)


def test_absolute_errors_ignore_a_few_wrong_rows():
    runs = sweep(CHINCHILLA)
    for i in (3, 17, 30):
        runs[i] = dataclasses.replace(runs[i], loss=runs[i].loss * 1.05)
    law = SurfaceFit(objective=AbsoluteError()).law(points(runs))
    assert law.surface.alpha == pytest.approx(CHINCHILLA.alpha, abs=1e-4)
    squares = SurfaceFit(objective=SquaredError()).law(points(runs))
    assert abs(squares.surface.alpha - CHINCHILLA.alpha) > 1e-3


def test_a_surface_without_an_asymptote_is_reported_at_its_bound():
    without = dataclasses.replace(CHINCHILLA, E=0.0)
    short = points(sweep(without, noise=0.003, seed=4))
    lowered = short.with_loss(short.loss - 0.2)
    law = SurfaceFit().law(lowered)
    assert law.surface.E == 0.0
    assert "E" in law.at_bounds


def grid(num_params, num_tokens):
    n, d = (v.ravel() for v in np.meshgrid(num_params, num_tokens))
    return rows(n, d, CHINCHILLA(n, d))


N, D = np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (grid(N[:1], np.geomspace(1e9, 1e11, 8)), "all runs have one size"),
        (grid(np.geomspace(1e7, 1e9, 8), D[:1]), "one number of tokens"),
        (rows(*(np.geomspace(*r, 9) for r in ((1e7, 1e9), (2e8, 2e10), (4, 3)))), "identifiable"),
        (rows(*(np.geomspace(*r, 9) for r in ((1e7, 1e9), (1e11, 1e9), (4, 3)))), "one budget"),
        (grid(N[:2], D[:2]), "4 different"),
        (grid(N, D).with_loss(np.full(16, 3.0)), "every loss is 3"),
    ],
)
def test_rows_that_determine_no_surface_are_refused(refused, message):
    with pytest.raises(FitError, match=message):
        SurfaceFit().law(refused)


@pytest.mark.parametrize("delta", [0.0, -1e-3, float("nan")])
def test_impossible_huber_thresholds_are_refused(delta):
    with pytest.raises(FitError, match="delta"):
        Huber(delta)


def test_optimum_under_a_table_of_flops_is_the_minimum_along_it():
    rule = FlopRule((1e7, 1e8, 1e9), (1.2e8, 8e8, 6.3e9))
    law = SurfaceFit().law(points(sweep(CHINCHILLA, rule=rule), rule))
    best = float(law.N_opt(1e20))
    assert rule(best) * law.D_opt(1e20) == pytest.approx(1e20, rel=1e-12)
    for ratio in (0.9, 0.99, 1.01, 1.1):
        other = CHINCHILLA(best * ratio, rule.tokens(1e20, best * ratio))
        assert other > law.loss_opt(1e20)
