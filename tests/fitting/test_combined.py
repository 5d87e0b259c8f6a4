"""Several methods as one: who is believed, what that rests on, and how wide the answer is."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sweeps import CHINCHILLA, points, sweep

from flops_fit.fitting import (
    Akima,
    CombinedFit,
    CombinedLaw,
    Cubic,
    FitError,
    IsoflopFit,
    ScalingLaw,
    SurfaceFit,
    fit_runs,
)
from flops_fit.fitting.combined import CombinedDraws
from flops_fit.fitting.combined.backtests import Targets, cuts_of
from flops_fit.fitting.combined.evidence import LOSS, SIZE, calibration, own_tests, weights
from flops_fit.fitting.combined.words import advice, numbers, why
from flops_fit.laws import FlopRule
from flops_fit.laws.prediction import cost_of_size, flat_band
from flops_fit.shown import short_flops

SIX = FlopRule.constant()
UNEVEN = FlopRule((1e8, 1e9, 1e10), (8.5e8, 6.9e9, 6.2e10))

BUDGETS = tuple(np.geomspace(1e18, 1e20, 6))
SIZES = tuple(np.geomspace(1 / 5, 5, 7))
LARGEST = BUDGETS[-1]

QUICK = CombinedFit(
    with_budgets={"parabola": IsoflopFit(), "akima": IsoflopFit(curve=Akima())},
    without_budgets={"surface": SurfaceFit(), "tied": SurfaceFit(tied_exponents=True)},
)
"""Two quick candidates of either kind."""


def runs_of(noise=0.003, seed=1, **changes):
    return sweep(
        CHINCHILLA, **{"budgets": BUDGETS, "sizes": SIZES, **changes}, noise=noise, seed=seed
    )


def changed(runs, factor):
    """The runs with their losses multiplied by `factor(run)`."""
    return [replace(run, loss=run.loss * factor(run)) for run in runs]


def grid_runs(noise=0.001, seed=0):
    """A table without budgets: sizes times lengths, no two of the same FLOPs."""
    generator = np.random.default_rng(seed)
    template = runs_of()[0]
    found = []
    for i, n in enumerate(np.geomspace(3e7, 2e9, 6)):
        for j, d in enumerate(np.geomspace(1e9, 6e10, 6)):
            n_here = n * 1.07**j
            loss = float(CHINCHILLA(n_here, d)) * np.exp(noise * generator.standard_normal())
            flops = 6 * n_here * d
            found.append(
                replace(template, id=f"{i}-{j}", num_params=n_here, num_tokens=d, flops=flops,
                        budget=flops, loss=float(loss))
            )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def runs():
    return runs_of()


@pytest.fixture(scope="module")
def law(runs):
    return CombinedFit()(runs)


@pytest.fixture(scope="module")
def draws(law):
    return CombinedDraws.of(law, 4000, seed=0)


def same(first, second):
    """Whether two laws have all numbers in common, bit by bit."""
    return json.dumps(first.to_json()) == json.dumps(second.to_json())


# Who is believed.


def test_every_candidate_counts_something_and_all_together_one(law):
    assert list(law.parts) == ["parabola", "parabola of the last 4", "akima", "surface within 4x"]
    for shares in (law.size_weights, law.loss_weights):
        assert shares.sum() == pytest.approx(1, rel=1e-12)
        assert (shares > 0.01).all()


def test_the_answer_lies_within_those_of_the_candidates_and_by_their_weights(law):
    for flops in (1e19, 1e21, 1e23):
        for own, of_parts, shares in (
            (law.N_opt(flops), [p.law.N_opt(flops) for p in law.parts.values()], law.size_weights),
            (law.loss_opt(flops), [p.law.loss_opt(flops) for p in law.parts.values()],
             law.loss_weights),
        ):  # fmt: skip
            assert min(of_parts) < own < max(of_parts)
            assert np.log(own) == pytest.approx(float(shares @ np.log(of_parts)), rel=1e-12)


def test_one_candidate_alone_is_the_answer(runs):
    law = CombinedFit(with_budgets={"parabola": IsoflopFit()})(runs)
    alone = IsoflopFit()(runs)
    assert law.N_opt(1e22) == pytest.approx(alone.N_opt(1e22), rel=1e-12)
    assert law.loss_opt(1e22) == pytest.approx(alone.loss_opt(1e22), rel=1e-12)
    assert law.a == pytest.approx(alone.a, rel=1e-12)


def test_the_loss_is_left_to_the_candidate_whose_forecasts_of_it_were_better(runs):
    """One knows the asymptote, the other takes it for nothing; both put N at the same place."""
    candidates = {"knows": IsoflopFit(asymptote=CHINCHILLA.E), "wrong": IsoflopFit(asymptote=0.0)}
    parts = CombinedFit(with_budgets=candidates)(runs).parts
    assert parts["knows"].for_loss > 0.7
    assert parts["knows"].for_size == pytest.approx(0.5, rel=1e-9)


def test_N_is_left_to_the_candidate_whose_forecasts_of_it_were_better(runs):
    candidates = {"held": IsoflopFit(exponent=CHINCHILLA.a), "wrong": IsoflopFit(exponent=0.9)}
    parts = CombinedFit(with_budgets=candidates)(runs).parts
    assert parts["held"].for_size > 0.8
    assert parts["held"].for_loss == pytest.approx(0.5, rel=1e-9)


def test_more_back_tests_move_the_weights_further():
    runs = runs_of(noise=0.0)
    candidates = {"knows": IsoflopFit(asymptote=CHINCHILLA.E), "wrong": IsoflopFit(asymptote=0.0)}
    fit = CombinedFit(with_budgets=candidates)
    few, more, all_of_them = (
        fit([run for run in runs if run.budget >= lowest]).parts["knows"].for_loss
        for lowest in (BUDGETS[3], BUDGETS[2], BUDGETS[0])
    )
    assert 0.5 < few < more < all_of_them


def test_a_candidate_that_refuses_is_left_out():
    """A cubic needs five sizes."""
    four = runs_of(sizes=(1 / 4, 1 / 2, 1.2, 3))
    lines = {"parabola": IsoflopFit(), "akima": IsoflopFit(curve=Akima())}
    law = CombinedFit(with_budgets={**lines, "cubic": IsoflopFit(curve=Cubic())})(four)
    assert list(law.parts) == ["parabola", "akima"]
    assert same(law, CombinedFit(with_budgets=lines)(four))


def test_a_candidate_that_refuses_at_early_cuts_is_judged_by_the_others():
    """A surface needs six runs: two budgets of two sizes have four, each below some cut."""
    wide = runs_of(sizes=(0.4, 1.0, 2.5))
    ten = [run for run in wide if run.budget > BUDGETS[1]]
    candidates = {"parabola": IsoflopFit(), "interaction": SurfaceFit(interaction=True)}
    sample = points(ten)
    targets = Targets.of_optima(sample)
    cuts = cuts_of(candidates, sample, targets)
    assert [cut.names for cut in cuts] == [("parabola",), ("parabola", "interaction")]
    assert list(CombinedFit(with_budgets=candidates)(ten).parts) == ["parabola", "interaction"]


def of_one_size(lengths):
    """Runs of 1e8 parameters."""
    template = runs_of()[0]
    return [
        replace(template, id=f"{d:g}", num_params=1e8, num_tokens=d, flops=6e8 * d,
                budget=6e8 * d, loss=float(CHINCHILLA(1e8, d)))
        for d in lengths
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (of_one_size(np.geomspace(1e9, 1e11, 12)), "all runs have one size, N = 100M"),
        (runs_of(budgets=(1e18,)), "all runs lie on one budget, 1e18 FLOPs"),
        (of_one_size((1e9, 1e10, 1e11)), "3 different (N, D) for a surface that needs 6"),
        ([], "0 different (N, D) for a surface that needs 6"),
    ],
    ids=["one size", "one budget", "few", "none"],
)
def test_runs_of_which_no_candidate_makes_a_law_are_refused_with_the_reasons(refused, reason):
    with pytest.raises(FitError, match="no law fits") as error:
        CombinedFit()(refused)
    assert error.value.in_short.count(reason) == 1
    assert error.value.next_step


# What it rests on.


def test_two_budgets_leave_it_to_published_sweeps():
    law = fit_runs(runs_of(budgets=(1e18, 1e19)), draws=50)
    combined = law.of("combined")
    assert combined.size.tests == combined.loss.tests == ()
    assert set(np.round(combined.loss_weights * len(combined.parts), 9)) == {1.0}
    assert law.diagnostics.why.endswith(
        "too few budgets to back-test, so by how published sweeps go"
    )
    assert law.diagnostics.of_methods["combined"].missed is None
    assert not any("back-tests, each of" in finding for finding in law.diagnostics.findings)


def test_back_tests_are_of_every_budget_above_every_cut_of_two_or_more(law):
    expected = [(cut, budget) for cut in BUDGETS[1:-1] for budget in BUDGETS if budget > cut]
    for width in (law.size, law.loss):
        found = [(t.level, t.level * np.exp(t.distance)) for t in width.tests]
        assert np.array(found) == pytest.approx(np.array(expected))
    size, loss = (width.tests[-1].error for width in (law.size, law.loss))
    cut, last = map(short_flops, BUDGETS[-2:])
    assert why(law).endswith(
        f"; back-test from {cut} to {last}: loss {np.expm1(loss):+.2%}, N x{np.exp(size):.2f}"
    )


def test_an_error_of_a_back_test_is_that_of_a_fit_to_the_smaller_budgets(runs):
    """Of one candidate: no weights come in between."""
    law = CombinedFit(with_budgets={"parabola": IsoflopFit()})(runs)
    optima = {o.budget: o for o in IsoflopFit()(runs).budgets}
    for size, loss in zip(law.size.tests, law.loss.tests, strict=True):
        below = IsoflopFit()([run for run in runs if run.budget <= loss.level])
        target = optima[min(optima, key=lambda b: abs(np.log(b / loss.level) - loss.distance))]
        assert loss.error == pytest.approx(np.log(below.loss_opt(target.flops) / target.loss))
        assert size.error == pytest.approx(np.log(below.N_opt(target.flops) / target.N_opt))


def test_back_tests_use_nothing_that_lies_above_their_cut(runs):
    """Other losses of the largest budget leave all that was said below it what it was."""
    other = changed(runs, lambda run: 1.01 if run.budget == LARGEST else 1.0)
    fit = CombinedFit()
    first, second = fit(runs), fit(other)
    below = [t.distance + np.log(t.level) < np.log(LARGEST) - 1e-6 for t in first.loss.tests]
    for name in ("size", "loss"):
        pairs = zip(getattr(first, name).tests, getattr(second, name).tests, below, strict=True)
        for before, after, is_below in pairs:
            assert before.stated == pytest.approx(after.stated, rel=1e-9)  # by the noise of all
            if is_below:
                assert before.error == after.error
    assert sum(below) == 6
    to_the_top = [i for i, is_below in enumerate(below) if not is_below]
    for i in to_the_top:
        shift = first.loss.tests[i].error - second.loss.tests[i].error
        assert shift == pytest.approx(np.log(1.01), rel=1e-6)


def test_weights_at_a_cut_know_no_target_beyond_it(runs):
    """Those of the last cut are what the sweep without the largest budget would have."""
    sample, candidates = points(runs), dict(QUICK.with_budgets)
    *earlier, last = cuts_of(candidates, sample, Targets.of_optima(sample))
    known = [cut.known_at(last.level) for cut in earlier]
    without = CombinedFit(with_budgets=candidates)([r for r in runs if r.budget < LARGEST])
    np.testing.assert_allclose(weights(last.names, known, LOSS), without.loss_weights, rtol=1e-9)
    np.testing.assert_allclose(weights(last.names, known, SIZE), without.size_weights, rtol=1e-9)


# How wide that leaves it.


def test_the_factor_falls_where_back_tests_hit_and_rises_where_the_recipe_changes():
    """From the fifth budget on the recipe is 2% better."""
    clean = CombinedFit()(runs_of(noise=0.0))
    better = changed(runs_of(noise=0.0), lambda run: 0.98 if run.budget >= BUDGETS[4] else 1.0)
    drifted = CombinedFit()(better)
    for width, quantity in ((clean.loss, LOSS), (clean.size, SIZE)):
        assert width.factor < calibration((), quantity)
    assert drifted.loss.factor > 2 * calibration((), LOSS)
    assert drifted.size.factor == pytest.approx(clean.size.factor, rel=0.05)
    widths = [
        np.log(high / low)
        for low, high in (
            np.quantile(CombinedDraws.of(law, 2000, 0).loss_opt(10 * LARGEST), (0.1, 0.9))
            for law in (clean, drifted)
        )
    ]
    assert widths[1] > 2 * widths[0]


def test_without_back_tests_the_factor_is_that_of_published_sweeps():
    law = QUICK(runs_of(budgets=(1e18, 1e19)))
    assert law.loss.factor == calibration((), LOSS) == LOSS.calibration
    assert law.size.factor == calibration((), SIZE) == SIZE.calibration


def test_a_sweep_whose_back_tests_miss_by_far_is_called_unlike_published_ones():
    worse = changed(runs_of(noise=0.0), lambda run: 1.2 if run.budget == LARGEST else 1.0)
    law = fit_runs(worse, answer=QUICK, draws=100)
    assert law.of("combined").loss.factor > 4
    factor = law.of("combined").loss.factor
    assert law.diagnostics.verdict == (
        "No good beyond 1e20 FLOPs, your largest budget: the back-tests on these runs missed "
        f"{np.sqrt(factor):.1f} times as far as on published sweeps."
    )


def test_own_tests_state_what_the_candidates_spread_and_the_errors_are(runs):
    sample = points(runs)
    cuts = cuts_of(QUICK.with_budgets, sample, Targets.of_optima(sample))
    certain = own_tests(cuts, LOSS, lambda cut: 0.0 * cut.flops)
    unsure = own_tests(cuts, LOSS, lambda cut: 0.01**2 + 0.0 * cut.flops)
    for test, wider in zip(certain, unsure, strict=True):
        assert wider.error == test.error
        assert wider.stated == pytest.approx(np.hypot(test.stated, 0.01))
    assert [t.weight for t in certain] == sorted(t.weight for t in certain)
    assert certain[-1].weight == 1


def ends_of_95(values):
    return np.quantile(values, (0.025, 0.975))


def test_intervals_widen_with_distance(draws):
    for answer in (draws.N_opt, draws.loss_opt):
        ends = [ends_of_95(answer(multiple * LARGEST)) for multiple in (1, 3, 10, 30, 100)]
        widths = [np.log(high / low) for low, high in ends]
        assert widths == sorted(widths)
        assert widths[-1] > 2 * widths[0]


@pytest.mark.parametrize("answer", ["N_opt", "loss_opt"])
def test_intervals_are_about_the_answer_and_hold_the_planted_law(law, draws, answer):
    for flops in (LARGEST, 10 * LARGEST, 100 * LARGEST):
        low, high = ends_of_95(getattr(draws, answer)(flops))
        assert low < getattr(law, answer)(flops) < high
        assert low < getattr(CHINCHILLA, answer)(flops, SIX) < high


@pytest.mark.parametrize("name", ["like_minded", "torn"])
def test_draws_scatter_as_the_widths_say(law, draws, torn, name):
    """Variance of the candidates' answers, and of the errors, times the factor."""
    if name == "torn":
        law, draws = torn.law, torn.draws
    for flops in (LARGEST, 30 * LARGEST):
        for answer, width, said, shares in (
            (draws.N_opt, law.size, law.sizes(flops), law.size_weights),
            (draws.loss_opt, law.loss, law.losses(flops), law.loss_weights),
        ):
            logs = np.log(said)
            spread = shares @ (logs - shares @ logs) ** 2
            stated = width.factor * (spread + float(np.ravel(width.errors.variance(flops))[0]))
            assert np.log(answer(flops)).var() == pytest.approx(stated, rel=0.15)


