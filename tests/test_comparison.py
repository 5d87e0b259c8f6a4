"""Two laws side by side: planted multipliers and crossings come back, and what can't be is said."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from rich.console import Console

from flops_fit.answers.comparison import COMPARABLE, Contender, compare_laws
from flops_fit.answers.crossing import Crossing, flops_to_reach
from flops_fit.answers.optima import Side, compare_optima
from flops_fit.cli import main
from flops_fit.fitting import IsoflopFit, SurfaceFit, fit_runs
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.laws.prediction import NoSuchRun
from flops_fit.report import tables
from flops_fit.report.figures.comparison import comparison as picture_of
from flops_fit.report.figures.marks import Band, Line, Points
from flops_fit.shown import short_flops, short_loss, span, times
from flops_fit.tables import write_runs

BUDGETS = (1e18, 3e18, 1e19, 3e19, 1e20)
SIZES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
SURFACE = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)

# The loss at (N, D) is that of SURFACE at (N / 1.2, D / 1.4): it takes 1.2 * 1.4 times the FLOPs.
MULTIPLIER = 1.2 * 1.4
SLOWER = replace(SURFACE, A=SURFACE.A * 1.2**SURFACE.alpha, B=SURFACE.B * 1.4**SURFACE.beta)

# With alpha = beta = 0.3 the best loss is E + 2 sqrt(A B) (C / 6)^-0.15.
EARLY = LossSurface(E=1.9, A=300.0, B=300.0, alpha=0.3, beta=0.3)
LATE = LossSurface(E=1.8, A=340.0, B=340.0, alpha=0.3, beta=0.3)
CROSSING = 6 * (2 * (340 - 300) / (1.9 - 1.8)) ** (1 / 0.15)  # 1.3e20


@cache
def side(name, surface, *, budgets=BUDGETS, noise=0.0, seed=0, draws=0, answer=None) -> Contender:
    runs = simulate_sweep(surface, budgets, sizes=SIZES, noise=noise, seed=seed)
    return Contender.of(name, fit_runs(runs, draws=draws, answer=answer or SurfaceFit()), runs)


@pytest.fixture(scope="module")
def noisy():
    """A comparison of sweeps with 0.3% noise that cross."""
    pair = (("early", EARLY, 1), ("late", LATE, 2))
    return compare_laws(*(side(n, s, noise=0.003, seed=k, draws=300) for n, s, k in pair))


def test_the_planted_multiplier_comes_back_at_every_budget():
    comparison = compare_laws(side("fast", SURFACE), side("slow", SLOWER))
    assert [row.budget for row in comparison.rows] == pytest.approx([*BUDGETS, 1e21, 1e22])
    assert [row.extrapolation for row in comparison.rows[-2:]] == pytest.approx([10, 100])
    for row in comparison.rows:
        assert row.multiplier.value == pytest.approx(MULTIPLIER, rel=1e-4)
        assert row.multiplier_extrapolation == pytest.approx(MULTIPLIER * row.budget / 1e20, 1e-4)
        assert row.loss_a.value == pytest.approx(
            float(SURFACE.loss_opt(row.budget, FlopRule.constant())), rel=1e-6
        )
        assert row.multiplier.intervals == row.loss_a.intervals == {}
    assert comparison.crossing.flops is None
    assert comparison.verdict.startswith("fast is ahead of slow over the range trained in both")
    assert "slow needs 1.7 times the compute of fast" in comparison.verdict
    assert "nothing changes" in comparison.verdict
    assert sum("without draws" in warning for warning in comparison.warnings) == 2


def test_changing_sides_turns_the_multiplier_over():
    comparison = compare_laws(side("slow", SLOWER), side("fast", SURFACE))
    assert comparison.rows[0].multiplier.value == pytest.approx(1 / MULTIPLIER, rel=1e-4)
    assert comparison.verdict.startswith("fast is ahead of slow")
    assert "fast needs 0.6 times the compute of slow" in comparison.verdict


def test_the_planted_crossing_comes_back():
    crossing = compare_laws(side("early", EARLY), side("late", LATE)).crossing
    assert crossing.flops == pytest.approx(CROSSING, rel=1e-3)
    assert crossing.extrapolation == pytest.approx(CROSSING / 1e20, rel=1e-3)
    assert crossing.share_of_draws is None


def test_approach_2_finds_the_crossing_too():
    a, b = (side(n, s, answer=IsoflopFit()) for n, s in (("early", EARLY), ("late", LATE)))
    assert (a.method, b.method) == ("isoflop", "isoflop")
    assert compare_laws(a, b).crossing.flops == pytest.approx(CROSSING, rel=0.1)


def test_intervals_hold_the_truth_most_of_the_time():
    inside, crossed = [], []
    for seed in range(4):
        pair = (side("a", s, noise=0.005, seed=2 * seed + k, draws=100)
                for k, s in enumerate((SURFACE, SLOWER)))  # fmt: skip
        rows = compare_laws(*pair).rows
        bounds = [row.multiplier.intervals for row in rows]
        inside += [b["95"][0] < MULTIPLIER < b["95"][1] for b in bounds]
        assert all(b["95"][0] <= b["80"][0] < b["80"][1] <= b["95"][1] for b in bounds)
        pair = (side("a", s, noise=0.003, seed=100 + 2 * seed + k, draws=100)
                for k, s in enumerate((EARLY, LATE)))  # fmt: skip
        low, high = compare_laws(*pair).crossing.intervals["95"]
        crossed.append(low < CROSSING < high)
    assert np.mean(inside) >= 0.8
    assert sum(crossed) >= 3


def test_crossing_is_told_with_its_interval_and_the_share_of_draws(noisy):
    low, high = noisy.crossing.intervals["80"]
    assert low < noisy.crossing.flops < high
    assert 0.9 < noisy.crossing.share_of_draws <= 1
    assert noisy.verdict.startswith("early is ahead of late at 1e18 to")
    assert "they can't be told apart" in noisy.verdict
    assert noisy.verdict.endswith("late is ahead")
    shares = [row.share_a_better for row in noisy.rows]
    assert (shares[0], shares[-1]) == pytest.approx((1, 0), abs=0.01)


def test_what_b_can_never_reach_has_no_multiplier_and_an_open_interval():
    floor = replace(SURFACE, E=2.3)
    comparison = compare_laws(
        side("good", SURFACE, noise=0.002, draws=100), side("floor", floor, noise=0.002, draws=100)
    )
    last = comparison.rows[-1]  # the loss of `good` is 2.14 there
    assert (last.multiplier.value, last.multiplier_extrapolation) == (None, None)
    assert last.multiplier.intervals["95"][1] == np.inf
    assert comparison.to_json()["rows"][-1]["multiplier"]["intervals"]["95"][1] is None
    assert "never" in shown(tables.comparison_table(comparison))


def test_one_law_against_itself_cannot_be_told_apart():
    a, b = (side(name, SURFACE, noise=0.003, draws=200) for name in "ab")
    comparison = compare_laws(a, b)
    assert comparison.verdict.startswith("a and b can't be told apart over the range trained in")
    assert comparison.rows[0].multiplier.value == pytest.approx(1)
    # Equal seeds: draws paired by their number would all agree, and no interval would have width.
    low, high = comparison.rows[0].multiplier.intervals["95"]
    assert low < 0.99 < 1.01 < high
    assert comparison.crossing.flops is None


def test_flops_to_reach_is_the_inverse_of_the_law():
    law = side("a", SURFACE).law
    flops = np.array([1e17, 1e20, 1e24])
    np.testing.assert_allclose(flops_to_reach(law, law.loss_opt(flops)), flops, rtol=1e-9)
    assert flops_to_reach(law, 1.0) == np.inf


def test_ranges_that_do_not_overlap_are_warned_about():
    far = side("far", SLOWER, budgets=(1e21, 3e21, 1e22))
    comparison = compare_laws(side("near", SURFACE), far)
    assert any("ranges don't overlap (near at 1e18" in text for text in comparison.warnings)
    assert "between the ranges they were trained in (1e20 to 1e21 FLOPs)" in comparison.verdict
    assert {row.trained_in for row in comparison.rows} == {("near",), ("far",), ()}
    one = side("near", SURFACE), side("other", SURFACE, answer=IsoflopFit())
    assert any("fit both with the same fit=" in text for text in compare_laws(*one).warnings)


def test_budgets_at_which_a_law_has_no_answer_are_left_out_and_said():
    far = replace(side("far", SLOWER), budgets=(1e18, 1e39, 1e45))
    comparison = compare_laws(side("near", SURFACE), far)
    assert [row.budget for row in comparison.rows] == pytest.approx([*BUDGETS, 1e39])
    assert "nothing is compared at 1e+45, 1e+46, 1e+47 FLOPs" in comparison.warnings[-1]
    both = compare_optima(*(Side.of_study(s) for s in (comparison.a, far)))
    assert [row.budget for row in both.rows] == pytest.approx([*BUDGETS, 1e39])
    assert "nothing is compared at 1e+45, 1e+46, 1e+47 FLOPs" in both.warnings[-1]
    for each in (comparison, both):
        assert max(row["budget"] for row in each.to_json()["rows"]) == pytest.approx(1e39)


def test_laws_without_a_budget_in_common_are_not_compared():
    nowhere = replace(side("near", SURFACE), budgets=(1e50, 1e51))
    far = replace(side("far", SLOWER), budgets=(1e50, 1e51))
    with pytest.raises(NoSuchRun, match="near and far can't be compared"):
        compare_laws(nowhere, far)
    with pytest.raises(NoSuchRun, match="the law of near has no answer at 1e"):
        compare_optima(Side.of_study(nowhere), Side.of_study(far))


def test_no_multiplier_is_of_a_run_that_can_not_be():
    """What B would need 1e30 times the compute for it never reaches."""
    slow = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.03, beta=0.03)
    law = side("slow", slow).law
    with np.errstate(all="ignore"):
        target = law.loss_opt(1e42)
    assert law.N_opt(1e42) > 1e18
    assert flops_to_reach(law, target) == np.inf


def test_laws_of_different_metrics_are_warned_about_and_figures_name_theirs():
    a, b = side("near", SURFACE), side("other", SURFACE)
    other = replace(b, metric="error_rate")
    assert any("fit both with the same metric=" in t for t in compare_laws(a, other).warnings)
    both = compare_laws(replace(a, metric="error_rate"), other)
    assert not any("metric=" in text for text in both.warnings)
    assert both.to_json()["a"]["metric"] == "error_rate"
    assert picture_of(both).panels[0].y.label == "best held-out error rate"


def shown(table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_table_and_crossing_line_say_what_the_values_say(noisy):
    text = shown(tables.comparison_table(noisy))
    row = noisy.rows[0]
    low, high = row.multiplier.intervals["95"]
    assert "A = early, B = late" in text
    assert short_loss(row.loss_a.value) in text
    assert f"{row.multiplier.value:.3g}x ({low:.3g}-{high:.3g}x)" in text
    assert f"cross at {short_flops(noisy.crossing.flops)} " in tables.crossing_line(noisy.crossing)
    none = replace(noisy.crossing, flops=None)
    assert tables.crossing_line(none).startswith("The losses don't cross")


def test_figure_draws_both_laws_their_bands_budgets_and_crossing(noisy):
    losses, _ = picture_of(noisy).panels
    marks = losses.marks
    named = {mark.name: mark for mark in marks if isinstance(mark, Line | Points)}
    bands = [mark for mark in marks if isinstance(mark, Band)]
    for contender, band in zip((noisy.a, noisy.b), bands, strict=True):
        line = named[contender.name]
        np.testing.assert_allclose(line.y, contender.law.loss_opt(line.x))
        assert line.x[0] == pytest.approx(1e18)
        assert named[f"{contender.name}, trained"].x == pytest.approx(contender.budgets)
        assert (band.low[0], band.high[0]) == contender.loss_intervals(band.x[0])["95"]
    at = named["equal loss"]
    assert at.x[0] == noisy.crossing.flops
    assert at.y[0] == pytest.approx(float(noisy.b.law.loss_opt(noisy.crossing.flops)))


def test_the_sides_are_told_apart_by_more_than_colour(noisy):
    losses, _ = picture_of(noisy).panels
    lines = [mark for mark in losses.marks if isinstance(mark, Line)]
    trained = [m for m in losses.marks if isinstance(m, Points) and m.name.endswith("trained")]
    assert len({line.dashes for line in lines}) == len({dots.symbol for dots in trained}) == 2


def test_the_multiplier_is_drawn_with_the_intervals_of_the_table(noisy):
    _, panel = picture_of(noisy).panels
    (line,) = (mark for mark in panel.marks if isinstance(mark, Line))
    (dots,) = (mark for mark in panel.marks if isinstance(mark, Points))
    assert dots.y.tolist() == [row.multiplier.value for row in noisy.rows]
    assert np.exp(np.interp(np.log(dots.x), np.log(line.x), np.log(line.y))) == pytest.approx(
        dots.y, rel=0.02
    )
    assert tuple(dots.y_bars[0]) == noisy.rows[0].multiplier.intervals["95"]


def sides_of_unequal_reach(**options):
    """A fast sweep up to 1e20 FLOPs, a slow one from 3e18 up to 1e19."""
    return (
        side("fast", SURFACE, **options),
        side("slow", SLOWER, budgets=(3e18, 5e18, 1e19), **options),
    )


def test_extrapolation_begins_where_the_first_of_the_two_ends():
    fast, slow = sides_of_unequal_reach()
    for a, b in ((fast, slow), (slow, fast)):
        comparison = compare_laws(a, b)
        for row in comparison.rows:
            assert row.extrapolation == pytest.approx(row.budget / 1e19)
            needed = row.budget * row.multiplier.value
            assert row.multiplier_extrapolation == pytest.approx(needed / b.budgets[-1])
        assert [row.budget for row in comparison.rows[-2:]] == pytest.approx([1e21, 1e22])


def test_a_crossing_is_extrapolated_from_the_smaller_top_budget():
    late = side("late", LATE, budgets=(1e18, 3e18, 1e19))
    crossing = compare_laws(side("early", EARLY), late).crossing
    assert crossing.extrapolation == pytest.approx(CROSSING / 1e19, rel=1e-2)
    assert "the smaller of the largest budgets" in tables.crossing_line(crossing)


def test_a_row_names_those_that_were_trained_at_its_budget():
    trained = {row.budget: row.trained_in for row in compare_laws(*sides_of_unequal_reach()).rows}
    assert trained[1e18] == ("fast",)
    assert trained[3e18] == trained[5e18] == trained[1e19] == ("fast", "slow")
    assert trained[1e20] == ("fast",)
    assert trained[1e21] == ()


def test_each_loss_and_its_interval_are_those_of_its_own_law(noisy):
    for row in noisy.rows:
        for contender, estimate in ((noisy.a, row.loss_a), (noisy.b, row.loss_b)):
            assert estimate.value == pytest.approx(float(contender.law.loss_opt(row.budget)))
            draws = contender.draws.loss_opt(row.budget)
            bounds = np.quantile(draws, (0.025, 0.975))
            assert estimate.intervals["95"] == pytest.approx(tuple(bounds))


def test_the_share_of_draws_is_that_in_which_a_has_the_lower_loss():
    better, worse = (side(n, s, noise=0.002, draws=100) for n, s in (("a", SURFACE), ("b", SLOWER)))
    assert all(row.share_a_better > 0.9 for row in compare_laws(better, worse).rows[:5])
    assert all(row.share_a_better < 0.1 for row in compare_laws(worse, better).rows[:5])


def test_the_compute_that_b_needs_buys_it_the_loss_of_a(noisy):
    for row in noisy.rows:
        needed = row.budget * row.multiplier.value
        assert float(noisy.b.law.loss_opt(needed)) == pytest.approx(row.loss_a.value, rel=1e-9)


def test_the_verdict_gives_the_interval_over_all_budgets_trained_in_both():
    pair = (side(n, s, noise=0.002, seed=k, draws=200)
            for k, (n, s) in enumerate((("fast", SURFACE), ("slow", SLOWER))))  # fmt: skip
    comparison = compare_laws(*pair)
    bounds = [row.multiplier.intervals["95"] for row in comparison.rows[: len(BUDGETS)]]
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    values = [row.multiplier.value for row in comparison.rows[: len(BUDGETS)]]
    least, most = (f"{v:.2g}" for v in (min(values), max(values)))
    times = least if least == most else f"{least} to {most}"
    assert f"slow needs {times} times the compute of fast" in comparison.verdict
    assert f"(95%: {low:.3g} to {high:.3g})" in comparison.verdict


def test_every_cell_of_the_comparison_stands_under_its_header(noisy):
    table = tables.comparison_table(noisy)
    headers = [column.header for column in table.columns]
    first = [next(iter(column.cells)) for column in table.columns]
    row = noisy.rows[0]

    def bracketed(estimate, shown_as):
        return f"{shown_as(estimate.value)} ({span(*estimate.intervals['95'], shown_as)})"

    assert list(zip(headers, first, strict=True)) == [
        ("budget", "1e18"),
        ("x smaller top", "0.01x"),
        ("trained", "A B"),
        ("loss A (95%)", bracketed(row.loss_a, short_loss)),
        ("loss B (95%)", bracketed(row.loss_b, short_loss)),
        ("B needs (95%)", bracketed(row.multiplier, times)),
        ("x top of B", times(row.multiplier_extrapolation)),
    ]


def test_the_crossing_is_said_with_its_interval_reach_and_share_of_draws():
    crossing = Crossing(1.3e20, 1.34, {"95": (1.1e20, np.inf)}, 0.83)
    assert tables.crossing_line(crossing) == (
        "The losses cross at 1.3e20 (over 1.1e20) FLOPs, 1.34x the smaller of the largest budgets; "
        "83% of the draws cross."
    )
    below = replace(crossing, intervals={"95": (0.0, 1.5e20)}, share_of_draws=None)
    assert "1.3e20 (under 1.5e20) FLOPs, 1.34x" in tables.crossing_line(below)


def test_flops_counted_in_two_ways_are_warned_about():
    a, b = side("near", SURFACE), side("other", SURFACE)
    table = FlopRule((1e8, 1e9), (8e8, 6.5e9))
    by_table = replace(b, law=replace(b.law, flop_rule=table))
    warned = "their FLOPs may not mean the same"
    assert any(warned in text for text in compare_laws(a, by_table).warnings)
    assert not any(warned in text for text in compare_laws(a, b).warnings)


def test_a_loss_that_b_reaches_at_some_budgets_only_is_said_to_need_at_least_so_much():
    losses = [float(SURFACE.loss_opt(budget, FlopRule.constant())) for budget in BUDGETS[-2:]]
    floor = replace(SURFACE, E=sum(losses) / 2)  # between what A has at the last two budgets
    comparison = compare_laws(side("good", SURFACE), side("floor", floor))
    values = [row.multiplier.value for row in comparison.rows[: len(BUDGETS)]]
    assert values[-1] is None
    least, most = (f"{v:.2g}" for v in (values[0], values[-2]))
    assert f"floor needs at least {least} to {most} times the compute" in comparison.verdict


def test_json_of_a_comparison_is_what_was_found(noisy):
    data = json.loads(json.dumps(noisy.to_json(), allow_nan=False))
    assert data["schema_version"] == 1
    assert (data["a"]["name"], data["b"]["name"]) == ("early", "late")
    for written, row in zip(data["rows"], noisy.rows, strict=True):
        assert written["trained_in"] == list(row.trained_in)
        for name in ("loss_a", "loss_b", "multiplier"):
            estimate = getattr(row, name)
            assert written[name]["value"] == estimate.value
            assert written[name]["intervals"]["80"] == list(estimate.intervals["80"])
    assert data["crossing"]["flops"] == noisy.crossing.flops


@pytest.fixture(scope="module")
def fitted_tables(tmp_path_factory):
    """A folder with the studies `fast` and `slow`, fitted from tables, and one without a law."""
    folder = tmp_path_factory.mktemp("tables")
    for seed, (name, surface) in enumerate((("fast", SURFACE), ("slow", SLOWER))):
        runs = simulate_sweep(surface, BUDGETS, sizes=SIZES, noise=0.001, seed=seed)
        write_runs(folder / f"{name}.csv", runs)
        words = [f"runs={folder / name}.csv", f"output_root={folder / 'outputs'}", "draws=200"]
        assert main(["fit", *words]) == 0
    (folder / "outputs/unfitted/plans").mkdir(parents=True)
    (folder / "outputs/unfitted/latest").symlink_to("plans")
    return folder


@pytest.fixture
def two_tables(fitted_tables, monkeypatch):
    monkeypatch.chdir(fitted_tables)
    return fitted_tables


@pytest.mark.parametrize("words", [["studies=[fast,slow]"], ["studies=fast,slow"]])
def test_two_tables_are_compared_on_the_command_line(two_tables, capsys, words):
    capsys.readouterr()
    assert main(["compare", *words, "json=true"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    folder = two_tables / "outputs/compare-fast-slow"
    assert json.loads((folder / "comparison.json").read_text()) == found
    assert all(
        (folder / f"comparison.{kind}").stat().st_size > 0 for kind in ("png", "svg", "html")
    )
    assert found["comparable"] == COMPARABLE
    assert COMPARABLE in said.err
    low, high = found["rows"][2]["multiplier"]["intervals"]["95"]
    assert low < MULTIPLIER < high
    assert main(["compare", *words]) == 0
    assert found["verdict"] in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "studies names 0 (): name the two to compare"),
        (["studies=fast"], "studies names 1 (fast): name the two to compare"),
        (["studies=fast,slow,other"], "studies names 3 (fast, slow, other)"),
        (["studies=fast,fast"], "studies names 'fast' twice: name another"),
        (["studies=fast,gone"], "no study 'gone'"),
        (["studies=fast,unfitted"], "has no law yet: run `flops-fit fit study=unfitted`"),
    ],
)
def test_refusals_say_what_to_do(two_tables, capsys, words, expected):
    assert main(["compare", *words]) == 1
    assert expected in capsys.readouterr().err
