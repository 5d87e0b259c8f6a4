"""The command line: words in, files, tables and exit codes out, through the shipped configs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flops_fit.cli import main
from flops_fit.cli.verbs import VERBS
from flops_fit.cli.words import for_hydra
from flops_fit.plan.run import Status, ended_run
from flops_fit.store.folder import StudyFolder

TINY = ["budgets=[1e7,3e7]", "batch_size=32", "min_steps=5", "num_sizes=3", "span=2", "workers=1"]
TINY += ["center=10"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(folder: Path) -> dict[str, dict]:
    """Id -> record of every run on disk."""
    paths = folder.glob("outputs/*/runs/*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def test_help_names_every_verb_and_exits_0(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)


def test_no_verb_is_a_usage_error(capsys):
    assert main([]) == 2


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flops-fit 0.")


def test_unknown_verb_is_guessed(capsys):
    assert main(["trian", "model=mlp"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_examples(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.count(f"flops-fit {verb}") >= 3


def test_help_lists_options_shipped_and_the_users_own(folder, capsys):
    (folder / "conf/model").mkdir(parents=True)
    (folder / "conf/model/net.yaml").write_text("_target_: my_pkg.Net\n")
    assert main(["train", "model=net", "--help"]) == 0
    assert "  model: gpt, mlp, net, transformer, vit\n" in capsys.readouterr().out


def test_flags_may_stand_anywhere():
    words = ["model=mlp", "-m", "seed=1,2", "--config-dir", "elsewhere", "budget=smoke"]
    assert for_hydra(VERBS["train"], words) == [
        "-m", "--config-dir", "elsewhere", "model=mlp", "seed=1,2", "budget=smoke",
    ]  # fmt: skip


def test_a_budget_to_predict_or_verify_is_no_group_of_configs():
    assert for_hydra(VERBS["predict"], ["budget=1e15,1e16"]) == ["budgets=[1e15,1e16]"]
    assert for_hydra(VERBS["verify"], ["budget=1e15"]) == ["target=1e15"]
    assert for_hydra(VERBS["train"], ["budget=smoke"]) == ["budget=smoke"]


def test_lists_may_go_without_brackets_and_in_a_multirun_each_is_a_list():
    assert for_hydra(VERBS["plan"], ["budgets=1e15,1e16"]) == ["budgets=[1e15,1e16]"]
    assert for_hydra(VERBS["plan"], ["budgets=1e15"]) == ["budgets=[1e15]"]
    assert for_hydra(VERBS["plan"], ["-m", "budgets=1e15,1e16"])[-1] == "budgets=[1e15],[1e16]"
    assert for_hydra(VERBS["plan"], ["-m", "budgets=[1,2],3"])[-1] == "budgets=[1,2],[3]"


def test_users_own_conf_folder_is_found(folder):
    (folder / "conf").mkdir()
    assert for_hydra(VERBS["plan"], ["model=net"]) == ["--config-dir", "conf", "model=net"]


def test_completion_offers_verbs_then_options(capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "flops-fit tr")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["train"]
    monkeypatch.setenv("COMP_LINE", "flops-fit train model=")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == [
        "model=gpt", "model=mlp", "model=transformer", "model=vit",
    ]  # fmt: skip


@pytest.mark.parametrize("budgets", ["budgets=[1e15,1e16]", "budgets=1e15,1e16"])
def test_the_plan_of_the_card(folder, capsys, budgets):
    assert main(["plan", budgets]) == 0
    said = capsys.readouterr()
    assert "14 runs at 2 budgets, 7.7e16 FLOPs" in said.out
    assert "days" in said.err
    plan = json.loads((folder / "outputs/mlp-toy/latest/plan.json").read_text())
    assert len(plan["experiments"]) == 14
    assert {e["budget"] for e in plan["experiments"]} == {1e15, 1e16}


def test_plan_as_json_is_all_there_is_on_stdout(capsys):
    assert main(["plan", *TINY, "json=true"]) == 0
    assert len(json.loads(capsys.readouterr().out)["experiments"]) == 6


def test_training_as_json_says_so_where_there_is_no_law(capsys):
    assert main(["train", *TINY, "budgets=[1e7]", "json=true"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert answer["answer"] is None
    assert "train another" in answer["refusal"]


@pytest.mark.slow
def test_the_whole_chain(folder, capsys):
    """Plan, train, fit, predict, report and status, each on what the one before left."""
    words = ["budgets=[3e7,1e8,3e8]", "batch_size=32", "num_sizes=5", "min_steps=20", "workers=2"]
    words += ["center=30", "span=4", "model.size.multiple_of=1"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr()
    assert "x largest" in said.out
    assert "+15 new, 0 completed already" in said.err
    for run in results(folder).values():
        assert run["status"] == "completed"
        assert run["num_tokens"] == run["planned_tokens"] == run["num_steps"] * run["batch_tokens"]
        half_a_step = 0.5 * run["flops"] / run["num_steps"]
        assert abs(run["flops"] - run["budget"]) <= half_a_step * (1 + 1e-9)
        assert run["loss"] > 0.1**2  # the label noise
        assert run["tokens_per_second"] > 0
        assert run["peak_memory_bytes"] > 0
        assert run["versions"].keys() == {"flops_fit", "torch", "python"}
    answer = folder / "outputs/mlp-toy/latest"
    names = ["plan.json", "law.json", "runs.csv", "figures/isoflop.png", "figures/optima.png"]
    assert all((answer / name).stat().st_size > 0 for name in names)

    before = {path: path.stat().st_mtime_ns for path in folder.glob("outputs/*/runs/*/*.json")}
    assert main(["train", *words]) == 0
    assert "+0 new, 15 completed already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in before}

    gone = next(iter(before))
    loss = json.loads(gone.read_text())["loss"]
    gone.unlink()
    assert main(["train", *words]) == 0
    assert "+1 new, 14 completed already" in capsys.readouterr().err
    assert json.loads(gone.read_text())["loss"] == loss

    assert main(["predict", "budget=3e9", "json=true"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["extrapolation"] == pytest.approx(10)
    used = 6 * prediction["num_params"] * prediction["num_tokens"]
    assert used == pytest.approx(3e9)
    assert main(["verify", *words, "budget=6e8", "json=true"]) == 0
    verification = json.loads(capsys.readouterr().out)
    assert verification["measured"] == results(folder)[verification["run_id"]]["loss"]
    predicted = verification["prediction"]
    assert verification["error"] == predicted["loss"] / verification["measured"] - 1
    assert verification["num_params"] == pytest.approx(predicted["num_params"], rel=0.1)
    assert main(["verify", *words, "budget=6e8", "optimizer.lr=0.5"]) == 1
    assert (
        "was trained with other settings: optimizer.lr is 0.01 there and 0.5 here"
        in capsys.readouterr().err
    )
    assert main(["verify", *words]) == 1
    assert "verify needs a budget" in capsys.readouterr().err

    assert main(["fit", "fit=isoflop", "draws=200", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "isoflop"
    assert main(["report"]) == 0
    capsys.readouterr()
    assert main(["status", "json=true"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["completed"] == status["planned"] == 15


def test_the_status_of_many_runs_is_a_row_per_budget(folder, capsys):
    assert main(["plan", *TINY, "seeds=40"]) == 0
    study = StudyFolder(folder / "outputs/mlp-toy")
    plan = study.read_plan()
    first, second, *_ = plan.experiments
    study.write_run(ended_run(first, Status.FAILED, "no room"))
    study.write_run(replace(ended_run(second, Status.COMPLETED, None), loss=0.25))
    capsys.readouterr()
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    head, _, *budgets = [line.split() for line in said.splitlines()[1:5]]
    assert head == ["budget", "runs", "completed", "failed", "missing", "least", "loss"]
    assert budgets == [["1e7", "120", "1", "1", "118", "0.2500"], ["3e7", "120", "120"]]
    assert [e.id in said for e in plan.experiments[:3]] == [True, False, False]
    assert "1 completed, 1 failed, 238 missing" in said


def test_added_budget_trains_only_its_own_runs(folder, capsys):
    assert main(["train", *TINY]) == 0
    first = results(folder).keys()
    assert main(["train", *TINY, "budgets=[1e7,3e7,6e7]"]) == 0
    assert "+3 new, 6 completed already" in capsys.readouterr().err
    assert first < results(folder).keys()


def test_multirun_compares_its_variants_and_trains_them_once(folder, capsys):
    words = ["train", "-m", *TINY, "optimizer.lr=3e-3,1e-2"]
    assert main(words) == 3  # one of them gives no law
    said = capsys.readouterr()
    rows = [line for line in said.out.splitlines() if line.strip().startswith("optimizer.lr=")]
    assert [row.split()[1:3] for row in rows] == [["6", "6"], ["6", "6"]]
    assert len(results(folder)) == 12
    assert main(words) == 3  # one of them gives no law
    said = capsys.readouterr()
    rows = [line for line in said.out.splitlines() if line.strip().startswith("optimizer.lr=")]
    assert [row.split()[1:3] for row in rows] == [["6", "0"], ["6", "0"]]


def test_plan_does_not_touch_the_plan_in_force_of_a_trained_study(folder):
    assert main(["train", *TINY]) == 0
    in_force = (folder / "outputs/mlp-toy/latest").resolve()
    assert main(["plan", *TINY, "budgets=[2e7]"]) == 0
    assert (folder / "outputs/mlp-toy/latest").resolve() == in_force


def test_failing_experiments_give_exit_code_3(folder, capsys):
    (folder / "breaks.py").write_text(
        "from flops_fit.learning.losses import mse\n"
        "calls = 0\n"
        "def loss(output, target):\n"
        "    global calls\n"
        "    calls += not output.is_meta\n"
        "    if calls == 100:\n"
        "        raise RuntimeError('out of luck')\n"
        "    return mse(output, target)\n"
    )
    (folder / "conf/loss").mkdir(parents=True)
    (folder / "conf/loss/breaks.yaml").write_text("_target_: breaks.loss\n_partial_: true\n")
    (folder / "conf/dataset").mkdir()
    (folder / "conf/dataset/waves.yaml").write_text("_target_: flops_fit.datasets.Toy\ndim: 8\n")
    assert main(["train", *TINY, "dataset=waves", "loss=breaks"]) == 3
    assert "RuntimeError: out of luck" in capsys.readouterr().err
    (failed,) = (run for run in results(folder).values() if run["status"] == "failed")
    traceback = folder / f"outputs/mlp-waves/runs/{failed['id']}/error.txt"
    assert "RuntimeError: out of luck" in traceback.read_text()
    assert main(["train", *TINY, "dataset=waves", "loss=breaks"]) == 0
    assert not traceback.exists()


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    """A sweep of some seconds in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "flops_fit", *words],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_a_result(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not results(folder) and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "stop"), [(1, signal.SIGINT), (2, signal.SIGINT), (1, signal.SIGTERM)]
)
def test_ctrl_c_or_a_polite_kill_and_then_the_same_command(folder, capsys, workers, stop):
    words = ["train", *TINY[1:5], "budgets=[1e8,2e8]", f"workers={workers}"]
    process = start(folder, words)
    wait_for_a_result(folder)
    os.killpg(process.pid, stop)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert list(folder.glob("outputs/*/runs/*/checkpoint.pt"))
    assert "interrupted; run the same command to continue" in said
    assert "Traceback" not in said
    done = len(results(folder))
    assert 0 < done < 6
    assert main(words) == 0
    assert f"+{6 - done} new, {done} completed already" in capsys.readouterr().err
    assert len(results(folder)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_loses_at_most_the_runs_in_flight(folder, capsys, workers):
    words = ["train", *TINY[1:5], "budgets=[1e8,2e8]", f"workers={workers}"]
    process = start(folder, words)
    wait_for_a_result(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    done = results(folder)
    assert 0 < len(done) < 6
    assert main(words) == 0
    assert f"+{6 - len(done)} new, {len(done)} completed already" in capsys.readouterr().err
    assert done.items() <= results(folder).items()


@pytest.mark.slow
def test_two_processes_on_one_study_share_its_runs(folder):
    words = ["train", *TINY, "budgets=[3e7,6e7]"]
    both = [start(folder, words) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [run["status"] for run in results(folder).values()] == ["completed"] * 6
