"""A real Slurm of one node: whatever it does to the jobs, each run is trained to the same loss."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flops_fit import Study, find_optimal
from flops_fit.cli import main
from flops_fit.store.folder import StudyFolder
from flops_fit.study.jobs import jobs_there, records

NODE = Path(__file__).parent.parent / "scripts/slurm_node"

pytestmark = pytest.mark.slow

NET = '''
import os
import time

import torch

from flops_fit.models import MLP


class Slow(MLP):
    """Naps in every training step, as long as the environment says, until its job is queued again;
    breaks at one width."""

    def __init__(self, width, **more):
        super().__init__(width, **more)
        self.width = width

    def forward(self, x):
        is_broken = self.width == int(os.environ.get("BROKEN", 0)) and "SLURM_JOB_ID" in os.environ
        has_numbers = type(x) is torch.Tensor and not x.is_meta
        if torch.is_grad_enabled() and is_broken and has_numbers:
            raise ValueError("this size is broken")
        is_step = torch.is_grad_enabled() and len(x) == 64  # not a trial of one
        if is_step and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
            time.sleep(float(os.environ.get("NAP", 0)))
        return super().forward(x)
'''

WORDS = ["model=mlp", "model._target_=slow_net.Slow", "dataset=toy", "min_steps=5", "draws=0"]
WORDS += ["device=cpu", "threads=1", "together=false", "held_out_samples=256", "fit=surface"]
WORDS += ["kernels={matmul: default, attention: fused}", "batch_size=64", "checkpoint_seconds=2"]

SLURM = ["executor=slurm", "executor.partition=low", "executor.cpus=1", "executor.minutes=5"]
SLURM += ["executor.minutes_per_job=1e-6"]  # a job for each run, however fast the machine

STEP = 6 * 225 * 64
"""FLOPs of a step of the smallest size that is trained here, an MLP of width 8."""


def one_run(steps: int) -> list[str]:
    return ["sizes=[8]", f"budgets=[{steps * STEP}]"]


def until(holds: Callable[[], Any], seconds: float) -> Any:
    """What `holds` returns, once it is true."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, "not within its time"
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[Path]:
    """A working directory where sbatch finds a cluster; a run that outlasts its job is at it."""
    if shutil.which("slurmctld") is None or os.getuid() != 0:
        pytest.skip("needs Debian's slurm-wlm and munge (scripts/slurm_node install) and root")
    cluster = tempfile.mkdtemp(prefix="slurm-")  # short: sockets have paths of 107 characters
    subprocess.run([NODE, "start", cluster], check=True, timeout=60)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder, "slow_net.py").write_text(NET)
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("SLURM_CONF", f"{cluster}/slurm.conf")
        patch.setenv("NAP", "0.15")
        # Slurm looks at limits every 30 seconds: this job is told 40 to 70 seconds after its start,
        # in which it trains a step on a busy machine too.
        late = ["study=late", "executor.minutes=2", "executor.stop_seconds=50", *one_run(1100)]
        assert main(["train", *WORDS, *SLURM, *late]) == 0
        patch.setenv("NAP", "0")
        try:
            yield Path(folder)
        finally:
            subprocess.run([NODE, "stop", cluster], check=True, timeout=60)
            shutil.rmtree(cluster, ignore_errors=True)


def hurried(*studies: str) -> None:
    """Jobs that are queued again need not wait the two minutes for which Slurm holds them."""
    for study in studies:
        for job, state in states(study).items():
            if state == "PENDING":
                words = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
                subprocess.run(words, timeout=30, check=False, capture_output=True)


def done(*studies: str) -> bool:
    """Whether their jobs are gone, which are hurried."""
    hurried(*studies)
    return not any(map(states, studies))


def folder_of(study: str) -> StudyFolder:
    return StudyFolder(Path("outputs") / study)


def states(study: str) -> dict[str, str]:
    there = jobs_there(records(folder_of(study)))
    assert there is not None
    return {job: waiting.state for job, waiting in there.items()}


def log_of(study: str) -> str:
    return "".join(p.read_text() for p in sorted(Path("outputs", study).glob("jobs/*/*log.out")))


def losses(study: str) -> dict[str, float | None]:
    folder = folder_of(study)
    runs, problems = folder.runs_of(folder.read_plan())
    assert not problems
    return {run.id: run.loss for run in runs}


