"""Writes into docs/testing.md how many planted faults the tests notice.

    python scripts/mutation.py [TARGET ...]     all of TARGETS, or these files of them

mutmut changes one thing at a time in a target's functions (a sign, a constant, an argument) in a
copy of the checkout and runs the tests that concern it, without the slow ones. A fault is noticed
where a test fails or hangs. Survivors are printed with what was changed. Needs mutmut, and for all
targets hours; rows of targets that were not run stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from marked_block import block, write_block

ROOT = Path(__file__).resolve().parents[1]
TESTING = ROOT / "docs" / "testing.md"
MUTMUT = Path(sys.executable).parent / "mutmut"
WORKERS = 2
GOAL = 0.85

FITTING = tuple(
    f"tests/fitting/test_{name}.py"
    for name in ("bootstrap", "examine", "fit_runs", "isoflop", "methods", "surface", "fit_words")
)
TABLES = ("tests/fitting/test_run_tables.py", "tests/fitting/test_rows.py")

TARGETS: dict[str, tuple[str, ...]] = {
    "flops_fit/plan/ids.py": (
        "tests/test_planning.py",
        "tests/test_digest.py",
        "tests/test_earlier_ids.py",
    ),
    "flops_fit/plan/sweep.py": ("tests/test_planning.py", "tests/test_sweep.py"),
    "flops_fit/report/tables.py": ("tests/test_report.py", "tests/test_report_tables.py"),
    "flops_fit/tables/rows.py": TABLES,
    "flops_fit/tables/flop_rules.py": (*TABLES, "tests/fitting/test_flop_rules.py"),
    "flops_fit/fitting/examine/examination.py": FITTING,
    "flops_fit/fitting/examine/words.py": FITTING,
    "flops_fit/fitting/examine/sensitivity.py": FITTING,
    "flops_fit/fitting/examine/diagnostics.py": FITTING,
    "flops_fit/fitting/surface/sensitivity.py": FITTING,
    "flops_fit/fitting/surface/words.py": FITTING,
    "flops_fit/fitting/isoflop/words.py": FITTING,
    "flops_fit/fitting/bootstrap.py": FITTING,
    "flops_fit/fitting/noise.py": FITTING,
    "flops_fit/settings": ("tests/test_setting_values.py",),
}
"""File or folder of flops_fit -> the tests that concern it."""

SETTINGS = """

[tool.mutmut]
source_paths = ["flops_fit"]
only_mutate = {only}
also_copy = ["flops_fit", "configs", "docs", "examples", "scripts", "README.md"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-m", "not slow", "-p", "no:cacheprovider"]
process_isolation = "forkserver"
timeout_multiplier = 5.0
"""
HEADER = "| file | faults | noticed | share | seconds |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Score:
    """Of one target; faults where no test goes count as not noticed."""

    target: str
    faults: int
    noticed: int
    seconds: float

    @property
    def row(self) -> str:
        share = self.noticed / max(1, self.faults)
        name = f"`{self.target.removeprefix('flops_fit/')}`"
        return f"| {name} | {self.faults} | {self.noticed} | {share:.0%} | {self.seconds:.0f} |"


@contextmanager
def copy_of_checkout() -> Iterator[Path]:
    """Files that git knows or would, without the ignored."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, done.stdout.split("\0")):
            if not os.path.lexists(ROOT / name):  # removed, and not committed yet
                continue
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, Path(folder) / name, follow_symlinks=False)
        yield Path(folder)


def score(target: str, tests: tuple[str, ...]) -> Score:
    """Plants every fault in turn; prints the survivors."""
    missing = [test for test in tests if not (ROOT / test).exists()]
    if missing:
        raise FileNotFoundError(f"TARGETS names {', '.join(missing)}: name the tests of {target}")
    start = time.perf_counter()
    with copy_of_checkout() as folder:
        only = [target if target.endswith(".py") else f"{target.rstrip('/')}/*.py"]
        with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write(SETTINGS.format(only=json.dumps(only), tests=json.dumps(tests)))
        mutmut(folder, "run", "--max-children", str(WORKERS))
        mutmut(folder, "export-cicd-stats")
        counts = json.loads((folder / "mutants" / "mutmut-cicd-stats.json").read_text())
        for line in mutmut(folder, "results").splitlines():
            print(mutmut(folder, "show", line.partition(":")[0].strip()))
    noticed = counts["killed"] + counts["timeout"] + counts["segfault"]
    faults = noticed + counts["survived"] + counts["no_tests"] + counts["suspicious"]
    return Score(target, faults, noticed, time.perf_counter() - start)


def mutmut(folder: Path, *words: str) -> str:
    """What it says. Raises `RuntimeError` with that where it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [MUTMUT, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"mutmut {' '.join(words)} failed:\n{done.stdout[-5000:]}")
    return done.stdout


def earlier_rows() -> dict[str, str]:
    """Target -> its row in docs/testing.md."""
    rows = [line for line in block(TESTING, "mutation").splitlines() if line.startswith("| `")]
    return {f"flops_fit/{row.split('`')[1]}": row for row in rows}


def total(rows: list[str]) -> str:
    faults, noticed = (sum(int(row.split("|")[column]) for row in rows) for column in (2, 3))
    return f"| all | {faults} | {noticed} | {noticed / max(1, faults):.0%} | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS])
    for target in parser.parse_args().targets or TARGETS:
        done = score(target, TARGETS[target])
        print(done.row, flush=True)
        known = {**earlier_rows(), target: done.row}
        rows = [known[name] for name in TARGETS if name in known]
        write_block(TESTING, "mutation", "\n".join([HEADER, *rows, total(rows)]))


if __name__ == "__main__":
    main()
