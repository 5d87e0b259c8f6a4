"""A small part of scripts/forecast_bench.py: published sweeps are forecast as well as it says."""

import numpy as np
import pytest
from from_scripts import loaded


@pytest.fixture(scope="module")
def bench():
    return loaded("forecast_bench")


@pytest.fixture(scope="module")
def sweeps(bench):
    return bench.porian()


@pytest.fixture(scope="module")
def forecasts(bench, sweeps):
    """Of two sweeps from four cuts each."""
    found = []
    for start in ("rw/tuned/short/const/standard", "owt2/base/short/chinchilla/standard"):
        (name,) = (name for name in sweeps if name.startswith(start))
        points = sweeps[name]
        part = points.where(points.budget <= points.budgets[bench.FEWEST_BUDGETS + 3])
        found += bench.of_sweep(["auto"], (name, part))
    return found


def test_the_sweeps_are_those_of_the_examples(bench, sweeps):
    assert len(sweeps) == 15
    for points in sweeps.values():
        assert len(points.budgets) > bench.FEWEST_BUDGETS
        assert len(bench.measured(points)) >= bench.FEWEST_BUDGETS


def test_losses_of_published_sweeps_are_forecast_within_their_intervals(forecasts):
    assert len(forecasts) == 20
    assert np.median(np.abs([f.loss_error for f in forecasts])) < 0.02
    assert np.median(np.abs([f.size_error for f in forecasts])) < 0.5
    for what in ("loss", "N"):
        assert np.mean([f.inside[what, 95] for f in forecasts]) >= 0.85
    assert all(f.distance > 1 and 0 < f.width < 0.5 for f in forecasts)


def test_a_forecast_has_not_seen_what_it_forecasts(bench, sweeps, forecasts):
    """Other losses of the largest budget change what was measured there, and no forecast."""
    name = forecasts[0].source
    whole = sweeps[name]
    part = whole.where(whole.budget <= whole.budgets[bench.FEWEST_BUDGETS])
    worse = part.with_loss(part.loss * np.where(part.budget == part.largest_budget, 1.1, 1.0))
    (before,), (after,) = (bench.of_sweep(["isoflop"], (name, p)) for p in (part, worse))
    assert after.loss_error == pytest.approx(before.loss_error - np.log(1.1), abs=1e-9)
    assert after.size_error == pytest.approx(before.size_error, abs=1e-9)
    assert after.width == before.width


def test_the_tables_are_built(bench, forecasts):
    public = bench.public_table(forecasts, ["auto"])
    assert [line.count("|") for line in public] == [13] * (2 + len(bench.DISTANCES))
    nearest = public[2].split("|")
    assert nearest[1].strip() == "auto"
    assert int(nearest[3]) > 0
    (design, *_) = bench.DESIGNS
    simulated = bench.simulated_table(bench.of_simulated(["isoflop"], (design, 0)), ["isoflop"])
    assert len(simulated) == 2 + len(bench.MULTIPLES)
    assert all(line.startswith(f"| {design} | isoflop |") for line in simulated[2:])


@pytest.mark.parametrize("multiple", [10, 100])
def test_what_simulated_sweeps_are_measured_by_is_their_least_loss(bench, multiple):
    flops, n, loss = bench.DESIGNS["right: 4 x 5"].truth(multiple * bench.TOP)
    assert n == pytest.approx(float(bench.CHINCHILLA.N_opt(flops, bench.RULE)), rel=1e-3)
    assert loss == pytest.approx(float(bench.CHINCHILLA.loss_opt(flops, bench.RULE)), rel=1e-6)


def test_single_runs_of_a_table_without_budgets_are_forecast(bench):
    rows = bench.row_forecasts()
    farseer = rows[0]
    assert farseer["R2"] > 0.85
    assert farseer["inside"] >= 0.85 * farseer["held"]
    assert len(bench.rows_table(rows)) == 2 + len(rows)