def trained_here(study: str, words: list[str]) -> dict[str, float | None]:
    """The losses of the same runs in this process, undisturbed."""
    assert main(["train", *WORDS, *words, f"study={study}-here", "workers=1"]) in (0, 3)
    return losses(f"{study}-here")


def begun(study: str) -> bool:
    """Whether a checkpoint has been written."""
    return any(Path("outputs", study).glob("runs/*/checkpoint.pt"))


SWEEP = [f"budgets=[{60 * STEP},{120 * STEP}]", "sizes=[8,16]"]


def test_arrays_train_what_one_process_does_and_the_same_command_then_fits(lab, capsys):
    words = ["train", *WORDS, *SLURM, *SWEEP, "study=sweep"]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "4 runs in 4 jobs submitted, 2 arrays" in said
    assert "flops-fit status study=sweep" in said
    assert main(["status", "study=sweep", "json=true"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["queued"] + counts["running"] + counts["completed"] == 4
    assert counts["missing"] == 0
    submissions = list(Path("outputs/sweep/jobs").iterdir())
    assert main(words) == 0  # nothing more
    assert list(Path("outputs/sweep/jobs").iterdir()) == submissions
    until(lambda: not states("sweep"), 120)
    assert set(losses("sweep").values()) == set(trained_here("sweep", SWEEP).values())
    assert losses("sweep") == losses("sweep-here")
    capsys.readouterr()
    assert main([*words, "json=true"]) in (0, 3)  # the answer, or why there is none
    assert "+0 new, 4 completed already" in capsys.readouterr().err


def test_a_broken_run_fails_alone_and_it_alone_is_submitted_again(lab, capsys, monkeypatch):
    two = [f"budgets=[{60 * STEP}]", "sizes=[8,16]"]
    words = ["train", *WORDS, *SLURM, *two, "study=broken"]
    monkeypatch.setenv("BROKEN", "16")
    assert main(words) == 0
    assert "2 runs in 2 jobs submitted" in capsys.readouterr().err
    until(lambda: not states("broken"), 90)
    assert main(["status", "study=broken", "json=true"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["completed"], counts["failed"]) == (1, 1)
    assert "ValueError: this size is broken" in counts["failures"]
    monkeypatch.delenv("BROKEN")
    assert main(words) == 0
    assert "1 run in 1 job submitted" in capsys.readouterr().err
    until(lambda: not states("broken"), 90)
    assert losses("broken") == trained_here("broken", two)


def test_a_preempted_run_is_queued_again_and_goes_on(lab, monkeypatch):
    until(lambda: "stopped by SIGUSR2" in log_of("late"), 120)  # it is not to be preempted before
    for study, partition in (("low", "low"), ("grace", "grace")):
        monkeypatch.setenv("NAP", "0.04")
        words = [*WORDS, *SLURM, f"executor.partition={partition}", *one_run(250)]
        assert main(["train", *words, f"study={study}"]) == 0
    until(lambda: begun("low") and begun("grace"), 60)
    rude = ["sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null"]
    subprocess.run([*rude, "--wrap=sleep 2"], check=True, timeout=30, capture_output=True)
    until(lambda: done("low", "grace"), 90)
    monkeypatch.setenv("NAP", "0")
    for study in ("low", "grace"):
        assert "stopped by SIGTERM" in log_of(study)
        assert losses(study) == trained_here(study, one_run(250))


def test_a_cancelled_study_keeps_its_checkpoint_and_can_go_on(lab, capsys, monkeypatch):
    monkeypatch.setenv("NAP", "0.04")
    words = ["train", *WORDS, *SLURM, *one_run(250), "study=ended"]
    assert main(words) == 0
    until(lambda: begun("ended"), 60)
    capsys.readouterr()
    assert main(["cancel", "study=ended", "json=true"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cancelled"]) == 1
    until(lambda: not states("ended"), 30)
    assert main(["status", "study=ended", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)["paused"] == 1
    assert main(["cancel", "study=ended"]) == 0
    assert "no job to cancel" in capsys.readouterr().out
    monkeypatch.setenv("NAP", "0")
    assert main(words) == 0
    until(lambda: losses("ended"), 60)
    assert losses("ended") == trained_here("ended", one_run(250))


def test_a_command_that_is_stopped_has_not_failed(lab, capsys):
    """Slurm's signals go to what it has started, too."""
    words = [
        "trainer=command",
        "trainer.command=sleep {size} {num_tokens}",
        "trainer.loss_file={run_dir}/loss",
    ]
    words += ["trainer.sizes=[{size:60,num_params:80}]", "sizes=[60]", "budgets=[1e6]"]
    words += ["min_steps=1", "study=command", "executor.gpus=0"]
    assert main(["train", *words, *SLURM]) == 0
    until(lambda: list(Path("outputs/command").glob("runs/*/log.txt")), 60)
    (job,) = states("command")
    subprocess.run(["scancel", "--signal=USR2", job], check=True, timeout=30)
    until(lambda: "stopped by SIGUSR2" in log_of("command"), 30)
    until(lambda: states("command").get(job) == "PENDING", 30)
    assert not list(Path("outputs/command").glob("runs/*/result.json"))
    assert main(["cancel", "study=command"]) == 0
    assert not states("command")


def test_cancel_ends_no_job_that_is_not_the_studys(lab):
    words = ["sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 60"]
    done = subprocess.run(words, check=True, timeout=30, capture_output=True, text=True)
    job = done.stdout.strip()
    shutil.copytree("outputs/broken", "outputs/forged", symlinks=True)
    (path, *_) = Path("outputs/forged").glob("jobs/*/array-1.json")
    record = json.loads(path.read_text())
    record["jobs"][0]["id"] = job
    del record["checksum"]
    path.write_text(json.dumps(record))
    assert main(["cancel", "study=forged"]) == 0
    listed = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    state = subprocess.run(listed, check=True, timeout=30, capture_output=True, text=True).stdout
    subprocess.run(["scancel", job], check=True, timeout=30)
    assert state.strip() in ("PENDING", "RUNNING")


def test_what_sbatch_says_is_passed_on(lab, capsys):
    words = ["train", *WORDS, *SLURM, *SWEEP, "study=refused"]
    assert main([*words, "executor.partition=nowhere"]) == 1
    said = capsys.readouterr().err
    assert "invalid partition specified: nowhere" in said
    assert "`sinfo` lists them" in said
    assert main([*words, "executor.minutes=600", "dry_run=true"]) == 0
    said = capsys.readouterr()
    assert "low gives a job 60 min, 600 were wanted" in said.err
    assert "--time=60\n" in said.out
    assert main([*words, "executor.gpus=1"]) == 1
    assert "executor.gpus=0 for a partition without GPUs" in capsys.readouterr().err


def test_objects_of_python_are_trained_too(lab):
    import torch
    from slow_net import Slow

    x = torch.randn(6400, 8, generator=torch.Generator().manual_seed(0))
    sweep: dict[str, Any] = {
        "model_cls": Slow,
        "model_size_param": "width",
        "model_kwargs": {"in_features": 8},
        "dataset": (x, x.sum(1, keepdim=True).sin()),
        "loss_fn": torch.nn.functional.mse_loss,
        "compute_budgets": [60 * STEP],
        "sizes": [8, 16],
        "min_steps": 5,
        "threads": 1,
        "device": "cpu",
        "output_dir": "outputs/objects",
    }
    from flops_fit.executors import Slurm

    slurm = Slurm(partition="low", cpus=1, minutes=5)
    study = find_optimal(**sweep, executor=slurm)
    assert study.refusal is not None
    assert "queued or running" in study.refusal
    until(lambda: Study.open("outputs/objects").status().counts["completed"] == 2, 60)
    study = find_optimal(**sweep, executor=slurm)
    assert "queued" not in (study.refusal or "")
    here = find_optimal(**{**sweep, "output_dir": "outputs/objects-here"})
    assert [run.loss for run in study] == [run.loss for run in here]


def test_a_run_outlives_the_time_limit_of_its_job(lab):
    """It was submitted first of all, since Slurm looks at time limits twice a minute."""
    until(lambda: done("late"), 180)
    assert "stopped by SIGUSR2" in log_of("late")
    assert losses("late") == trained_here("late", one_run(1100))


def test_a_node_that_dies_loses_no_run(lab, monkeypatch):
    monkeypatch.setenv("NAP", "0.04")
    assert main(["train", *WORDS, *SLURM, *one_run(250), "study=dead"]) == 0
    until(lambda: begun("dead"), 60)
    cluster = Path(os.environ["SLURM_CONF"]).parent
    subprocess.run([NODE, "reboot", cluster], check=True, timeout=60)
    time.sleep(5)  # what Slurm has still to say to the job that died must not meet the next
    until(lambda: done("dead"), 60)
    monkeypatch.setenv("NAP", "0")
    assert losses("dead") == trained_here("dead", one_run(250))