def test_the_shares_of_the_width_sum_to_one_and_distance_takes_more_of_it(law):
    found = numbers(law)
    for shares in (found.of_size, found.of_loss):
        assert shares.noise + shares.methods + shares.distance == pytest.approx(1)
        assert min(vars(shares).values()) >= 0
    assert found.budget == pytest.approx(10 * LARGEST)
    clean = numbers(CombinedFit()(runs_of(noise=0.0)))
    assert clean.of_loss.noise < found.of_loss.noise
    assert clean.of_size.noise < 0.1 * found.of_size.noise


def test_what_was_missed_is_the_mean_square_of_the_back_tests(law):
    ratios = [test.error / test.stated for test in law.loss.tests]
    found = numbers(law)
    assert found.num_tests == len(ratios)
    assert found.missed == pytest.approx(np.sqrt(np.mean(np.square(ratios))))


def test_its_words_hold_the_numbers(runs):
    law = fit_runs(runs, draws=100)
    found = law.diagnostics.of_methods["combined"]
    findings = law.diagnostics.findings
    assert (
        f"what makes the intervals at {short_flops(found.budget)} wide: of the loss "
        f"{found.of_loss}; of N {found.of_size}"
    ) in findings
    assert any(f"off by {found.missed:.2f} of its stated" in finding for finding in findings)
    assert all(name in law.diagnostics.why for name in law.of("combined").parts)
    assert set(advice(law.of("combined"))) <= set(law.diagnostics.advice)


