"""Losses that follow neither size nor compute are told from those that do."""

from dataclasses import replace

import numpy as np
import pytest
from from_scripts import loaded

from flops_fit.fitting import FitError, IsoflopFit, SurfaceFit, fit_runs
from flops_fit.fitting.examine.order import COMPUTE, ROWS, SIZES, orders
from flops_fit.fitting.points import usable_points
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface

CHINCHILLA = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BUDGETS = (1e18, 1e19, 1e20)


def points(seed=0, sizes=(1 / 4, 1 / 2, 1, 2, 4), budgets=BUDGETS, noise=0.005):
    runs = simulate_sweep(CHINCHILLA, budgets, sizes=sizes, noise=noise, seed=seed)
    return usable_points(runs, FlopRule.constant())[0]


def shuffled(table, group, seed=0):
    generator, loss = np.random.default_rng(seed), table.loss.copy()
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        loss[rows] = loss[generator.permutation(rows)]
    return table.with_loss(loss)


def told(table):
    return {one.over: one.is_clear for one in orders(table)}


@pytest.mark.parametrize("seed", range(5))
def test_real_sweeps_are_in_order(seed):
    assert told(points(seed)) == {SIZES: True, COMPUTE: True}


@pytest.mark.parametrize("seed", range(5))
def test_losses_shuffled_among_sizes_or_budgets_are_not(seed):
    table = points(seed)
    among_sizes = shuffled(table, table.budget, seed)
    assert told(among_sizes) == {SIZES: False, COMPUTE: True}
    among_budgets = shuffled(table, np.tile(np.arange(5), 3), seed)
    assert told(among_budgets)[COMPUTE] is False


def test_chance_is_as_rare_as_it_says():
    """One in a hundred shuffled tables passes, within what 400 of them can show."""
    table = points()
    passed = sum(told(shuffled(table, table.budget, seed))[SIZES] for seed in range(400))
    assert passed <= 12


def test_one_run_that_went_wrong_does_not_drown_the_order_of_the_others():
    table = points(sizes=np.geomspace(1 / 8, 8, 8))
    loss = table.loss.copy()
    loss[11] *= 1.5
    assert all(told(table.with_loss(loss)).values())


def test_a_table_without_budgets_is_looked_at_as_a_whole():
    table = points(budgets=np.geomspace(1e18, 1e20, 20), sizes=(1.0,))
    n = table.num_params * np.random.default_rng(0).uniform(0.3, 3.0, len(table))
    cloud = replace(table, num_params=n, budget=n * table.num_tokens, runs=())
    cloud = cloud.with_loss(CHINCHILLA(n, table.num_tokens))
    assert told(cloud) == {ROWS: True}
    assert told(shuffled(cloud, np.zeros(20))) == {ROWS: False}


def test_equal_losses_have_no_order_to_look_for():
    assert orders(points().with_loss(np.full(15, 2.0))) == ()


@pytest.mark.parametrize("answer", [None, SurfaceFit(), IsoflopFit()])
@pytest.mark.parametrize("seed", range(4))
def test_a_law_of_shuffled_losses_is_never_called_usable(answer, seed):
    table = points()
    table = shuffled(table, table.budget, seed)
    try:
        law = fit_runs(table.runs, answer=answer, draws=200)
    except FitError:
        return
    assert law.diagnostics.verdict.startswith(("No good: ", "No good beyond "))
    assert law.predict(10 * BUDGETS[-1]).reliance == "unreliable"


def test_what_is_in_doubt_says_what_to_do():
    (sizes, _) = orders(shuffled(points(), points().budget))
    assert "tables whose losses were shuffled follow size within a budget as well" in sizes.doubt
    assert "train more sizes" in sizes.doubt


def test_the_script_that_counts_believed_tables_knows_a_good_verdict():
    script = loaded("permuted_tables")
    law = fit_runs(points().runs, draws=200)
    assert script.short(law.diagnostics.verdict) in script.USABLE
    table = points()
    for seed in range(20):
        try:
            law = fit_runs(shuffled(table, table.budget, seed).runs, draws=50)
        except FitError:
            continue
        assert script.short(law.diagnostics.verdict).startswith("No good")
        return
    raise AssertionError("no shuffled table had a law")


def test_losses_that_follow_mostly_something_else_are_in_doubt():
    """A bowl that chance can't make, in noise of thrice its depth."""
    table = points(sizes=np.geomspace(1 / 8, 8, 60), noise=0.0)
    noise = np.random.default_rng(0).normal(0, 0.12, len(table))
    (sizes, _) = orders(table.with_loss(table.loss * np.exp(noise)))
    assert sizes.by_chance <= 0.01
    assert sizes.explained < 0.4
    assert not sizes.is_clear
    assert not sizes.is_none
    assert "does not follow size within a budget" in sizes.doubt
