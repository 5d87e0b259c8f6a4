"""The commands of examples/README.md run as they stand."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from flops_fit.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^flops-fit (fit .*)$", README, flags=re.MULTILINE)
TABLES = sorted(path.name for path in EXAMPLES.glob("*.csv"))


def table_of(command):
    return re.search(r"runs=examples/(\S+)", command).group(1)


@pytest.mark.parametrize("command", COMMANDS, ids=table_of)
def test_every_row_is_fitted_or_named_as_left_out(command, tmp_path, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    assert main([*shlex.split(command), f"output_root={tmp_path}"]) == 0
    with (EXAMPLES / table_of(command)).open(encoding="utf-8", newline="") as file:
        num_rows = len(list(csv.DictReader(file)))
    law = json.loads((tmp_path / Path(table_of(command)).stem / "latest/law.json").read_text())
    assert len(law["rows_used"]) + len(law["rows_dropped"]) == num_rows
    assert 0.4 < law[law["answer"]]["a"] < 0.6


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_told_of(name):
    assert re.search(rf"^## .*\b{re.escape(name)}", README, flags=re.MULTILINE)


def test_every_table_to_fit_has_its_command():
    assert sorted(set(map(table_of, COMMANDS))) == [
        t for t in TABLES if not t.endswith("_test.csv")
    ]
