"""The examples in README run as they stand, each in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
STUDIES = Path(__file__).parent / "assets" / "studies"
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)

EXPECTED = [
    "Plan(14 experiments, 2 budgets",
    "Prediction(",
    "Study mlp-toy: 11 runs",
    "interrupted\n6 runs, 6 completed",
]


def test_every_example_is_run():
    assert len(PYTHON) == len(EXPECTED)


@pytest.mark.parametrize(("code", "expected"), list(zip(PYTHON, EXPECTED, strict=True)))
def test_python_example(code, expected, tmp_path):
    shutil.copytree(STUDIES / "toy", tmp_path / "outputs/mlp-toy", symlinks=True)
    (runs,) = STUDIES.glob("toy/plans/*/runs.csv")
    table = runs.read_text(encoding="utf-8").replace(",loss,", ",val_loss,", 1)
    (tmp_path / "runs.csv").write_text(table, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.slow
def test_a_script_of_ones_own(tmp_path):
    section = README.split("## Your own training script")[1]
    script, config, command = re.findall(r"```(?:py|yaml|bash)\n(.*?)```", section, re.DOTALL)[:3]
    (tmp_path / "conf" / "trainer").mkdir(parents=True)
    (tmp_path / "conf" / "trainer" / "mine.yaml").write_text(config)
    (tmp_path / "train.py").write_text(script)
    words = [sys.executable, "-m", "flops_fit", *command.split()[1:], "workers=2", "threads=1"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r" ok\s*$", done.stdout, re.MULTILINE)) >= 2
