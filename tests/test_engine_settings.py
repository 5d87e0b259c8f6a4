"""The engine's settings through the command line, from YAML to result.json."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from flops_fit.cli import main
from flops_fit.cli.exit_codes import NO_LAW, OK
from flops_fit.store.folder import StudyFolder
from flops_fit.training.kernels import KernelPlan

TINY = ["budgets=[1e7,2e7,4e7]", "batch_size=32", "min_steps=5", "num_sizes=3", "span=2"]
TINY += ["center=10", "workers=1", "draws=0"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(folder: Path, *words: str, code: int | None = None) -> list[dict]:
    """The results of a tiny sweep with these settings, all completed unless a code is expected."""
    ended = main(["train", *TINY, f"study={folder.name}", *words])
    paths = sorted(folder.glob("outputs/*/runs/*/result.json"))
    runs = [json.loads(path.read_text()) for path in paths]
    if code is None:
        assert ended in (OK, NO_LAW)
        assert {run["status"] for run in runs} == {"completed"}
    else:
        assert ended == code
    return runs


def test_shared_trunks_save_compute_in_workers_too(folder, capsys):
    words = ["schedule=wsd", "share_trunks=true"]
    runs = trained(folder, *words, "workers=2")
    said = capsys.readouterr().err
    spent, stands_for = (sum(run[key] for run in runs) for key in ("flops_spent", "flops"))
    assert f"({spent / stands_for:.2f} of them)" in said
    assert spent < 0.85 * stands_for
    assert all(run["trunk"] for run in runs)
    assert trained(folder, *words) == runs


def test_shared_trunks_need_a_schedule_with_a_stable_phase(folder, capsys):
    trained(folder, "share_trunks=true", code=1)
    assert "share_trunks=true needs runs that differ only in their end" in capsys.readouterr().err


def test_every_experiment_runs_once_for_each_seed(folder):
    runs = trained(folder, "seeds=2", "budgets=[1e7]")
    assert sorted(run["seed"] for run in runs) == [0, 0, 0, 1, 1, 1]
    assert len({run["loss"] for run in runs}) == 6


def test_metrics_stand_in_the_results(folder):
    runs = trained(
        folder,
        "budgets=[1e7]",
        "+metrics.mae={_target_: torch.nn.functional.l1_loss, _partial_: true}",
    )
    assert all(0 < run["metrics"]["mae"] < run["loss"] ** 0.5 for run in runs)


def test_rules_set_rate_and_batch_of_each_run(folder):
    words = ["learning_rate_rule=power", "learning_rate_rule.num_params_exponent=-0.1"]
    words += ["batch_rule=power", "batch_rule.coefficient=2", "batch_rule.num_tokens_exponent=0.3"]
    runs = trained(folder, *words)
    for run in runs:
        assert run["learning_rate"] == pytest.approx(0.01 * run["num_params"] ** -0.1)
    assert len({run["batch_size"] for run in runs}) > 1


def batch_sizes(capsys, *words: str) -> dict[float, int]:
    """D of each run that `plan` makes of these words -> samples in its batch."""
    sweep = ["budgets=[1e8,1e12]", "num_sizes=3", "min_steps=1"]
    assert main(["plan", *sweep, *words, "json=true"]) == OK
    experiments = json.loads(capsys.readouterr().out)["experiments"]
    return {e["num_steps"] * e["batch_size"]: e["batch_size"] for e in experiments}


def test_the_recipe_s_batch_grows_with_the_tokens(capsys):
    batches = batch_sizes(capsys)
    assert batches == {d: max(64, round(0.064 * d**0.5)) for d in batches}
    assert len(set(batches.values())) > 2


@pytest.mark.parametrize(
    ("words", "batch"),
    [
        (["batch_size=16"], 16),
        (["experiment=mine"], 16),
        (["batch_size=16", "batch_rule=power", "batch_rule.coefficient=32"], 32),
        (["experiment=inline"], 8),
    ],
)
def test_a_batch_that_is_asked_for_goes_before_the_recipe_s_rule(folder, capsys, words, batch):
    experiments = folder / "conf" / "experiment"
    experiments.mkdir(parents=True)
    (experiments / "mine.yaml").write_text("# @package _global_\nbatch_size: 16\n")
    rule = "{coefficient: 8, num_tokens_exponent: 0, lowest: 1}"
    inline = f"# @package _global_\nbatch_size: 16\nbatch_rule: {rule}\n"
    (experiments / "inline.yaml").write_text(inline)
    assert set(batch_sizes(capsys, *words).values()) == {batch}


def test_the_micro_batch_changes_no_id(folder):
    words = ["budgets=[1e7]", "clip_grad_norm=1"]
    runs = trained(folder, *words, "micro_batch_size=8")
    assert {run["micro_batch_size"] for run in runs} == {8}
    assert trained(folder, *words) == runs
    assert len(trained(folder, "budgets=[1e7]")) == 2 * len(runs)


def test_the_threads_of_a_study_s_first_training_are_kept_and_the_caller_s_given_back(
    folder, monkeypatch
):
    (folder / "counted_threads.py").write_text(
        "from collections import Counter\n"
        "import torch\n"
        "STEPS = Counter()\n"
        "def loss(prediction, target):\n"
        "    STEPS[torch.get_num_threads()] += torch.is_grad_enabled()\n"
        "    return torch.nn.functional.mse_loss(prediction, target)\n"
    )
    before = torch.get_num_threads()
    study = StudyFolder(folder / "outputs" / folder.name)
    study.pin({"threads": before + 1, "kernels": KernelPlan().to_json()})
    runs = trained(folder, "loss._target_=counted_threads.loss", "budgets=[1e7]")
    steps = importlib.import_module("counted_threads").STEPS
    assert steps[before + 1] == sum(run["num_steps"] for run in runs) > 0
    assert torch.get_num_threads() == before
    assert study.pinned()["threads"] == before + 1


def test_fail_fast_ends_with_the_first_failure(folder, capsys):
    (folder / "broken.py").write_text(
        "import torch\n"
        "def loss(prediction, target):\n"
        "    if not torch.is_grad_enabled():\n"
        "        raise LookupError('no such class')\n"
        "    return torch.nn.functional.mse_loss(prediction, target)\n"
    )
    words = ["loss._target_=broken.loss", "fail_fast=true"]
    runs = trained(folder, *words, code=3)
    assert [run["status"] for run in runs] == ["failed"]
    assert "no such class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["learning_rate_rule=power", "learning_rate_rule.coefficient=0"], "a rule of 0 x N"),
        (["seeds=0"], "seeds is 0: it must be at least 1"),
        (["batch_rule=power", "batch_rule.coeficient=1"], "coeficient"),
        (["+metrics.bad={_target_: nowhere.metric}"], "can't import metrics.bad"),
        (["precision=fp16", "device=cpu"], "precision fp16 is for CUDA"),
    ],
)
def test_what_makes_no_sense_is_named(folder, capsys, words, says):
    trained(folder, *words, code=1)
    assert says in capsys.readouterr().err


def test_whole_shapes_may_set_what_the_model_s_config_sets(folder):
    shapes = "{width: 8, depth: 1}, {width: 12, depth: 2}, {width: 16, depth: 3}"
    runs = trained(folder, f"+model.size.values=[{shapes}]", "budgets=[1e7]", "span=4")
    values = [run["size"]["value"] for run in runs]
    assert {(value["width"], value["depth"]) for value in values} == {(8, 1), (12, 2), (16, 3)}
    assert len({run["num_params"] for run in runs}) == 3
