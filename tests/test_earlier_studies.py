"""Studies trained by an earlier version, which called a finished run `done`, go on as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flops_fit.cli import main
from flops_fit.plan.run import Status
from flops_fit.store.folder import StudyFolder
from flops_fit.tables import read_table

STUDIES = Path(__file__).parent / "assets" / "studies"
TRAINED = ("command", "python", "toy", "trunks")

SWEEP = ["budgets=[1e7,3e7,1e8]", "batch_size=64", "draws=60", "workers=1"]
WORDS = {
    "toy": [
        "num_sizes=4", "span=4", "center=100", "min_steps=10", "learning_rate_rule=power",
        "learning_rate_rule.coefficient=1", "learning_rate_rule.num_params_exponent=-0.6",
        "clip_grad_norm=0.5",
        "+metrics.mae={_target_: torch.nn.functional.l1_loss, _partial_: true}",
    ],
    "trunks": [
        "num_sizes=3", "span=4", "center=100", "min_steps=10", "schedule=wsd", "share_trunks=true"
    ],
    "command": [
        "trainer=command", "trainer.command=python3 trainer.py {size} {num_tokens} {run_dir}",
        "trainer.sizes=[{size: 8, num_params: 64}, {size: 16, num_params: 256}, "
        "{size: 32, num_params: 1024}]",
        "sizes=[8,16,32]", "min_steps=1",
    ],
}  # fmt: skip
"""What each was trained with, beside `SWEEP`."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory of a user with these studies."""
    shutil.copytree(STUDIES, tmp_path / "outputs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(study: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in study.glob("runs/*/result.json")}


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_done_is_read_as_completed_and_nothing_is_missing(name):
    study = StudyFolder(STUDIES / name)
    plan = study.read_plan()
    runs, problems = study.runs_of(plan)
    assert not problems
    assert [run.id for run in runs] == [e.id for e in plan.experiments]
    files = results(study.path)
    for run in runs:
        done = json.loads(files[run.id])["status"] == "done"
        assert run.status is (Status.COMPLETED if done else Status.DIVERGED)
        assert run.is_completed == done
    assert study.missing(plan) == []


@pytest.mark.parametrize("name", TRAINED)
def test_status_counts_them_as_completed(name, folder, capsys):
    assert main(["status", f"study={name}", "json=true"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["completed"] + status["diverged"] == status["planned"]
    assert status["diverged"] == (1 if name == "toy" else 0)
    assert (status["missing"], status["failed"]) == (0, 0)


@pytest.mark.parametrize("name", WORDS)
def test_the_same_command_trains_nothing_again(name, folder, capsys):
    before = results(folder / "outputs" / name)
    assert main(["train", f"study={name}", *SWEEP, *WORDS[name]]) == 0
    said = capsys.readouterr().err
    planned = len(StudyFolder(folder / "outputs" / name).read_plan())
    assert f"+0 new, {planned} completed already" in said
    assert results(folder / "outputs" / name) == before


@pytest.mark.parametrize("name", ["command", "table", "toy", "trunks"])
def test_done_rows_of_its_table_are_completed_runs(name):
    (path,) = STUDIES.glob(f"{name}/plans/*/runs.csv")
    runs = read_table(path).runs
    assert sum(run.status == "completed" for run in runs) == path.read_text().count(",done,") > 0
    assert {run.status for run in runs} <= {"completed", "diverged"}