def test_the_next_budget_is_advised_by_what_it_would_narrow(law, draws):
    (said,) = advice(law)
    assert f"a budget of {short_flops(3 * LARGEST)} brings" in said
    now, then = (float(word.rstrip("%")) / 100 for word in said.split() if word.endswith("%"))
    low, high = np.quantile(draws.loss_opt(10 * LARGEST), (0.1, 0.9))
    assert now == pytest.approx(np.log(high / low) / 2, rel=0.15)
    assert then < now


# Tables without budgets.


@pytest.fixture(scope="module")
def table_law():
    return CombinedFit()(grid_runs())


def test_a_table_without_budgets_has_other_candidates(table_law):
    assert list(table_law.parts) == ["surface", "interaction", "interaction of the dearest half"]
    np.testing.assert_array_equal(table_law.size_weights, table_law.loss_weights)
    assert table_law.size.tests == ()
    assert table_law.size.factor == SIZE.calibration
    assert len(table_law.loss.tests) > 20


def test_it_knows_the_loss_of_any_size(table_law):
    generator = np.random.default_rng(0)
    n, d = 10 ** generator.uniform(7.6, 9.3, 50), 10 ** generator.uniform(9.2, 11.5, 50)
    np.testing.assert_allclose(table_law(n, d), CHINCHILLA(n, d), rtol=0.01)
    best = float(table_law.N_opt(1e21))
    at_best = float(table_law(best, table_law.D_opt(1e21)))
    assert at_best == pytest.approx(float(table_law.loss_opt(1e21)), rel=1e-3)


