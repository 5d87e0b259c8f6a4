"""What tables, figures and messages show is what the values say."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from flops_fit.fitting import fit_runs
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import LossSurface
from flops_fit.plan.experiment import Experiment, Size
from flops_fit.plan.run import Run, ended_run
from flops_fit.report import tables
from flops_fit.report.screen import run_line

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


def test_another_metric_is_named_where_the_loss_would_be():
    runs = [replace(r, metrics={"error_rate": r.loss / 9} if r.loss else {}) for r in RUNS]
    law = fit_runs(runs, metric="error_rate", draws=0)
    assert "error rate" in shown(tables.budgets_table(law))
    assert "error rate" in shown(tables.answers_table(law.answers, law.metric))


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
