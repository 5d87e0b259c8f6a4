"""A surface that may bend with N, and which rows a surface goes through."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import minimize
from sweeps import BUDGETS, CHINCHILLA, SIZES, points, rows, sweep

from flops_fit.fitting import FitError, Huber, SquaredError, SurfaceFit, SurfaceLaw, fit_runs
from flops_fit.fitting.points import near_best
from flops_fit.fitting.surface import SurfaceDraws
from flops_fit.fitting.surface.solver import Design, Ending, Space, objective_values, solve
from flops_fit.laws import FlopRule, LossSurface, optimal_num_params

SIX = FlopRule.constant()
UNEVEN = FlopRule((1e8, 1e9, 1e10), (8.5e8, 6.9e9, 6.2e10))
BENT = dataclasses.replace(CHINCHILLA, B=60.0, kappa=0.1)
BENT_DOWN = dataclasses.replace(CHINCHILLA, B=2000.0, kappa=-0.08)
BENDING = SurfaceFit(interaction=True)


def brute_force(surface, flops, rule):
    """The best of many sizes that spend `flops`."""
    sizes = np.geomspace(1e6, 1e13, 200_001)
    return sizes[np.argmin(surface(sizes, rule.tokens(flops, sizes)))]


@pytest.fixture(scope="module")
def noisy():
    return points(sweep(BENT, noise=0.003, seed=2))


# kappa.


@pytest.mark.parametrize("surface", [BENT, BENT_DOWN, CHINCHILLA])
def test_noise_free_losses_give_the_bend_back(surface):
    law = BENDING.law(points(sweep(surface)))
    for name, value in dataclasses.asdict(surface).items():
        assert getattr(law.surface, name) == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert law.surface.kappa == pytest.approx(surface.kappa, abs=1e-5)
    assert law.start_agreement == 1.0
    assert law.at_bounds == ()


def test_without_interaction_the_bend_stays_nothing(noisy):
    straight, bent = SurfaceFit().law(noisy), BENDING.law(noisy)
    assert straight.surface.kappa == 0
    assert bent.surface.kappa == pytest.approx(0.1, abs=0.08)
    assert bent.value < straight.value


@pytest.mark.parametrize("rule", [SIX, UNEVEN])
@pytest.mark.parametrize("surface", [BENT, BENT_DOWN])
@pytest.mark.parametrize("flops", [1e18, 1e21, 1e23])
def test_the_optimum_is_the_best_of_all_sizes(surface, rule, flops):
    best = float(surface.N_opt(flops, rule))
    found = brute_force(surface, flops, rule)
    assert best == pytest.approx(found, rel=2e-4)
    assert surface.loss_opt(flops, rule) <= surface(found, rule.tokens(flops, found)) * (1 + 1e-12)


@pytest.mark.parametrize("surface", [BENT, BENT_DOWN])
def test_exponents_and_coefficient_are_those_of_the_optimum(surface):
    low, high = (float(surface.N_opt(c, SIX)) for c in (1e19, 1e22))
    assert surface.a == pytest.approx(np.log(high / low) / np.log(1e3), rel=1e-9)
    assert surface.b == pytest.approx(1 - surface.a)
    assert surface.G * (1e19 / 6) ** surface.a == pytest.approx(low, rel=1e-9)


def test_a_size_takes_as_long_to_a_loss_as_the_surface_says():
    law = BENDING.law(points(sweep(BENT)))
    for size in (1e8, 5e9):
        loss = BENT(size, 3e11)
        assert law.tokens_to_reach(loss, size) == pytest.approx(3e11, rel=1e-3)
        assert BENT.tokens_to_reach(loss, size) == pytest.approx(3e11)
    assert BENT.tokens_to_reach(BENT.E, 1e8) == np.inf


@pytest.mark.parametrize("objective", [Huber(), SquaredError()])
def test_no_step_of_an_independent_optimizer_improves_it(objective, noisy):
    law = SurfaceFit(objective=objective, interaction=True).law(noisy)
    s = law.surface

    def total(p):
        E, log_a, log_b, alpha, beta, kappa = p
        shape = LossSurface(E, np.exp(log_a), np.exp(log_b), alpha, beta, kappa)
        predicted = shape(noisy.num_params, noisy.num_tokens)
        return float(objective.values(predicted, noisy.loss).sum())

    at = np.array([s.E, np.log(s.A), np.log(s.B), s.alpha, s.beta, s.kappa])
    assert total(at) == pytest.approx(law.value, rel=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(2):
        start = at * (1 + 0.01 * rng.standard_normal(6))
        found = minimize(total, start, method="Nelder-Mead", options={"maxiter": 5000})
        assert law.value <= found.fun * (1 + 1e-9)


@pytest.mark.parametrize("objective", [SquaredError(), Huber(0.05)])
@pytest.mark.parametrize("tied", [False, True])
def test_a_step_gains_what_its_gradient_and_hessian_promise(tied, objective):
    """Beside the optimum of losses so noisy that second derivatives of the terms count too."""
    sample = points(sweep(BENT, noise=0.02, seed=5))
    design = Design.of(sample.num_params, sample.num_tokens, sample.loss)
    space = Space.free(design)
    space = (space.with_tied_exponents() if tied else space).with_interaction()
    start, weights = design.centred(BENT)[None], np.ones((1, len(sample)))
    end = solve(start, weights, design, objective, space, Ending(tolerance=1e-13, max_steps=400))
    optimum = space.from_fits(end.fits)[0]
    generator = np.random.default_rng(0)
    axes = np.eye(len(optimum))
    for direction in (*axes, *-axes, *generator.standard_normal((8, len(optimum)))):
        beside = space.fits((optimum + 1e-6 * direction)[None])
        before = objective_values(beside, weights, design, objective)
        after = solve(beside, weights, design, objective, space, Ending(0.0, max_steps=1))
        assert after.values < before
        gained = (before - after.values) / before
        np.testing.assert_allclose(after.gradients, gained, rtol=2e-3)


def test_one_more_number_needs_one_more_run():
    seven = points(sweep(BENT, budgets=(1e18, 1e19), sizes=(0.3, 0.8, 1.5, 3.0)))
    six = seven.rows(np.array([0, 1, 2, 4, 5, 6]))
    with pytest.raises(FitError, match=r"6 different .* needs 7"):
        BENDING.law(six)
    assert BENDING.law(seven).N_opt(1e19) == pytest.approx(BENT.N_opt(1e19, SIX), rel=0.05)


def test_a_surface_on_which_larger_is_always_better_is_refused():
    steep = dataclasses.replace(CHINCHILLA, B=3e5, kappa=-0.4)
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    with pytest.raises(FitError, match="a larger N is better at any budget"):
        BENDING.law(rows(n, d, steep(n, d)))


def test_draws_bend_too_and_hold_the_planted_surface(noisy):
    fitted = BENDING.fitted(noisy, 400, 0)
    low, high = np.quantile(fitted.draws.kappa, (0.025, 0.975))
    assert low < BENT.kappa < high
    assert low < fitted.law.surface.kappa < high
    columns = [getattr(fitted.draws, name)[:5] for name in ("E", "log_A", "log_B")]
    exponents = [getattr(fitted.draws, name)[:5] for name in ("alpha", "beta", "kappa")]
    for i, (E, log_a, log_b, alpha, beta, kappa) in enumerate(
        zip(*columns, *exponents, strict=True)
    ):
        one = LossSurface(E, np.exp(log_a), np.exp(log_b), alpha, beta, kappa)
        assert fitted.draws.N_opt(1e21)[i] == pytest.approx(float(one.N_opt(1e21, SIX)), rel=1e-9)
        assert fitted.draws.loss_opt(1e21)[i] == pytest.approx(float(one.loss_opt(1e21, SIX)))
        assert fitted.draws(1e9, 1e11)[i] == pytest.approx(float(one(1e9, 1e11)))
        assert fitted.draws.a[i] == pytest.approx(one.a)
        assert fitted.draws.quantities()["G"][i] == pytest.approx(one.G)
        reached = fitted.draws.tokens_to_reach(2.3, 1e9)[i]
        assert reached == pytest.approx(float(one.tokens_to_reach(2.3, 1e9)))


def test_refits_of_all_rows_are_the_fit_itself(noisy):
    law = BENDING.law(noisy)
    refit = BENDING.refits(noisy, law, np.ones((1, len(noisy))))
    assert refit.kappa[0] == pytest.approx(law.surface.kappa, abs=1e-4)
    assert refit.a[0] == pytest.approx(law.a, abs=1e-4)


def test_the_bend_is_written_and_read_and_nothing_where_it_is_missing(noisy):
    fitted = BENDING.fitted(noisy, 20, 0)
    data = json.loads(json.dumps(fitted.law.to_json(), allow_nan=False))
    assert SurfaceLaw.from_json(data, SIX) == fitted.law
    earlier = {name: value for name, value in data.items() if name != "kappa"}
    assert SurfaceLaw.from_json(earlier, SIX).surface == dataclasses.replace(
        fitted.law.surface, kappa=0.0
    )
    columns = fitted.draws.columns()
    read = SurfaceDraws.from_columns(columns, fitted.law)
    np.testing.assert_array_equal(read.N_opt(1e22), fitted.draws.N_opt(1e22))
    del columns["kappa"]
    assert not SurfaceDraws.from_columns(columns, fitted.law).kappa.any()
    assert len(SurfaceDraws.from_columns(columns, fitted.law).loss_opt(1e22)) == 20


def test_a_proposal_of_a_bending_surface_narrows_less_than_one_of_a_straight_one():
    """One more number is to be told by the same runs."""
    runs = sweep(BENT, noise=0.003, seed=2)
    found = {}
    for interaction in (False, True):
        fit = SurfaceFit(interaction=interaction)
        numbers = fit_runs(runs, answer=fit, draws=100).diagnostics.of_methods["surface"]
        found[interaction] = [p.narrowing for p in numbers.next_runs]
        assert found[interaction] == sorted(found[interaction], reverse=True)
    assert all(0 < narrowing < 1 for narrowing in found[True])
    assert found[True] != pytest.approx(found[False], rel=0.01)


def test_kappa_of_each_draw_decides_its_own_optimum():
    kappa = np.array([-0.05, 0.0, 0.05, 0.15])
    numbers = (np.full(4, v) for v in (np.log(406.4), np.log(200.0), 0.34, 0.28))
    optima = optimal_num_params(*numbers, 1e20, SIX, kappa)
    for n, k in zip(optima, kappa, strict=True):
        surface = LossSurface(1.69, 406.4, 200.0, 0.34, 0.28, float(k))
        assert n == pytest.approx(brute_force(surface, 1e20, SIX), rel=2e-4)
    assert (np.diff(optima) < 0).all()


# Which rows a surface goes through.


def test_within_keeps_the_sizes_near_the_best_of_their_budget():
    sample = points(sweep(CHINCHILLA, noise=0.003, seed=1))
    kept = SurfaceFit(within=4.0).entering(sample)
    for budget in BUDGETS:
        group = sample.at_budget(budget)
        best = group.num_params[group.loss.argmin()]
        distance = np.maximum(group.num_params / best, best / group.num_params)
        np.testing.assert_array_equal(kept[sample.budget == budget], distance <= 4.0 * (1 + 1e-9))
    assert 2 * len(BUDGETS) < kept.sum() < len(sample)
    assert SurfaceFit().entering(sample).all()


def test_a_size_at_the_very_edge_is_near():
    sample = rows([1e8, 2e8, 4e8, 8e8], [4e9, 2e9, 1e9, 5e8], [3.0, 2.9, 3.0, 3.1])
    assert near_best(sample, 2.0).tolist() == [True, True, True, False]
    assert near_best(sample, 1.0).tolist() == [False, True, False, False]
    assert near_best(sample, 1.99).tolist() == [False, True, False, False]


def test_near_is_near_the_best_of_the_own_budget_in_whatever_order_the_rows_come():
    n = np.array([1e8, 3e8, 9e8, 1e9, 3e9, 9e9])
    budget = np.array([1e18] * 3 + [1e20] * 3)
    sample = rows(n, budget / 6 / n, [3.0, 3.1, 3.2, 2.4, 2.3, 2.2], budget=budget)
    expected = np.array([True, True, False, False, True, True])
    np.testing.assert_array_equal(near_best(sample, 3.5), expected)
    order = np.array([4, 0, 5, 2, 1, 3])
    np.testing.assert_array_equal(near_best(sample.rows(order), 3.5), expected[order])


def test_rows_without_a_shared_budget_are_each_the_best_of_theirs():
    sample = rows([1e8, 2e8, 4e8], [4e9, 3e9, 5e9], [3.0, 2.9, 3.0])
    assert near_best(sample, 1.0).all()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_dearest_keeps_the_runs_of_most_compute(share):
    generator = np.random.default_rng(0)
    n, d = 10 ** generator.uniform(7, 9, 50), 10 ** generator.uniform(9, 11, 50)
    sample = rows(n, d, CHINCHILLA(n, d))
    kept = SurfaceFit(dearest=share).entering(sample)
    assert kept.sum() == pytest.approx(share * 50, abs=1)
    assert sample.flops[kept].min() > sample.flops[~kept].max()


def test_budgets_are_never_torn_by_dearest():
    """Runs of one budget whose FLOPs differ by rounding."""
    sample = points(sweep(CHINCHILLA))
    kept = SurfaceFit(dearest=0.5).entering(sample)
    assert kept.sum() == 3 * len(SIZES)
    assert set(sample.budget[kept]) == set(BUDGETS[2:])


@pytest.mark.parametrize("fit", [SurfaceFit(within=4.0), SurfaceFit(dearest=0.5),
                                 SurfaceFit(within=3.0, dearest=0.7)])  # fmt: skip
def test_rows_that_do_not_enter_decide_nothing(fit):
    sample = points(sweep(CHINCHILLA, noise=0.003, seed=1))
    kept = fit.entering(sample)
    assert 6 < kept.sum() < len(sample)
    law = fit.law(sample)
    spoilt = sample.with_loss(np.where(kept, sample.loss, 1.5 * sample.loss))
    assert fit.law(spoilt) == law
    assert law.surface == SurfaceFit().law(sample.where(kept)).surface
    first, second = (fit.fitted(s, 50, 0).draws for s in (sample, spoilt))
    np.testing.assert_array_equal(first.alpha, second.alpha)
    weights = np.ones((2, len(sample)))
    weights[1, ~kept] = 0
    refit = fit.refits(spoilt, law, weights)
    assert refit.alpha == pytest.approx(law.surface.alpha, abs=1e-4)


def test_how_many_runs_entered_is_said():
    runs = sweep(CHINCHILLA, noise=0.003, seed=1)
    kept = int(SurfaceFit(within=4.0).entering(points(runs)).sum())
    law = fit_runs(runs, answer=SurfaceFit(within=4.0), draws=0)
    assert law.diagnostics.why == f"one surface through {kept} runs"


def test_no_rows_enter_where_there_are_none():
    empty = points([])
    for fit in (SurfaceFit(), SurfaceFit(within=4.0, dearest=0.5)):
        assert fit.entering(empty).shape == (0,)
        with pytest.raises(FitError, match="0 different"):
            fit.law(empty)