@pytest.mark.parametrize("size", [3e8, 3e9])
def test_it_knows_how_long_a_size_takes_to_a_loss(table_law, size):
    draws = CombinedDraws.of(table_law, 50, seed=0)
    for one in (table_law, draws):
        loss = one(size, 2e11)
        np.testing.assert_allclose(one.tokens_to_reach(loss, size), 2e11, rtol=1e-6)
        assert (one.tokens_to_reach(0.5 + 0 * loss, size) == np.inf).all()


def test_what_other_sizes_cost_is_asked_of_it(runs):
    law = fit_runs(runs, draws=200)
    band = law.flat_band(1e21)
    best = law.predict(1e21).num_params
    assert best / 4 < band.low < best < band.high < 4 * best
    low, high = band.intervals["low"]["95"]
    assert low < band.low < high
    cost = law.cost_of_size(1e21, best / 5)
    assert cost.excess_loss == pytest.approx(
        CHINCHILLA(best / 5, 1e21 / 6 / (best / 5)) / CHINCHILLA.loss_opt(1e21, SIX) - 1, rel=0.25
    )


def test_candidates_that_know_no_other_sizes_make_no_law_that_does(runs):
    law = fit_runs(runs, answer=QUICK, draws=50)
    assert law.answer == "combined"
    assert not law.of("combined").knows_any_size
    by_surface = fit_runs(runs, answer=SurfaceFit(), draws=50)
    assert law.flat_band(1e21) == by_surface.flat_band(1e21)
    assert {bias.if_exact for bias in law.diagnostics.numbers.biases} == {"surface"}


