"""What tables, figures and messages show is what the values say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from flops_fit.fitting import fit_runs
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import LossSurface
from flops_fit.plan.experiment import Experiment, Size
from flops_fit.plan.run import Run, ended_run
from flops_fit.report import tables
from flops_fit.report.files import is_current, write_report
from flops_fit.report.plots import plot_isoflop, plot_optima
from flops_fit.report.screen import run_line
from flops_fit.tables import read_table

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


def test_isoflop_figure_draws_the_fitted_curves_through_the_runs():
    (axes,) = plot_isoflop(RUNS, LAW).axes
    curves = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert len(curves) == len(BUDGETS)
    for line, optimum in zip(curves, LAW.budgets, strict=True):
        np.testing.assert_allclose(line.get_ydata(), optimum.curve(line.get_xdata()))
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    assert [line.get_xdata()[0] for line in stars] == [b.N_opt for b in LAW.budgets]
    points = {
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if line.get_marker() == "o"
    }
    assert points == {(run.num_params, run.loss) for run in RUNS if run.loss is not None}


def test_another_metric_is_drawn_and_named_where_the_loss_would_be():
    runs = [replace(r, metrics={"error_rate": r.loss / 9} if r.loss else {}) for r in RUNS]
    law = fit_runs(runs, metric="error_rate", draws=0)
    (axes,) = plot_isoflop(runs, law).axes
    assert axes.get_ylabel() == "held-out error rate"
    drawn = {line.get_ydata()[0] for line in axes.lines if line.get_marker() == "o"}
    assert drawn == {run.loss / 9 for run in RUNS if run.loss}
    assert "error rate" in shown(tables.budgets_table(law))
    assert "error rate" in shown(tables.answers_table(law.answers, law.metric))


def test_a_run_that_was_left_out_is_hollow():
    extra = replace(RUNS[0], id="left out", loss=RUNS[0].loss + 0.1)
    (axes,) = plot_isoflop([*RUNS, extra], LAW).axes
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert [isinstance(face, str) and face == "none" for face in faces].count(True) == 1


def test_runs_without_common_budgets_are_drawn_all_the_same():
    runs = [replace(run, budget=run.budget * (1 + i)) for i, run in enumerate(RUNS)]
    law = fit_runs(runs, draws=20)
    assert law.budgets == ()
    (axes,) = plot_isoflop(runs, law).axes
    assert len(axes.lines) == len([run for run in runs if run.loss is not None])
    assert len(plot_optima(law).axes[0].lines[0].get_xdata()) > 2


def test_optima_figure_draws_the_law_and_its_interval():
    left, right = plot_optima(LAW).axes
    for axes, of_law, name in (
        (left, LAW.law.N_opt, "num_params"),
        (right, LAW.law.D_opt, "num_tokens"),
    ):
        line = axes.lines[0]
        np.testing.assert_allclose(line.get_ydata(), of_law(line.get_xdata()))
        assert line.get_xdata()[-1] == pytest.approx(1000 * max(BUDGETS))
        band = axes.collections[0].get_paths()[0].vertices
        low, high = LAW.predict(line.get_xdata()[-1]).intervals[name]["95"]
        at_end = band[np.isclose(band[:, 0], line.get_xdata()[-1]), 1]
        assert (at_end.min(), at_end.max()) == pytest.approx((low, high))


def test_report_files_are_written_and_read_back(tmp_path):
    LAW.save(tmp_path)
    assert not is_current(tmp_path)
    paths = write_report(RUNS, LAW, tmp_path)
    assert is_current(tmp_path)
    assert [path.name for path in paths] == ["runs.csv", "isoflop.png", "optima.png"]
    runs = read_table(paths[0]).runs
    assert [(r.id, r.loss, r.num_params) for r in runs] == [
        (r.id, r.loss, r.num_params) for r in RUNS
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
