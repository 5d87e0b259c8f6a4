"""Writes into docs/testing.md which share of flops_fit the fast tests run through.

    python scripts/coverage_figure.py [WORDS FOR PYTEST ...]

Lines and branches count alike, those that processes of the tests run through too. Needs pytest-cov.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from marked_block import write_block

ROOT = Path(__file__).resolve().parents[1]
HEADER = "| part of flops_fit | lines | branches | run through |\n|---|---|---|---|"


def measured(words: list[str]) -> dict[str, dict]:
    """File -> coverage's summary of it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--cov"]
        command += [f"--cov-report=json:{report}", *words]
        subprocess.run(command, cwd=ROOT, check=True)
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    return {name: file["summary"] for name, file in files.items()}


def row(name: str, summaries: list[dict]) -> str:
    lines, branches, covered = (
        sum(sum(one[key] for key in keys) for one in summaries)
        for keys in (
            ("num_statements",),
            ("num_branches",),
            ("covered_lines", "covered_branches"),
        )
    )
    return f"| {name} | {lines:,} | {branches:,} | {covered / max(1, lines + branches):.1%} |"


def main() -> None:
    parts = defaultdict(list)
    for name, summary in measured(sys.argv[1:]).items():
        inside = Path(name).relative_to("flops_fit")
        parts[inside.parts[0] if len(inside.parts) > 1 else "files on the top floor"].append(
            summary
        )
    rows = [row(name, parts[name]) for name in sorted(parts)]
    every = [summary for summaries in parts.values() for summary in summaries]
    table = "\n".join([HEADER, *rows, row("all", every)])
    write_block(ROOT / "docs" / "testing.md", "coverage", table)


if __name__ == "__main__":
    main()
