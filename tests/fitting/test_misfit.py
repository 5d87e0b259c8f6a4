"""A curve that misses its points is found out, and drawn again without the arm that bends it."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sweeps import ASYMMETRIC, CHINCHILLA, points, rows, sweep

from flops_fit.fitting import Akima, Cubic, IsoflopFit, Parabola, ScalingLaw, fit_runs
from flops_fit.fitting.isoflop.curves import IsoflopCurve
from flops_fit.fitting.isoflop.misfit import FEWEST_LEFT, what_is_missed
from flops_fit.fitting.isoflop.optima import BudgetOptimum
from flops_fit.fitting.isoflop.scatter import CurveNoise, Scatter, pooled, pooled_without_each
from flops_fit.fitting.simulation import simulate_sweep

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BENT_ARM = (0.270, 0.0645, 0.0650, 0.0639, 0.0636, 0.0696)
"""A far small size that bends the parabola to a minimum of 0.034."""

SMOKE = {
    1e8: ((81, 225, 433, 865, 1665), (0.3220, 0.3228, 0.3384, 0.3828, 0.5738)),
    2e8: ((145, 321, 561, 1233, 2433), (0.2997, 0.2603, 0.2659, 0.3603, 0.4385)),
    4e8: ((225, 433, 865, 1665, 3345), (0.2592, 0.2364, 0.2244, 0.2575, 0.3295)),
}
"""`train model=mlp dataset=toy budget=smoke`: sizes and losses of each budget."""


def budget(flops, losses, sizes=None):
    """Columns of one budget; sizes a factor of 2 apart unless given."""
    n = 1e4 * 2.0 ** np.arange(len(losses)) if sizes is None else np.array(sizes, dtype=float)
    return n, flops / 6 / n, np.array(losses), np.full(len(n), flops)


def clean(flops, noise, seed=0, num_sizes=6):
    """A budget whose curve is a parabola in ln N, with noise."""
    n = 1e4 * 2.0 ** np.arange(num_sizes)
    error = noise * np.random.default_rng(seed).standard_normal(num_sizes)
    return budget(flops, 0.06 * (1 + 0.1 * np.log(n / 5e4) ** 2) * np.exp(error))


def joined(*budgets):
    n, d, loss, c = (np.concatenate(columns) for columns in zip(*budgets, strict=True))
    return rows(n, d, loss, budget=c)


def optima(sample, fit=None):
    fit = fit or IsoflopFit()
    return fit.optima(sample, fit.noise(sample))


def with_clean_ones(noise, *budgets):
    return joined(*budgets, clean(2e10, noise, 1), clean(4e10, noise, 2), clean(8e10, noise, 3))


@pytest.mark.parametrize("family", [Parabola(), Cubic()])
def test_a_curve_is_drawn_without_the_far_arm_that_bends_it(family):
    sample = with_clean_ones(0.01, budget(1e10, BENT_ARM))
    bent = family.curve(np.log(sample.num_params[:6]), sample.loss[:6])
    assert bent.lowest()[1] < 0.75 * min(BENT_ARM)
    first, *others = optima(sample, IsoflopFit(curve=family))
    assert first.verdict == "ok"
    assert first.loss == pytest.approx(min(BENT_ARM), rel=0.02)
    assert first.num_sizes == 6
    assert np.exp(first.curve.knots) == pytest.approx([2e4, 3.2e5])
    assert first.reason.endswith("N = 10k stays out of the curve, which would miss the others")
    assert not any("out of the curve" in other.reason for other in others)


def test_the_fewest_sizes_stay_in_a_curve():
    sizes = 1e4 * 1.5 ** np.arange(7)
    two_far = (0.8, 0.270, 0.0645, 0.0640, 0.0636, 0.0645, 0.0696)
    first, *_ = optima(with_clean_ones(0.01, budget(1e10, two_far, sizes)))
    assert "N = 10k and 15k stay out" in first.reason
    assert np.exp(first.curve.knots) == pytest.approx([sizes[2], sizes[-1]])
    assert FEWEST_LEFT == 4
    four_far = (1.6, 0.8, 0.270, 0.2, 0.0645, 0.0636, 0.0696)
    first, *_ = optima(with_clean_ones(0.01, budget(1e10, four_far, sizes)))
    assert first.verdict == "negative"
    assert np.exp(first.curve.knots) == pytest.approx([sizes[0], sizes[-1]])


def test_a_curve_that_misses_its_points_all_the_same_is_no_optimum():
    first, *others = optima(with_clean_ones(0.001, budget(1e10, BENT_ARM)))
    assert first.verdict == "misfit"
    assert not first.is_bracketed
    assert "the curve falls to 0.03356 where 0.0639 at N = 80k and 0.0636 at" in first.reason
    assert "train sizes between" in first.reason
    assert [other.verdict for other in others] == ["ok"] * 3


def test_one_run_that_went_wrong_near_the_minimum_is_named():
    wrong = clean(1e10, 0.002, num_sizes=7)
    wrong[2][2] *= 1.15
    first, *_ = optima(with_clean_ones(0.002, wrong))
    assert first.verdict == "misfit"
    assert ", noise explains 0.3" in first.reason
    assert "first at N = 40k" in first.reason


def test_the_budgets_of_a_bent_curve_are_found_where_all_are_bent():
    """The scatter about the other curves is then no noise either."""
    sample = joined(*(budget(c, np.array(BENT_ARM) * s) for c, s in ((1e10, 1.0), (3e10, 0.9))))
    assert IsoflopFit().noise(sample) < 0.04
    for optimum in optima(sample):
        assert "N = 10k stays out" in optimum.reason


def test_a_minimum_below_both_sizes_beside_it_is_not_believed():
    sample = joined(*(budget(c, losses, sizes) for c, (sizes, losses) in SMOKE.items()))
    bent = Parabola().curve(np.log(sample.num_params[:5]), sample.loss[:5])
    assert bent.lowest()[1] == pytest.approx(0.2955, abs=1e-3)
    first, *others = optima(sample)
    assert first.loss > 0.31
    assert "N = 1.67k stays out" in first.reason
    assert [other.verdict for other in others] == ["ok", "ok"]
    four = (0.55, 0.322, 0.322, 0.36)
    (only,) = optima(joined(budget(1e10, four)))
    assert only.verdict == "misfit"
    assert "falls to 0.2932 where 0.322 at N = 20k and 0.322 at N = 40k" in only.reason


def test_curves_through_all_their_points_miss_none():
    three = joined(budget(1e10, (0.534, 0.322, 0.322)), budget(3e10, (0.5, 0.3, 0.31)))
    assert [o.verdict for o in optima(three)] == ["ok", "ok"]
    sample = with_clean_ones(0.001, budget(1e10, BENT_ARM))
    assert "out of the curve" not in optima(sample, IsoflopFit(curve=Akima()))[0].reason


def test_all_sizes_stay_in_where_all_are_asked_for():
    sample = with_clean_ones(0.01, budget(1e10, BENT_ARM))
    first, *_ = optima(sample, IsoflopFit(window=None))
    assert np.exp(first.curve.knots) == pytest.approx([1e4, 3.2e5])


def test_repeated_seeds_tell_the_noise_that_residuals_are_held_against():
    losses = np.array([0.3, 0.21, 0.2, 0.24, 0.2, 0.21, 0.3])
    noisy = joined(*(budget(1e10, losses * np.exp(e)) for e in (0.1, -0.1)))
    assert optima(noisy)[0].verdict != "misfit"
    exact = joined(*(budget(1e10, losses * np.exp(e)) for e in (0.002, -0.002)))
    assert optima(exact)[0].verdict == "misfit"
    group = joined(budget(1e10, losses))
    told = [what_is_missed(group, Parabola(), CurveNoise(v, 7)) for v in (0.002, 0.2)]
    assert told[0] is not None
    assert told[1] is None


def test_noise_is_told_by_the_other_budgets():
    scatters = [Scatter(1.0, 3), Scatter(3e-4, 3), None, Scatter(3e-4, 3)]
    first, second, *_ = pooled_without_each(scatters)
    assert first.value == pytest.approx(0.01, rel=0.15)
    assert first.freedom == pytest.approx(6 * 2 / np.pi)
    assert second.value > 0.3
    assert pooled([None]) is None
    assert pooled([Scatter(1e9, 2)]).value == 1.0


@pytest.mark.parametrize("surface", [CHINCHILLA, ASYMMETRIC])
@pytest.mark.parametrize("num_sizes", [5, 7, 9])
def test_clean_sweeps_are_left_alone(surface, num_sizes):
    sizes = np.geomspace(1 / 16, 16, num_sizes)
    found = [
        optimum
        for seed in range(30)
        for optimum in optima(points(sweep(surface, sizes=sizes, noise=0.003, seed=seed)))
    ]
    assert len(found) == 150
    alarms = [o for o in found if o.verdict == "misfit" or "out of the curve" in o.reason]
    assert len(alarms) < 0.02 * len(found)


def porian(table, config):
    with (EXAMPLES / "porian_isoflop_points.csv").open(newline="") as file:
        mine = [r for r in csv.DictReader(file) if (r["table"], r["config"]) == (table, config)]
    columns = ([r[name] for r in mine] for name in ("n", "tokens", "loss"))
    return rows(*columns, budget=[r["flops"] for r in mine])


def porian_configs():
    with (EXAMPLES / "porian_isoflop_points.csv").open(newline="") as file:
        return sorted({(r["table"], r["config"]) for r in csv.DictReader(file)})


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (Parabola(), {"ok": 160, "edge": 6, "flat": 11}),
        (Cubic(), {"ok": 165, "edge": 8, "flat": 4}),
    ],
)
def test_public_sweeps_keep_their_good_budgets(family, expected):
    fit = IsoflopFit(curve=family)
    samples = [porian(*which) for which in porian_configs()]
    assert len(samples) == 15
    assert Counter(o.verdict for s in samples for o in optima(s, fit)) == expected


def test_draws_and_noise_use_the_rows_of_the_curve():
    sample = with_clean_ones(0.01, budget(1e10, BENT_ARM))
    without_far = sample.where(np.arange(len(sample)) != 0)
    fit = IsoflopFit()
    assert fit.noise(sample) == pytest.approx(fit.noise(without_far), rel=1e-12)
    law, expected = fit.law(sample), fit.law(without_far)
    assert law.a == pytest.approx(expected.a, rel=1e-12)
    draws, same = (fit.draws(s, k, 200, 0) for s, k in ((sample, law), (without_far, expected)))
    np.testing.assert_allclose(draws.a, same.a, rtol=1e-9)
    np.testing.assert_allclose(draws.loss_opt(1e11), same.loss_opt(1e11), rtol=1e-9)


def test_a_misfit_survives_law_json(tmp_path):
    surface_runs = simulate_sweep(
        CHINCHILLA, (1e18, 3e18, 1e19, 3e19), sizes=np.geomspace(1 / 8, 8, 7), noise=0.001
    )
    surface_runs[3] = replace(surface_runs[3], loss=surface_runs[3].loss * 1.1)
    law = fit_runs(surface_runs, draws=20)
    assert [b.verdict for b in law.budgets] == ["misfit", "ok", "ok", "ok"]
    law.save(tmp_path)
    again = ScalingLaw.load(tmp_path)
    assert [b.to_json() for b in again.budgets] == [b.to_json() for b in law.budgets]
    assert again.budgets[0].reason == law.budgets[0].reason
    assert isinstance(again.budgets[0], BudgetOptimum)
    assert isinstance(again.budgets[0].curve, IsoflopCurve)
    assert "budget 1e18, misfit: the " in " ".join(law.diagnostics.findings)
