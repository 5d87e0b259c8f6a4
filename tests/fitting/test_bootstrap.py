"""What a resample may hold, and what fresh noise shares."""

import dataclasses

import numpy as np
import pytest
from sweeps import BUDGETS, CHINCHILLA, SIZES, points, sweep

from flops_fit.fitting import IsoflopFit, SurfaceFit, fit_runs
from flops_fit.fitting.bootstrap import resample_weights
from flops_fit.fitting.noise import FreshNoise, seed_noise
from flops_fit.fitting.points import blocks, places, replicate_groups
from flops_fit.fitting.simulation import simulate_trunks


def trunks(num_sizes=8, span=8.0, budgets=BUDGETS, noise=0.003, shared=0.8, seed=0):
    return simulate_trunks(
        CHINCHILLA, budgets, num_sizes=num_sizes, span=span, noise=noise, shared=shared, seed=seed
    )


def alone(runs):
    return [dataclasses.replace(run, trunk=None) for run in runs]


def repeated(runs, seeds):
    """The same (N, D) with other noise, as other seeds have it."""
    return [
        dataclasses.replace(run, id=f"{run.id}-{seed}", seed=seed, loss=run.loss * np.exp(error))
        for seed in range(seeds)
        for run, error in zip(
            runs, 0.004 * np.random.default_rng(seed).standard_normal(len(runs)), strict=True
        )
    ]


def test_repeats_share_n_and_d_and_their_unique_tokens():
    runs = repeated(sweep(CHINCHILLA)[:5], 3)
    found = [rows.tolist() for rows in replicate_groups(points(runs))]
    assert sorted(found) == [[k, 5 + k, 10 + k] for k in range(5)]
    some = [dataclasses.replace(run, unique_tokens=1e6 + (i < 5)) for i, run in enumerate(runs)]
    found = [rows.tolist() for rows in replicate_groups(points([*some, *sweep(CHINCHILLA)[5:]]))]
    assert sorted(found) == [[k, 5 + k, 10 + k] for k in range(5)]  # not all tell
    found = [rows.tolist() for rows in replicate_groups(points(some))]
    assert sorted(found) == [[5 + k, 10 + k] for k in range(5)]


def test_runs_of_one_trunk_are_drawn_together_or_not_at_all():
    sample = points(trunks())
    weights = resample_weights(sample, 200, seed=0, fewest_places=6)
    block = blocks(sample)
    assert len(set(block.tolist())) == 12
    for number in range(12):
        of_trunk = weights[:, block == number]
        assert (of_trunk == of_trunk[:, :1]).all()
    first_rows = [int(np.flatnonzero(block == number)[0]) for number in range(12)]
    assert (weights[:, first_rows].sum(axis=1) == 12).all()


def test_without_trunks_every_resample_has_the_budgets_of_the_sweep():
    sample = points(sweep(CHINCHILLA))
    weights = resample_weights(sample, 200, seed=0, fewest_places=6)
    for budget in sample.budgets:
        assert (weights[:, sample.budget == budget].sum(axis=1) == len(SIZES)).all()
    assert weights.min() == 0
    assert weights.max() > 2


def test_runs_of_small_budgets_are_drawn_from_all_of_them():
    """Two runs that share a budget, and runs that share theirs with none."""
    runs = sweep(CHINCHILLA, sizes=(0.5, 2.0))
    runs += [dataclasses.replace(run, budget=run.budget * (1 + i / 99), loss=run.loss + 1e-3)
             for i, run in enumerate(runs, 1)]  # fmt: skip
    weights = resample_weights(points(runs), 300, seed=0, fewest_places=3)
    assert (weights.sum(axis=1) == len(runs)).all()
    assert weights[:, :2].sum(axis=1).std() > 0.5


def test_resamples_of_too_few_places_are_drawn_again():
    sample = points(sweep(CHINCHILLA, budgets=(1e18, 1e19), sizes=(0.4, 1.0, 2.5)))
    weights = resample_weights(sample, 100, seed=0, fewest_places=5)
    place = places(sample)
    assert len(weights) == 100
    assert min(len(set(place[row > 0])) for row in weights) >= 5


