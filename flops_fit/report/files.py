"""The report on disk: runs.csv and the figures, beside law.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flops_fit.answers.comparison import Comparison
from flops_fit.answers.optima import OptimaComparison
from flops_fit.files import file_to_write, write_json
from flops_fit.fitting import Refusal, ScalingLaw
from flops_fit.plan.run import Run
from flops_fit.tables import write_runs

FIGURE_DPI = 150

TABLE, FIGURES = "runs.csv", ("figures/isoflop.png", "figures/optima.png")


def write_report(runs: Sequence[Run], answer: ScalingLaw | Refusal, folder: Path) -> list[Path]:
    """Write `TABLE` and `FIGURES`, without a law the first of them; returns their paths."""
    from flops_fit.report.plots import plot_isoflop, plot_optima

    paths = {name: file_to_write(folder, *name.split("/")) for name in (TABLE, *FIGURES)}
    figures = {FIGURES[0]: plot_isoflop(runs, answer)}
    if isinstance(answer, ScalingLaw):
        figures[FIGURES[1]] = plot_optima(answer)
    write_runs(paths[TABLE], runs)
    for name, figure in figures.items():
        figure.savefig(paths[name], dpi=FIGURE_DPI)
    return [paths[TABLE], *(paths[name] for name in figures)]


def write_comparison(comparison: Comparison, output_root: Path) -> list[Path]:
    """Write figure and JSON under compare-<a>-<b>; returns their paths."""
    from flops_fit.report.plots import plot_comparison

    folder = output_root / f"compare-{comparison.a.name}-{comparison.b.name}"
    paths = [folder / name for name in ("comparison.json", "comparison.png")]
    write_json(paths[0], comparison.to_json())
    plot_comparison(comparison).savefig(paths[1], dpi=FIGURE_DPI)
    return paths


def write_optima(comparison: OptimaComparison, output_root: Path) -> Path:
    """Write the JSON of a comparison of optima under compare-<a>-<b>; returns its path."""
    folder = output_root / f"compare-{comparison.a.name}-{comparison.b.name}"
    write_json(folder / "comparison.json", comparison.to_json())
    return folder / "comparison.json"


def is_current(folder: Path) -> bool:
    """Whether all of the report is there and no older than the law."""
    law = (folder / "law.json").stat().st_mtime_ns
    paths = [folder / name for name in (TABLE, *FIGURES)]
    return all(path.exists() and path.stat().st_mtime_ns >= law for path in paths)
