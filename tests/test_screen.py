"""What is seen while runs train and after: within the screen, and true."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_study import WatchedLoss, planned

from flops_fit.plan.run import ended_run
from flops_fit.report.screen import SweepProgress
from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.study.status import study_status
from flops_fit.training.spec import torch_trainer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
STUDY = Path(__file__).parent / "assets/studies/toy"


def on_screen(folder: Path, columns: int, *words: str) -> list[str]:
    """The lines on stdout of a command where the screen has so many columns."""
    environment = {**os.environ, "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "flops_fit", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_law_stands_within_the_screen_and_answers_first(tmp_path, columns):
    runs = f"runs={EXAMPLES / 'porian_isoflop_points.csv'}"
    where = "where=config = rw/tuned/short/const/standard/val"
    lines = on_screen(tmp_path, columns, "fit", runs, where, "draws=100", "budget=1e20")
    assert lines[0].startswith("For 1e20 FLOPs (")
    assert max(map(len, lines)) <= columns
    assert not any("…" in line for line in lines)


class TestProgress:
    def test_counts_flops_and_names_what_is_under_way(self, tmp_path):
        plan, _ = planned(tmp_path)
        first, second, *others = plan.experiments
        progress = SweepProgress(plan.total_flops, len(plan))
        assert str(progress).startswith("0/6 runs, 0% of ")
        progress.progress(first, first.flops / 2)
        done = ended_run(second, "completed", None)
        progress.finished(replace(done, loss=1.0, flops=second.flops))
        progress.progress(others[0], 0.0)
        share = (first.flops / 2 + second.flops) / plan.total_flops
        assert str(progress).startswith(f"1/6 runs, {share:.0%} of ")
        assert progress.line(80) == f"{progress}; at width 4 50%, width 16 0%"
        for experiment in others:
            progress.progress(experiment, experiment.flops)
        assert progress.line(80) == f"{progress}; at width 4 50%, 4 more"
        assert len(progress.line(120)) <= 120
        assert progress.line(30) == str(progress)

    def test_without_a_terminal_each_run_is_a_line(self, tmp_path, capsys):
        plan, _ = planned(tmp_path)
        with SweepProgress(plan.total_flops, len(plan)) as progress:
            for experiment in plan.experiments[:2]:
                progress.progress(experiment, 1.0)
                progress.finished(replace(ended_run(experiment, "completed", None), loss=0.25))
        lines = capsys.readouterr().err.splitlines()
        assert [line.split()[0] for line in lines[:-1]] == ["[1/6]", "[2/6]"]
        assert all("loss 0.2500" in line for line in lines[:-1])
        assert lines[-1] == "trained 2 runs in 1 second"


def test_status_tells_running_paused_and_missing_apart(tmp_path):
    plan, recipe = planned(tmp_path)
    folder = StudyFolder(tmp_path)
    watcher = Unwatched()
    stopped = plan.experiments[1]

    def stop(loss):
        watcher.stop_requested = True
        return loss

    at = plan.experiments[0].num_steps + stopped.num_steps // 2
    broken = replace(recipe, loss=WatchedLoss(at, stop))
    with pytest.raises(KeyboardInterrupt):
        train_plan(plan, folder, Inline(torch_trainer(broken, folder), folder), watcher)
    before = sorted(tmp_path.rglob("*"))
    found = study_status(folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.counts == {
        "completed": 1, "failed": 0, "diverged": 0, "running": 0, "queued": 0, "paused": 1,
        "missing": 4,
    }  # fmt: skip
    kept = folder.steps_kept(stopped.id)
    assert 0 < kept <= stopped.num_steps // 2 + 1
    assert found.word(stopped) == f"paused, {kept / stopped.num_steps:.0%}"
    with folder.lock(stopped.id):
        running = study_status(folder)
        assert running.word(stopped) == f"running, {kept / stopped.num_steps:.0%}"
        assert running.counts["running"] == 1
    last = plan.experiments[-1]
    folder.write_run(ended_run(last, "failed", f"{last.id} fell over\nat line 3"))
    assert study_status(folder).failures == {".. fell over": 1}


NOISY = """
import json
import os
from torch import nn

print("imported")


class Net(nn.Module):
    def __init__(self, width, in_features):
        super().__init__()
        print("built")
        self.layers = nn.Sequential(nn.Linear(in_features, width), nn.Linear(width, 1))

    def forward(self, x):
        os.write(1, b"past Python\\n")
        return self.layers(x)
"""


@pytest.mark.slow
def test_stdout_holds_one_document_whatever_a_users_model_prints(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/noisy.yaml").write_text(
        "_target_: noisy.Net\nsize: {name: width, min: 2, max: 64}\nin_features: ${dataset.dim}\n"
    )
    words = ["train", "model=noisy", "dataset=toy", "budgets=[1e6,3e6]", "num_sizes=2"]
    words += ["min_steps=5", "batch_size=32", "draws=0", "json=true", "workers=2"]
    command = [sys.executable, "-m", "flops_fit", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "refusal" in json.loads(done.stdout)
    assert {"imported", "built", "past Python"} <= set(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("to", "code", "said"),
    [
        ("| head -1", 0, ""),
        ("| true", 0, ""),
        ("> /dev/full", 1, "error: the output can't be written: No space left on device"),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
@pytest.mark.parametrize("json_too", ["", " json=true"])
def test_output_that_nobody_takes_ends_in_silence_or_one_sentence(
    tmp_path, to, code, said, json_too
):
    command = f"{sys.executable} -m flops_fit predict law=chinchilla budget=1e21{json_too} {to}"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
    errors = [line for line in done.stderr.splitlines() if not line.startswith("chinchilla is ")]
    assert [line for line in errors if "rror" in line or "Traceback" in line] == [said] * bool(said)


CLOSED = """
import multiprocessing
import os
import sys
from flops_fit.study.surroundings import Streams


def work(streams):
    sys.stdout = None  # as in a server that was started where it is closed
    streams.take()
    print("nobody reads this", flush=True)
    os.write(2, b"written")


if __name__ == "__main__":
    os.close(1)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(Streams(),))
    process.start()
    process.join()
    os._exit(process.exitcode)
"""


def test_a_worker_of_a_command_whose_stdout_is_closed_can_print(tmp_path):
    (tmp_path / "closed.py").write_text(CLOSED)
    words = [sys.executable, "closed.py"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "written")


def test_help_to_nobody_and_tables_in_ascii_are_no_errors(tmp_path):
    help_to_nobody = f"{sys.executable} -m flops_fit --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", help_to_nobody], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shutil.copytree(STUDY, tmp_path / "outputs/toy", symlinks=True)
    words = [sys.executable, "-m", "flops_fit", "status", "study=toy"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "------" in done.stdout


def test_a_working_directory_that_is_gone_is_one_sentence(tmp_path):
    command = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m flops_fit status"
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: the working directory is gone: go to one that exists\n"
