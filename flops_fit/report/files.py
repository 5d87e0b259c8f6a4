"""The report on disk: runs.csv and the figures, beside law.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flops_fit.fitting import ScalingLaw
from flops_fit.run_tables import write_runs
from flops_fit.runs import Run

FIGURE_DPI = 150


def write_report(runs: Sequence[Run], law: ScalingLaw, folder: Path) -> list[Path]:
    """Write runs.csv, figures/isoflop.png and figures/optima.png; returns their paths."""
    from flops_fit.report.plots import plot_isoflop, plot_optima  # matplotlib takes half a second

    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    table = folder / "runs.csv"
    write_runs(table, runs)
    written = [table]
    for name, figure in (("isoflop", plot_isoflop(runs, law)), ("optima", plot_optima(law))):
        path = figures / f"{name}.png"
        figure.savefig(path, dpi=FIGURE_DPI)
        written.append(path)
    return written