@pytest.fixture(scope="module")
def torn():
    """A law of candidates that go apart, and its draws: two budgets don't tell whom to believe."""
    candidates = {
        "line": IsoflopFit(exponent=0.6),
        "surface": SurfaceFit(),
        "flatter": IsoflopFit(asymptote=0.0),
    }
    two = points(runs_of(budgets=(1e19, LARGEST)))
    return CombinedFit(with_budgets=candidates).fitted(two, 3000, 0)


def test_the_best_size_of_a_budget_is_the_one_that_is_answered(torn):
    """However far off the best of the laws is that know what others cost."""
    law, flops = torn.law, 100 * LARGEST
    best = float(law.N_opt(flops))
    assert abs(np.log(best / law.parts["surface"].law.N_opt(flops))) > 0.2
    sizes = best * np.geomspace(1 / 3, 3, 2001)
    losses = law(sizes, SIX.tokens(flops, sizes))
    assert sizes[losses.argmin()] == pytest.approx(best, rel=1e-3)
    assert losses.min() == pytest.approx(float(law.loss_opt(flops)), rel=1e-9)
    band = flat_band(law, torn.draws, flops)
    assert band.low < 0.9 * best < 1.1 * best < band.high
    cost = cost_of_size(law, torn.draws, flops, best)
    assert (cost.excess_loss, cost.excess_compute) == pytest.approx((0, 0), abs=1e-6)


