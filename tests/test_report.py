"""What tables, figures and messages show is what the values say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from flops_fit.fitting import fit_runs
from flops_fit.fitting.points import Dropped
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.laws.prediction import FlatBand, OtherSize
from flops_fit.plan.experiment import Experiment, Plan, Size
from flops_fit.plan.run import Run, ended_run
from flops_fit.report import tables
from flops_fit.report.screen import duration, run_line

SURFACE = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BUDGETS = (1e18, 3e18, 1e19)
RUNS = simulate_sweep(SURFACE, BUDGETS, sizes=(1 / 8, 1 / 3, 1, 3, 8), noise=0.002)
RUNS[-1] = replace(RUNS[-1], id="gone", status="diverged", loss=None)
LAW = fit_runs(RUNS, draws=50)


def shown(table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def cells(table) -> list[tuple[str, ...]]:
    """The rows of a table, headers first."""
    columns = [[column.header, *column.cells] for column in table.columns]
    return list(zip(*columns, strict=True))


def dashed(bounds, shown_as) -> str:
    return " - ".join(map(shown_as, bounds))


def test_another_metric_is_named_where_the_loss_would_be():
    runs = [replace(r, metrics={"error_rate": r.loss / 9} if r.loss else {}) for r in RUNS]
    law = fit_runs(runs, metric="error_rate", draws=0)
    assert "error rate" in shown(tables.budgets_table(law))
    assert "error rate" in shown(tables.answers_table(law.answers, law.metric))


def test_lines_of_band_and_cost_carry_their_intervals():
    band, cost = LAW.flat_band(1e20), LAW.cost_of_size(1e20, 5e7)
    low, high = (tables.short_number(v) for v in band.intervals["low"]["95"])
    assert f"(95%: {low} - {high})" in tables.band_line(band)
    low, high = (f"{v:.2%}" for v in cost.intervals["excess_loss"]["95"])
    assert f"{cost.excess_loss:.2%} (95%: {low} - {high}) above the best" in tables.cost_line(
        cost, 1e20
    )


def test_predictions_table_carries_interval_and_extrapolation():
    prediction = LAW.predict(1e20)
    text = shown(tables.answers_table([replace(prediction, others=())]))
    assert f"{prediction.loss:.4f}" in text
    low, high = prediction.intervals["loss"]["95"]
    assert f"{low:.4f} - {high:.4f}" in text
    assert text.split()[-1] == "10"


def test_variants_are_named_by_what_differs():
    variants = [tables.Variant(["model=mlp", f"seed={seed}"], 3, 3, 0.1, "0.5") for seed in (1, 2)]
    text = shown(tables.variants_table(variants))
    assert "seed=1" in text
    assert "seed=2" in text
    assert "model=mlp" not in text


def test_plan_table_shows_epochs_only_where_data_repeats():
    once = Experiment(1e9, Size("width", 8), 100, 120, 50, 4, 4, 600.0, 540.0, 600.0, 1000, 0)
    rule = FlopRule.constant()
    assert "epochs" not in shown(tables.plan_table(Plan((once,), rule)))
    twice = replace(once, unique_tokens=100)
    text = shown(tables.plan_table(Plan((twice,), rule)))
    assert "epochs" in text
    assert "0.90" in text


def test_a_row_of_the_plan_is_what_will_be_trained_and_its_share_of_all_flops():
    small = Experiment(1e9, Size("width", 8), 1000, 1200, 50, 4, 400, 6e3, None, 6e3, None, 0)
    large = replace(
        small, budget=3e9, size=Size("width", 16), num_params=4000, flops_per_token=18e3
    )
    assert cells(tables.plan_table(Plan((small, large), FlopRule.constant()))) == [
        ("budget", "width", "N", "D", "steps", "D/N", "FLOPs"),
        ("1e+09", "8", "1k", "20k", "50", "20", "25.0%"),
        ("3e+09", "16", "4k", "20k", "50", "5", "75.0%"),
    ]


def test_line_of_a_failed_run_says_why():
    experiment = Experiment(1e9, Size("width", 8), 100, 120, 50, 4, 4, 600.0, None, 600.0, None, 0)
    assert "failed: out of luck" in run_line(ended_run(experiment, "failed", "out of luck"))
    run = Run(
        "id", "completed", 100, 200, 1e9, 0.25, 1e9, size=Size("width", 8), wall_time_seconds=2.0
    )
    assert "loss 0.2500" in run_line(run)
    assert run_line(replace(run, mfu=0.456)).endswith("  46% of peak")
    assert "of peak" not in run_line(replace(run, mfu=0.0001))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 seconds"),
        (90, "90 seconds"),
        (600, "10 minutes"),
        (7200, "2 hours"),
        (8e5, "9 days"),
    ],
)
def test_durations_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_every_interval_of_a_prediction_stands_behind_its_own_number():
    p = LAW.predict(1e20)
    count, loss = tables.short_number, "{:.4f}".format
    n, y = (p.intervals[name]["95"] for name in ("num_params", "loss"))
    header, row, *others = cells(tables.answers_table([p]))
    assert [other[1] for other in others] == ["isoflop", "surface"]
    assert list(zip(header, row, strict=True)) == [
        ("budget", "1e+20"),
        ("by", "combined"),
        ("rely on", "both"),
        ("N", count(p.num_params)),
        ("95%", dashed(n, count)),
        ("D", count(p.num_tokens)),
        ("D/N", f"{p.num_tokens / p.num_params:.3g}"),
        ("loss", loss(p.loss)),
        ("95%", dashed(y, loss)),
        ("x top", "10"),
    ]


def test_the_optimum_of_each_budget_stands_under_its_header():
    left_out = replace(LAW.budgets[1], verdict="few", N_opt=None, D_opt=None, loss=None)
    law = replace(LAW, budgets=(LAW.budgets[0], left_out))
    header, first, second = cells(tables.budgets_table(law))
    b = LAW.budgets[0]
    assert header == ("budget", "N_opt", "D_opt", "D/N", "loss", "verdict")
    assert first == (
        "1e+18",
        tables.short_number(b.N_opt),
        tables.short_number(b.D_opt),
        f"{b.D_opt / b.N_opt:.3g}",
        f"{b.loss:.4f}",
        "ok",
    )
    assert second == ("3e+18", "", "", "", "", "few")


def test_beyond_the_budgets_the_other_method_stands_beside_the_one_that_answers():
    _, *shown_rows = cells(tables.answers_table(LAW.answers))
    inside = [("combined", f"{c / 1e19:.3g}") for c in BUDGETS]
    beyond = [
        (method, f"{multiple:.3g}")
        for multiple in (10, 100, 1000)
        for method in ("combined", "isoflop", "surface")
    ]
    assert [(row[1], row[-1]) for row in shown_rows] == [*inside, *beyond]


def test_the_methods_are_named_in_words_with_their_exponents_and_refusals():
    low, high = LAW.intervals["surface.a"]["95"]
    left, right = LAW.intervals["isoflop.a"]["95"]
    line, surface = (LAW.of(method).a for method in ("isoflop", "surface"))
    assert tables.law_lines(LAW)[:2] == [
        f"approach 2, IsoFLOP curves: N_opt ~ C^{line:.3f} (95%: {left:.3f} to {right:.3f})",
        f"approach 3, loss surface: N_opt ~ C^{surface:.3f} (95%: {low:.3f} to {high:.3f})",
    ]
    refused = replace(LAW.fits, laws={}, refusals={"envelope": "no curves", "MyFit": "no luck"})
    assert tables.law_lines(replace(LAW, fits=refused)) == [
        "approach 1, envelope of training curves: no curves",
        "MyFit: no luck",
    ]


def test_the_flat_band_is_said_from_its_low_to_its_high_end():
    band = FlatBand(1e20, 1e-3, 3e8, 2e9, {"low": {"95": (2e8, 4e8)}, "high": {"95": (1e9, 3e9)}})
    assert tables.band_line(band) == (
        "at 1e+20 FLOPs all sizes from 300M (95%: 200M - 400M) to 2B (95%: 1B - 3B) lose less than "
        "0.1%"
    )


def test_the_cost_of_a_size_is_said_in_loss_and_in_compute():
    intervals = {
        "loss": {"95": (2.4, 2.6)},
        "excess_loss": {"95": (0.01, 0.03)},
        "excess_compute": {"95": (0.1, float("inf"))},
    }
    cost = OtherSize(3e9, 1e10, 2.5, 0.0213, 0.25, intervals)
    assert tables.cost_line(cost, 1e20) == (
        "N = 3B at 1e+20 FLOPs: loss 2.5000, 2.13% (95%: 1.00% - 3.00%) above the best; to reach "
        "the best it takes 25.0% (95%: 10.0% - no limit) more FLOPs"
    )
    never = replace(cost, excess_compute=None)
    assert tables.cost_line(never, 1e20).endswith("no amount of tokens brings it to the best")


def test_runs_left_out_are_counted_by_reason_and_a_single_one_is_named():
    dropped = [Dropped("a", "diverged"), Dropped("b", "no loss"), Dropped("c", "diverged")]
    assert tables.left_out_line(dropped) == "left out: 2 runs (diverged), b (no loss)"
    many = [Dropped(str(i), f"reason {i}") for i in range(6)]
    assert tables.left_out_line(many).endswith("3 (reason 3), and for 2 more reasons")


def test_a_row_of_the_runs_table_is_what_became_of_that_experiment():
    planned = [
        Experiment(c, Size("width", w), n, n, 50, 4, 4, c, None, c, None, 0, id=f"run-{w}")
        for c, w, n in ((1e9, 8, 100), (2e9, 16, 400))
    ]
    done = replace(ended_run(planned[1], "done", None), loss=2.5, wall_time_seconds=3.21)
    table = cells(tables.runs_table(Plan(tuple(planned), FlopRule.constant()), {done.id: done}))
    assert table == [
        ("run", "budget", "width", "status", "loss", "seconds"),
        ("run-8", "1e+09", "8", "missing", "", ""),
        ("run-16", "2e+09", "16", "completed", "2.5000", "3.2"),
    ]


def test_variants_show_what_they_trained_and_found():
    variants = [
        tables.Variant(["seed=1"], 3, 5, 0.25, "0.51"),
        tables.Variant(["seed=2"], 0, 5, None, ""),
    ]
    assert cells(tables.variants_table(variants)) == [
        ("variant", "runs", "trained now", "best loss", "N_opt ~ C^"),
        ("seed=1", "5", "3", "0.2500", "0.51"),
        ("seed=2", "5", "0", "", ""),
    ]
