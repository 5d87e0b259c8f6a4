"""A verification trains the study's own recipe, whatever part of it is given otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from flops_fit import Study, UserError
from flops_fit.cli import main
from flops_fit.settings import Kind, Setting, SweepSettings, declared, plain, stored
from flops_fit.settings.plain import alternatives, is_tuple
from flops_fit.study.agreement import differences

STUDIES = Path(__file__).parent / "assets" / "studies"

TRAINED = ["study=toy", "budgets=[1e7,3e7,1e8]", "num_sizes=4", "min_steps=10", "draws=60"]
RECIPE = {
    "learning_rate_rule": [
        "learning_rate_rule=power", "learning_rate_rule.coefficient=1",
        "learning_rate_rule.num_params_exponent=-0.6",
    ],
    "clip_grad_norm": ["clip_grad_norm=0.5"],
    "metrics": ["+metrics.mae={_target_: torch.nn.functional.l1_loss, _partial_: true}"],
}  # fmt: skip
"""What the stored study was trained with beside the defaults."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(STUDIES, tmp_path / "outputs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(*left_out: str) -> list[str]:
    return [*TRAINED, *(w for name, of in RECIPE.items() if name not in left_out for w in of)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (words("learning_rate_rule"), "learning_rate_rule._target_ is flops_fit."),
        (words("clip_grad_norm"), "clip_grad_norm is 0.5 there and null here"),
        (words("metrics"), "metrics.mae._target_ is torch.nn.functional.l1_loss there and null"),
        ([*words(), "batch_size=32"], "batch_size is 64 there and 32 here"),
        (
            [*words(), "batch_rule.coefficient=0.64"],
            "batch_rule.coefficient is null there and 0.64",
        ),
        ([*words(), "seed=1"], "seed is 0 there and 1 here"),
        ([*words(), "optimizer.lr=0.5"], "optimizer.lr is 0.01 there and 0.5 here"),
        ([*words(), "precision=bf16"], "precision is fp32 there and bf16 here"),
        ([*words(), "model.depth=2"], "model.depth is 3 there and 2 here"),
    ],
)
def test_another_recipe_is_refused_by_name(folder, capsys, given, says):
    assert main(["verify", *given, "budget=2e8"]) == 1
    said = capsys.readouterr().err
    assert "was trained with other settings" in said
    assert says in said


def test_the_same_recipe_is_trained_whatever_the_machine(folder, capsys):
    machine = ["workers=1", "checkpoint_seconds=9", "micro_batch_size=32", "num_sizes=3"]
    assert main(["verify", *words(), *machine, "budget=2e8", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    run = json.loads((folder / f"outputs/toy/runs/{found['run_id']}/result.json").read_text())
    assert run["loss"] == found["measured"]
    assert run["metrics"].keys() == {"mae"}
    # By its settings alone, which its plan has kept, it is the same run, and not trained again.
    assert Study.open("outputs/toy").verify(2e8).measured == found["measured"]


def test_a_batch_that_would_grow_with_the_run_is_said(folder, capsys):
    """The study's steps have 64 rows; by today's rule of this pair so have all up to a million."""
    assert main(["verify", *words(), "budget=1e12"]) == 1
    said = capsys.readouterr().err
    assert "batch_size is 64 there and null here" in said
    assert "batch_rule._target_ is null there" in said


def another(setting: Setting) -> Any:
    """A value of the setting's type that is not its default."""
    kinds = alternatives(setting.type)
    if is_tuple(setting.type):
        return [7.0]
    for kind, value in ((bool, True), (str, "other"), (int, 7), (float, 7.0)):
        if kind in kinds:
            return value
    words = [word for kind in kinds for word in get_args(kind) if get_origin(kind) is Literal]
    return words[-1] if words else {"_target_": "c.D"}


def test_every_deciding_setting_is_compared_and_no_other():
    base = stored(SweepSettings, {"budgets": [1e9], "model": {"_target_": "a.B"}})
    for setting in declared(SweepSettings):
        if setting.kind is Kind.PINNED:
            continue
        changed = stored(SweepSettings, {**plain(base), setting.name: another(setting)})
        differ = differences(changed, base, {})
        expected = [setting.name] if setting.kind is Kind.DECIDES else []
        found = [line.split(".")[0].split(" ")[0] for line in differ]
        assert list(dict.fromkeys(found)) == expected, setting.name


def test_a_study_of_a_table_has_nothing_to_train(folder):
    with pytest.raises(UserError, match="fitted from a table of runs: there is nothing to train"):
        Study.open("outputs/table").verify(1e19)


def test_an_answer_says_what_it_stands_on_and_that_an_earlier_one_is_not_the_latest(folder, capsys):
    table = STUDIES.parent / "table.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    (folder / "mine.csv").write_text(
        "\n".join(f"{row},{'kind' if i == 0 else 'ab'[i % 2]}" for i, row in enumerate(rows))
    )
    assert main(["fit", "runs=mine.csv", "draws=0"]) == 0
    said = capsys.readouterr().err
    assert f"law of {len(rows) - 1} runs of mine.csv" in said
    assert "no longer" not in said
    assert main(["fit", "runs=mine.csv", "where=N > 0 and kind = a", "draws=0"]) == 0
    said = capsys.readouterr().err
    assert "runs of mine.csv where N > 0 and kind = a" in said
    assert "this is now the latest answer of mine; the earlier one" in said
    assert main(["predict", "study=mine", "budget=1e18"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("study: outputs/mine, by its latest answer: a law of ")
    assert first.endswith("runs of mine.csv where N > 0 and kind = a")
    assert main(["predict", "budget=1e18"]) == 0
    assert capsys.readouterr().err.splitlines()[0] == first


def test_a_budget_asked_of_fit_is_answered_first(folder, capsys):
    assert main(["fit", f"runs={STUDIES.parent / 'table.csv'}", "draws=0", "budget=1e18"]) == 0
    assert capsys.readouterr().out.startswith("For 1e18 FLOPs (10x your largest budget): N = ")