def test_each_draw_has_its_best_size_where_it_answers_it(torn):
    few = CombinedDraws.of(torn.law, 30, seed=5)
    flops = 10 * LARGEST
    ratios = np.geomspace(1 / 3, 3, 601)
    losses = [few(few.N_opt(flops) * r, few.flop_rule.tokens(flops, few.N_opt(flops) * r))
              for r in ratios]  # fmt: skip
    np.testing.assert_allclose(ratios[np.argmin(losses, axis=0)], 1, rtol=0.01)
    np.testing.assert_allclose(np.min(losses, axis=0), few.loss_opt(flops), rtol=1e-5)


def test_draws_of_any_size_have_the_height_of_their_budget(law, draws):
    n, flops = 2e9, 1e21
    d = float(SIX.tokens(flops, n))
    assert draws(n, d).shape == (4000,)
    assert (draws(n, d) >= draws.loss_opt(flops) * (1 - 1e-6)).mean() > 0.99
    assert np.median(draws(n, d)) == pytest.approx(float(law(n, d)), rel=0.01)


# What must not matter, and what is kept.


@pytest.mark.parametrize("rule", [SIX, UNEVEN])
def test_the_flop_rule_holds_exactly(rule):
    sample = points(runs_of(rule=rule), rule)
    fitted = QUICK.fitted(sample, 50, 0)
    for flops in (1e17, 3e19, 1e24):
        spent = rule(fitted.law.N_opt(flops)) * fitted.law.D_opt(flops)
        assert spent == pytest.approx(flops, rel=1e-12)
        each = rule(fitted.draws.N_opt(flops)) * fitted.draws.D_opt(flops)
        np.testing.assert_allclose(each, flops, rtol=1e-12)


def test_the_order_of_the_runs_is_of_no_matter(runs, law):
    shuffled = [runs[i] for i in np.random.default_rng(0).permutation(len(runs))]
    other = CombinedFit()(shuffled)
    np.testing.assert_allclose(other.size_weights, law.size_weights, rtol=1e-6)
    for flops in (1e18, 1e22):
        assert other.N_opt(flops) == pytest.approx(law.N_opt(flops), rel=1e-7)
        assert other.loss_opt(flops) == pytest.approx(law.loss_opt(flops), rel=1e-7)
    assert (other.loss.factor, other.size.factor) == pytest.approx(
        (law.loss.factor, law.size.factor), rel=0.05
    )


@pytest.mark.parametrize("sample", [points(runs_of()), points(grid_runs())], ids=["sweep", "table"])
def test_law_and_draws_are_written_and_read_exactly(sample):
    fitted = CombinedFit().fitted(sample, 100, 3)
    text = json.dumps(fitted.law.to_json(), allow_nan=False)
    read = CombinedLaw.from_json(json.loads(text), SIX)
    assert read.to_json() == fitted.law.to_json()
    columns = {name: np.asarray(column) for name, column in fitted.draws.columns().items()}
    drawn = CombinedDraws.from_columns(columns, read)
    assert drawn.num_draws == 100
    for flops in (1e18, 3e20, 1e23):
        assert read.N_opt(flops) == fitted.law.N_opt(flops)
        assert read.loss_opt(flops) == fitted.law.loss_opt(flops)
        np.testing.assert_array_equal(drawn.N_opt(flops), fitted.draws.N_opt(flops))
        np.testing.assert_array_equal(drawn.loss_opt(flops), fitted.draws.loss_opt(flops))
    np.testing.assert_array_equal(drawn(1e9, 3e10), fitted.draws(1e9, 3e10))
    np.testing.assert_array_equal(drawn.quantities()["a"], fitted.draws.quantities()["a"])


def test_a_saved_law_says_the_same(runs, tmp_path):
    law = fit_runs(runs, draws=100)
    law.save(tmp_path)
    read = ScalingLaw.load(tmp_path)
    assert read.predict(1e22) == law.predict(1e22)
    assert read.diagnostics == law.diagnostics
    assert read.flat_band(1e21) == law.flat_band(1e21)