def test_fresh_noise_is_one_for_a_trunk_and_another_for_every_other_run():
    runs = [*trunks(), *alone(trunks())[:3]]
    sample = points([dataclasses.replace(run, loss=run.loss + i) for i, run in enumerate(runs)])
    noise = FreshNoise(50, np.random.default_rng(0))
    first, second = noise.of(sample), noise.of(sample)
    block = blocks(sample)
    same = np.abs(first[:, None] - first[None]).max(axis=2) == 0
    np.testing.assert_array_equal(same, block[:, None] == block)
    np.testing.assert_array_equal(first[:-3], second[:-3])
    assert (first[-3:] != second[-3:]).all()


@pytest.mark.parametrize("fit", [IsoflopFit(), SurfaceFit()])
def test_sharing_trunks_widens_the_interval_of_the_optimum(fit):
    widths = []
    for runs in (trunks(shared=1.0), alone(trunks(shared=1.0))):
        law = fit_runs(runs, answer=fit, draws=500)
        low, high = law.predict(BUDGETS[-1]).intervals["num_params"]["80"]
        widths.append(np.log(high / low))
    assert widths[0] > 1.2 * widths[1]


def test_the_loss_ahead_is_no_surer_for_an_error_that_all_budgets_might_share():
    """Approach 2 can't see how much of the noise a trunk's runs have in common: a trend would not
    feel what they share, so that the losses of its draws share nothing."""
    runs = trunks(seed=1)
    laws = [fit_runs(same, answer=IsoflopFit(), draws=1000) for same in (runs, alone(runs))]
    for budget in (10 * BUDGETS[-1], 100 * BUDGETS[-1]):
        intervals = [law.predict(budget).intervals["loss"]["80"] for law in laws]
        shared, own = (high - low for low, high in intervals)
        assert shared > 0.85 * own


def test_sharing_trunks_widens_the_interval_of_the_loss_of_a_surface():
    widths = []
    for runs in (trunks(shared=1.0), alone(trunks(shared=1.0))):
        law = fit_runs(runs, answer=SurfaceFit(), draws=1000)
        low, high = law.predict(BUDGETS[-1]).intervals["loss"]["80"]
        widths.append(high - low)
    assert widths[0] > 1.1 * widths[1]


def test_a_sweep_of_few_trunks_tells_no_uncertainty():
    few = trunks(num_sizes=4, span=6.0, budgets=(1e18, 1.6e18, 2.5e18))
    assert fit_runs(few, answer=SurfaceFit(), draws=100).draws is None
    assert fit_runs(alone(few), answer=SurfaceFit(), draws=100).draws is not None


def test_trunks_are_part_of_what_a_fit_is_of():
    hashes = {points(runs).sha256 for runs in (trunks(), alone(trunks()))}
    assert len(hashes) == 2


def test_repeated_seeds_give_intervals_where_sizes_are_too_few_to_draw_from():
    few = sweep(CHINCHILLA, budgets=(1e18, 1e19), sizes=(0.2, 1.0, 5.0))
    assert fit_runs(few, answer=SurfaceFit(), draws=200).draws is None
    law = fit_runs(repeated(few, 3), answer=SurfaceFit(), draws=500)
    assert law.diagnostics.numbers.seed_noise == pytest.approx(0.004, rel=0.5)
    low, high = law.intervals["surface.a"]["95"]
    assert low < CHINCHILLA.a < high
    assert high - low > 0.01


def test_seed_noise_is_that_of_the_seeds_and_as_uncertain_as_few_make_it():
    found = seed_noise(points(repeated(sweep(CHINCHILLA), 4)))
    assert found.freedom == 3 * 40
    assert found.value == pytest.approx(0.004, rel=0.15)
    draws = found.draws(20_000, np.random.default_rng(0))
    # A standard deviation known from f degrees of freedom scatters by 1 / sqrt(2 f) of itself.
    assert draws.std() / found.value == pytest.approx(1 / np.sqrt(2 * 120), rel=0.05)
    assert seed_noise(points(sweep(CHINCHILLA))) is None


def test_losses_that_miss_the_surface_by_more_than_seeds_scatter_are_pointed_out():
    bent = [
        dataclasses.replace(run, loss=run.loss * (1 + 0.03 * np.sin(3 * np.log(run.num_params))))
        for run in sweep(CHINCHILLA)
    ]
    said = "the surface does not fit"
    assert any(said in f for f in fit_runs(repeated(bent, 2), draws=0).diagnostics.findings)
    straight = fit_runs(repeated(sweep(CHINCHILLA), 2), draws=0).diagnostics.findings
    assert not any(said in f for f in straight)
