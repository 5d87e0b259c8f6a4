"""The report on disk: runs.csv, the figures and report.html, beside law.json."""

from __future__ import annotations

from pathlib import Path

from flops_fit.answers.comparison import Comparison
from flops_fit.answers.optima import OptimaComparison
from flops_fit.files import file_to_write, write_bytes, write_json
from flops_fit.report.figures.marks import Picture
from flops_fit.report.report import Report, pictures
from flops_fit.tables import write_runs

TABLE, PAGE, FIGURES = "runs.csv", "report.html", "figures"

KINDS = (".png", ".svg")

ALWAYS = f"{FIGURES}/loss.png"
"""The figure that every answer has whose runs have losses."""

COMPARED = "comparison"
"""Name of the files of a comparison, before their kinds."""


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes `TABLE`, the figures that have something to show, and `PAGE`; returns their paths.

    Figures of an earlier answer that this one doesn't have are removed.
    """
    from flops_fit.report.figures.drawing import save

    table = file_to_write(folder, TABLE)
    write_runs(table, report.runs)
    shown = pictures(report)
    written = []
    for picture in shown:
        for kind in KINDS:
            file_to_write(folder, FIGURES, f"{picture.name}{kind}")
        written += save(picture, len(report.budgets), folder / FIGURES)
    for path in (folder / FIGURES).glob("*"):
        if path.suffix in KINDS and path not in written:
            path.unlink()
    return [table, *written, write_page(report, folder, shown)]


def write_page(report: Report, folder: Path, shown: list[Picture] | None = None) -> Path:
    """Writes `PAGE`, of the figures `shown` or all that there are; returns its path."""
    from flops_fit.report.page.page import study_page

    page = study_page(report, pictures(report) if shown is None else shown)
    path = file_to_write(folder, PAGE)
    write_bytes(path, page.encode())
    return path


def write_comparison(comparison: Comparison | OptimaComparison, output_root: Path) -> list[Path]:
    """Writes JSON, figure and page under compare-<a>-<b>; returns their paths."""
    from flops_fit.report.figures.comparison import comparison as compared
    from flops_fit.report.figures.comparison import optima_comparison
    from flops_fit.report.figures.drawing import save
    from flops_fit.report.page.page import comparison_page

    folder = output_root / f"compare-{comparison.a.name}-{comparison.b.name}"
    if isinstance(comparison, Comparison):
        picture = compared(comparison)
    else:
        picture = optima_comparison(comparison)
    document, page = (folder / f"{COMPARED}{kind}" for kind in (".json", ".html"))
    write_json(document, comparison.to_json())
    figures = save(picture, 0, folder)
    write_bytes(page, comparison_page(comparison, picture).encode())
    return [document, *figures, page]


def is_current(folder: Path) -> bool:
    """Whether all of the report is there and no older than the law."""
    law = (folder / "law.json").stat().st_mtime_ns
    paths = [folder / name for name in (TABLE, ALWAYS, PAGE)]
    return all(path.exists() and path.stat().st_mtime_ns >= law for path in paths)