def test_the_same_seed_gives_the_same_draws_and_another_others(law):
    first, again, other = (CombinedDraws.of(law, 20, seed).loss_opt(1e21) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_no_draws_are_given_where_none_are_asked(runs):
    sample = points(runs)
    assert QUICK.fitted(sample, 0, 0).draws is None
    assert QUICK.fitted(sample, 7, 0).draws.num_draws == 7


def test_noise_free_runs_are_forecast_closely():
    law = CombinedFit()(runs_of(noise=0.0))
    for multiple in (1, 10, 100):
        flops = multiple * LARGEST
        assert law.N_opt(flops) == pytest.approx(float(CHINCHILLA.N_opt(flops, SIX)), rel=0.12)
        loss = float(CHINCHILLA.loss_opt(flops, SIX))
        assert law.loss_opt(flops) == pytest.approx(loss, rel=0.005 * (1 + np.log10(multiple)))


def test_its_candidates_are_on_record(runs):
    settings = fit_runs(runs, answer=QUICK, draws=0).provenance["settings"]["combined"]
    assert settings["type"] == "CombinedFit"
    assert settings["with_budgets"]["akima"]["curve"] == {"type": "Akima"}
    assert settings["without_budgets"]["tied"]["tied_exponents"] is True
    json.dumps(settings)


def test_where_it_refuses_and_another_answers_its_section_holds_nothing(tmp_path):
    """Four runs are enough for a surface with alpha = beta, which is none of its candidates."""
    few = sweep(CHINCHILLA, budgets=(1e18, 1e19), sizes=(0.5, 2.0))
    law = fit_runs(few, answer=SurfaceFit(tied_exponents=True), draws=0)
    assert law.answer == "surface"
    assert "4 different (N, D)" in law.refusals["combined"]
    section = law.to_json()["combined"]
    assert section.pop("refusal") == law.refusals["combined"]
    assert set(section.values()) == {None}
    assert f"combined refused: {law.refusals['combined']}" in law.diagnostics.findings
    assert not any("fit=auto): " in finding for finding in law.diagnostics.findings)
    law.save(tmp_path)
    assert ScalingLaw.load(tmp_path).to_json() == law.to_json()


@dataclass(frozen=True)
class Mine:
    """A user's own method, which hands on to one of ours."""

    def __call__(self, runs, flop_rule):
        return SurfaceFit(tied_exponents=True)(runs, flop_rule)


def test_a_users_own_method_may_be_a_candidate(runs, tmp_path):
    mine = CombinedFit(with_budgets={"parabola": IsoflopFit(), "mine": Mine()})
    law = fit_runs(runs, answer=mine, draws=50)
    assert list(law.of("combined").parts) == ["parabola", "mine"]
    assert law.of("combined").parts["mine"].kind == "Mine"
    law.save(tmp_path)
    again = ScalingLaw.load(tmp_path)
    assert again.predict(1e21).loss == pytest.approx(law.predict(1e21).loss, rel=1e-12)


def test_a_candidate_that_is_no_method_is_refused_in_words(runs):
    with pytest.raises(FitError, match="3 is no dataclass instance"):
        CombinedFit(with_budgets={"mine": 3})(runs)


def test_a_candidate_that_rows_cannot_test_keeps_the_weight_of_published_sweeps():
    """Single rows ask for the loss of any size, which a line through optima doesn't know."""
    grid = runs_of(noise=0.003)
    names = {"line": IsoflopFit(), "surface": SurfaceFit(), "tied": SurfaceFit(tied_exponents=True)}
    sample = points(grid)
    cuts = cuts_of(names, sample, Targets.of_rows(sample))
    assert cuts
    for cut in cuts:
        assert "line" not in cut.names
        assert len(cut.names) == len(cut.loss_errors) == len(cut.size_errors)


def test_six_runs_without_a_minimum_have_no_intervals_and_no_verdict_of_use():
    """A surface goes through them all, and nothing tells how far off it is elsewhere."""
    six = runs_of(budgets=(1e18, 2e18), sizes=(2.0, 4.0, 8.0), noise=0.02)
    fitted = CombinedFit().fitted(points(six), 100, 0)
    assert list(fitted.law.parts) == ["surface"]
    assert fitted.draws is None
    law = fit_runs(six, draws=100)
    assert law.diagnostics.verdict.startswith("No intervals: these 6 runs give too little")
    assert law.predict(1e19).reliance == "unknown"
