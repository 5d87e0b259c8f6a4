"""The fitting half and the help work where neither torch nor hydra can be imported."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flops_fit.cli import main

CORE = [
    "laws.prediction",
    "laws.published",
    "learning.schedules",
    "plan.sweep",
    "plan.run",
    "store.folder",
    "store.protocols",
    "tables",
    "fitting",
    "fitting.simulation",
    "answers.crossing",
    "answers.comparison",
    "answers.optima",
    "command",
]

FIT = ["fit", "runs=table.csv", "columns.loss=nats", "columns.num_params=params"]
FIT += ["columns.num_tokens=tokens"]

WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError(f"{{name}} must not be needed here", name=name)

sys.meta_path.insert(0, Refuse())
"""


def python(code: str, forbidden: set[str], cwd: Path) -> str:
    """Output of a new interpreter in which the packages `forbidden` can't be imported."""
    script = WITHOUT.format(forbidden=forbidden) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", CORE)
def test_core_needs_neither_torch_nor_hydra(module, tmp_path):
    python(f"import flops_fit.{module}", {"torch", "hydra", "omegaconf", "matplotlib"}, tmp_path)


@pytest.fixture
def table_study(tmp_path):
    """A folder with a law fitted from a table."""
    rows = ["params,tokens,nats"]
    for budget in (1e18, 1e19, 1e20, 1e21):
        for ratio in (0.1, 0.3, 1, 3, 10):
            n = ratio * (budget / 120) ** 0.5
            d = budget / 6 / n
            rows.append(f"{n},{d},{1.7 + 400 / n**0.34 + 410 / d**0.28}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path


def test_a_table_is_fitted_where_torch_cannot_be_imported(table_study):
    code = """
        from flops_fit.cli import main
        assert main({words!r}) == 0
    """
    words = [*FIT, "draws=100", "json=true"]
    law = json.loads(python(code.format(words=words), {"torch"}, table_study))
    assert law["surface"]["alpha"] == pytest.approx(0.34, abs=1e-3)
    assert law["surface"]["beta"] == pytest.approx(0.28, abs=1e-3)
    assert (table_study / "outputs/table/latest/law.json").exists()


@pytest.mark.parametrize("verb", ["plan", "train", "verify"])
def test_what_needs_torch_says_so_in_a_sentence_where_it_is_missing(verb, tmp_path):
    code = f"""
        import contextlib, io, sys
        from flops_fit.cli import main
        with contextlib.redirect_stderr(io.StringIO()) as said:
            assert main([{verb!r}, "model=mlp", "dataset=toy", "budget=1e9"]) == 1
        print(said.getvalue(), end="")
    """
    said = python(code, {"torch"}, tmp_path)
    assert said.count("\n") == 1
    assert "which is not installed: pip install torch" in said


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_needs_neither_torch_nor_hydra(words, tmp_path):
    code = f"from flops_fit.cli import main\nassert main({words!r}) == 0"
    python(code, {"torch", "hydra", "numpy"}, tmp_path)


def test_help_and_config_of_a_verb_need_no_torch(tmp_path):
    code = """
        from flops_fit.cli import main
        assert main(["plan", "--cfg", "job"]) == 0
    """
    assert "budgets:" in python(code, {"torch", "numpy"}, tmp_path)


def test_prediction_for_a_size_and_what_another_would_cost(table_study, monkeypatch, capsys):
    monkeypatch.chdir(table_study)
    assert main([*FIT, "draws=100"]) == 0
    capsys.readouterr()
    assert main(["predict", "num_params=1e9", "instead=3e9", "json=true"]) == 0
    said = capsys.readouterr()
    (prediction,) = json.loads(said.out)["predictions"]
    assert prediction["num_params"] == pytest.approx(1e9)
    assert "lose less than 0.1%" in said.err
    assert "N = 3B" in said.err
    assert main(["predict", f"num_tokens={prediction['num_tokens']}", "json=true"]) == 0
    (again,) = json.loads(capsys.readouterr().out)["predictions"]
    assert again["budget"] == pytest.approx(prediction["budget"])


def test_a_table_has_no_plan_to_give_the_status_of(table_study, monkeypatch, capsys):
    monkeypatch.chdir(table_study)
    assert main([*FIT, "draws=0"]) == 0
    assert main(["status"]) == 1
    assert "it was fitted from a table of runs" in capsys.readouterr().err


def test_of_several_learning_rates_the_best_is_selected(table_study, monkeypatch, capsys):
    table = table_study / "table.csv"
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    worse = [f"{n},{d},{1.2 * float(loss)}" for n, d, loss in rows]
    table.write_text("\n".join([table.read_text(), *worse]))
    monkeypatch.chdir(table_study)
    assert main([*FIT, "draws=0"]) == 1
    assert "select=best_lr" in capsys.readouterr().err
    assert main([*FIT, "draws=0", "select=best_lr", "json=true"]) == 0
    law = json.loads(capsys.readouterr().out)
    assert len(law["rows_dropped"]) == len(worse)
    assert law["surface"]["alpha"] == pytest.approx(0.34, abs=1e-3)
