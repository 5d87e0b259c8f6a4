"""A study of somebody else's: its files are data, its names no paths, and nothing is left out
without a word."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flops_fit import Study
from flops_fit.cli import main
from flops_fit.errors import StudyError, StudyWarning
from flops_fit.store.folder import StudyFolder

STUDIES = Path(__file__).parent / "assets" / "studies"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a study of an earlier version, whose files have no checksums."""
    work = tmp_path / "work"
    shutil.copytree(STUDIES / "toy", work / "outputs/toy", symlinks=True)
    monkeypatch.chdir(work)
    return work


def changed(pattern: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """The first such file of the study, after a change."""
    path = min(Path("outputs/toy").glob(pattern))
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


OPEN = {"_target_": "builtins.open", "file": "precious", "mode": "w"}


@pytest.mark.parametrize("name", ["batch_rule", "learning_rate_rule"])
def test_a_rule_of_a_plan_runs_no_code(folder, capsys, name):
    Path("precious").write_text("precious")
    changed("plans/*/plan.json", lambda plan: plan["settings"].update({name: OPEN}))
    assert main(["predict", "study=toy", "budget=1e9"]) == 0
    assert "'builtins.open', code that is not run from a file" in capsys.readouterr().err
    assert Path("precious").read_text() == "precious"


def test_a_config_that_names_code_of_others_says_so(folder, capsys):
    changed("plans/*/plan.json", lambda plan: plan["settings"].update(dataset=OPEN))
    assert main(["predict", "study=toy", "budget=1e9"]) == 0
    assert "training it runs builtins.open, " in capsys.readouterr().err
    with pytest.raises(StudyError, match=r"trained with builtins\.open.*plan\.json runs no code"):
        Study.open("outputs/toy").verify(1e9)


@pytest.mark.parametrize("name", ["/tmp/escaped", "../escaped", "a\n_target_: os.system"])
def test_the_name_of_a_study_is_no_path(folder, capsys, name):
    changed("plans/*/plan.json", lambda plan: plan.update(study=name))
    assert main(["predict", "study=toy", "budget=1e9"]) == 1
    said = capsys.readouterr().err
    assert "no study has such a name" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("run_id", ["../../../other", "/etc", "*", ""])
def test_an_id_is_no_path(folder, capsys, run_id):
    changed("plans/*/plan.json", lambda plan: plan["experiments"][0].update(id=run_id))
    assert main(["status", "study=toy"]) == 1
    assert f"{run_id!r} is no id of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "C1-N1-0"}, "id is 'C1-N1-0', planned is"),
        ({"num_params": 7}, "num_params is 7, planned is"),
        ({"num_tokens": 64}, "flops is"),
        ({"budget": 3e7}, "budget is 30000000.0, planned is"),
        ({"flops": 1e3}, "flops is 1000, which"),
        ({"loss": -0.0}, "loss is -0.0"),
        ({"metrics": {"mae": []}}, r"metrics.mae is []: expected a number"),
        ({"wall_time_seconds": -1}, "wall_time_seconds is -1"),
        ({"status": "best"}, "status is 'best': expected completed or failed or diverged"),
    ],
)
def test_a_result_that_is_not_the_planned_one_is_named_and_left_out(folder, capsys, changes, said):
    path = changed("runs/C1e07*/result.json", lambda result: result.update(changes))
    assert main(["status", "study=toy", "json=true"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["missing"] == 1
    assert f"warning: {path}" in err
    assert said in err


def test_a_report_names_what_it_leaves_out(folder, capsys):
    path = min(Path("outputs/toy").glob("runs/*/result.json"))
    path.write_text("garbage")
    assert main(["report", "study=toy", "json=true"]) == 0
    assert capsys.readouterr().err.count(f"warning: left out: {path}") == 1


def test_draws_that_are_not_those_of_the_law_are_said_and_not_used(folder, capsys):
    assert main(["fit", "study=toy", "draws=60"]) == 0
    path = next(Path("outputs/toy").glob("plans/*/draws.npz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert main(["predict", "study=toy", "budget=1e9", "json=true"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["predictions"][0]["intervals"] == {}
    assert f"warning: {path.resolve()} is no file of draws: it is not the one that law" in err
    assert main(["fit", "study=toy", "draws=60"]) == 0
    capsys.readouterr()
    assert main(["predict", "study=toy", "budget=1e9", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["intervals"]["loss"]


def test_latest_leads_nowhere_else(folder, capsys):
    outside = folder.parent / "outside"
    shutil.copytree(next(Path("outputs/toy/plans").iterdir()), outside)
    latest = Path("outputs/toy/latest")
    latest.unlink()
    latest.symlink_to(outside)
    assert main(["status", "study=toy"]) == 1
    assert "points to no plan of this study" in capsys.readouterr().err
    latest.unlink()
    latest.write_text("../../../outside")
    assert main(["predict", "study=toy", "budget=1e9"]) == 1
    assert "points to no plan of this study" in capsys.readouterr().err


SWEEP = ("model=mlp", "dataset=toy", "budgets=[2e6]", "sizes=[4]", "min_steps=5", "draws=0")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Of all that lies in it, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
            for p in sorted(folder.rglob("*"))}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["runs", "plans", "trunks", "jobs", ".processes", ".hydra", "tensorboard"]
)
def test_a_folder_that_is_a_link_leads_nothing_out(folder, name):
    """Somebody's files of just such names are read by no command, and stay as they are."""
    study, outside = Path("outputs/toy").absolute(), folder.parent / "outside"
    if (study / name).exists():
        shutil.copytree(study / name, outside)
        shutil.rmtree(study / name) if not (study / name).is_symlink() else (study / name).unlink()
    else:
        outside.mkdir()
    long_ago = (1.0, 1.0)
    for text in ("a-1.json", "a-1.lock", ".x.4711.tmp", "now/array-1.json"):
        (outside / text).parent.mkdir(exist_ok=True)
        (outside / text).write_text('{"beat": 1}')
        os.utime(outside / text, long_ago)
    (study / name).symlink_to(outside)
    before = contents(outside)
    answers = (["predict", "budget=1e9"], ["fit", "draws=0"], ["report"])
    for words in (*(answers if name == "plans" else ()), ["status"], ["cancel"],
                  ["train", *SWEEP, "rank=1", "of=2", "logger=tensorboard"]):  # fmt: skip
        main([*words, "study=toy"])
        assert contents(outside) == before, words


def test_a_result_that_is_a_link_to_itself_is_set_aside(folder):
    study = StudyFolder(Path("outputs/toy"))
    result = min(study.path.glob("runs/*/result.json"))
    result.unlink()
    result.symlink_to(result.name)
    with pytest.warns(StudyWarning, match="set aside as result.json.unusable-1"):
        study.room_for(result.parent.name)
    assert not os.path.lexists(result)


@pytest.mark.parametrize("name", [".deciding.lock", "runs/{}/.lock"])
def test_a_lock_that_is_a_link_opens_nothing(folder, name):
    precious = folder / "precious"
    precious.write_text("precious")
    study = StudyFolder(Path("outputs/toy"))
    run_id = min((study.path / "runs").iterdir()).name
    for target in (precious, study.path / "pinned.json"):
        link = study.path / name.format(run_id)
        link.unlink(missing_ok=True)
        link.symlink_to(target.absolute())
        kept = target.read_bytes()
        assert not study.seems_locked(run_id)
        with pytest.warns(StudyWarning, match="set aside"), study.deciding(), study.lock(run_id):
            assert target.read_bytes() == kept
        assert not link.is_symlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda law: law["surface"].update(E="0.5"),
        lambda law: law["surface"].update(alpha=0.9),
        lambda law: law["flop_rule"]["num_params"].pop(),
        lambda law: law["predictions"][0].update(loss=None),
        lambda law: law["diagnostics"].update(findings=[[]]),
        lambda law: law.update(answer=[]),
    ],
)
def test_a_law_that_does_not_say_what_it_says_is_asked_for_anew(folder, capsys, change):
    changed("plans/*/law.json", change)
    assert main(["predict", "study=toy", "budget=1e9"]) == 1
    said = capsys.readouterr().err
    assert "run `flops-fit fit study=toy`, which fits it again" in said
    assert "Traceback" not in said
