"""Jobs of a cluster without one: how work is shared out, what is asked for, what records are."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from small_study import planned, small_spec, small_sweep

from flops_fit.cli import main
from flops_fit.errors import ConfigError, StudyError
from flops_fit.executors import Slurm
from flops_fit.executors.elsewhere import submitted
from flops_fit.executors.node import Packed
from flops_fit.executors.requests import Asked, Costs, arrays_of, shared_out
from flops_fit.plan.trunks import chains
from flops_fit.settings import SweepSettings
from flops_fit.store.folder import StudyFolder
from flops_fit.study.jobs import Job, JobArray, Request, cancel, keep, queue_of, records
from flops_fit.study.status import study_status

SWEEP = ["model=mlp", "dataset=toy", "budgets=[1e7,2e7]", "num_sizes=3", "min_steps=10"]
SWEEP += ["study=small", "executor=slurm"]

ASKED = Asked(minutes=None, memory_gb=None, cpus=2, gpus=0, processes=1, minutes_per_job=10.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return StudyFolder(tmp_path / "outputs/small")


def script_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["train", *SWEEP, "dry_run=true", *words]) == 0
    return capsys.readouterr().out


def test_a_dry_run_shows_the_scripts_and_leaves_nothing(folder, capsys):
    pytest.importorskip("submitit")
    words = ["device=cpu", "executor.partition=fast", "executor.cpus=2", "executor.memory_gb=3"]
    words += ["executor.minutes=7", "executor.more.account=mine", "+executor.more.licenses=x"]
    words += ["executor.more.setup=[module load cuda]", "executor.at_once=1"]
    script = script_of(capsys, *words, "executor.minutes_per_job=1e-9")
    for line in (
        "--partition=fast", "--cpus-per-task=2", "--mem=3072M", "--time=7", "--account=mine",
        "--licenses=x", "--requeue", "--signal=USR2@90", "--array=0-2%1", "--job-name=small",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "gpus-per-node" not in script
    assert "\nexport OMP_NUM_THREADS=2\nmodule load cuda\n" in script
    assert "srun --unbuffered" in script
    assert "--cpus-per-task=2 " in script.partition("srun")[2]
    assert not folder.pinned()
    assert not list(folder.path.glob("jobs"))
    assert not list(folder.path.glob("plans"))


def test_gpus_are_asked_for_unless_it_is_said_otherwise(folder, capsys):
    pytest.importorskip("submitit")
    script = script_of(capsys, "executor.machine=h100")
    assert "--gpus-per-node=1\n" in script
    assert "--cpus-per-task=4\n" in script
    assert "--gpus-per-node=a100:1\n" in script_of(capsys, "executor.gpus=a100:1")
    assert "gpus-per-node" not in script_of(capsys, "executor.gpus=0")


def test_runs_over_several_gpus_ask_for_them(folder, capsys):
    pytest.importorskip("submitit")
    script = script_of(capsys, "executor.machine=h100", "gpus_per_run=2")
    assert "--gpus-per-node=2\n" in script
    assert "--cpus-per-task=8\n" in script
    script = script_of(capsys, "device=cpu", "gpus_per_run=2", "threads=3")
    assert "gpus-per-node" not in script
    assert "--cpus-per-task=6\n" in script
    words = ["train", *SWEEP, "dry_run=true", "gpus_per_run=2"]
    assert main([*words, "executor.gpus=a100:1"]) == 1
    assert "executor.gpus is a100:1, gpus_per_run 2: leave" in capsys.readouterr().err
    assert main([*words, "batch_size=1", "min_steps=1"]) == 1
    assert "a step has 1 samples to share out" in capsys.readouterr().err
    folder.pin({"gpus_per_run": 2, "spread": "shards"})
    assert "--gpus-per-node=2\n" in script_of(capsys, "executor.machine=h100")


def test_what_cannot_be_told_takes_a_run_a_job_and_says_so(folder, capsys):
    pytest.importorskip("submitit")
    assert main(["train", *SWEEP, "dry_run=true"]) == 0
    said = capsys.readouterr()
    assert "--time=60\n" in said.out
    assert "6 runs in 6 jobs would be submitted" in said.err
    assert "executor.machine=h100, say, tells more" in said.err
    assert main(["train", *SWEEP, "dry_run=true", "executor.machine=h100"]) == 0
    said = capsys.readouterr()
    assert "6 runs in 1 job would be submitted" in said.err
    (minutes,) = re.findall(r"--time=(\d+)\n", said.out)
    assert 5 < int(minutes) < 20


@pytest.mark.parametrize(
    ("words", "minutes", "note"),
    [
        (["executor.minutes=120"], 30, "the default partition gives a job 30 min, 120 were wanted"),
        (["executor.minutes=20"], 20, ""),
        (["executor.partition=long"], 60, ""),  # as where nobody can tell
        (["executor.partition=short"], 10, "short gives a job 10 min, 60 were wanted"),
        (["executor.partition='short,day'"], 60, ""),
    ],
)
def test_no_more_time_is_asked_for_than_the_partition_gives(
    folder, capsys, tmp_path, monkeypatch, words, minutes, note
):
    pytest.importorskip("submitit")
    sinfo = tmp_path / "sinfo"
    sinfo.write_text(SINFO)
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["train", *SWEEP, "dry_run=true", *words]) == 0
    said = capsys.readouterr()
    assert f"--time={minutes}\n" in said.out
    assert note in said.err
    assert ("were wanted" in said.err) == bool(note)


SINFO = """#!/bin/sh
case "$*" in
*long*) echo 'long|infinite';;
*short,day*) echo 'short|10:00'; echo 'day|1-00:00:00';;
*short*) echo 'short|10:00';;
*) echo 'short|10:00'; echo 'low*|30:00';;
esac
"""


def precision_of(spec, slurm: Slurm, folder: StudyFolder, **settings) -> str:
    parts = dict.fromkeys(("model", "dataset", "loss", "optimizer", "schedule", "fit"))
    given = SweepSettings(study="small", **{**parts, **settings})
    there = slurm.planned(replace(spec, precision=given.precision), given)
    return there.prepare(folder).trainer.recipe.precision


def test_auto_precision_is_that_of_the_cards_that_are_asked_for(tmp_path):
    folder = StudyFolder(tmp_path / "study")
    large = small_spec(sweep=small_sweep(budgets=(1e11,), sizes=(60_000,), batch_size=2048))
    assert precision_of(large, Slurm(), folder) == "bf16"
    assert precision_of(large, Slurm(machine="v100"), folder) == "fp32"
    assert precision_of(large, Slurm(gpus=0), folder) == "fp32"
    assert precision_of(large, Slurm(), folder, device="cpu") == "fp32"
    assert precision_of(large, Slurm(), folder, precision="fp16") == "fp16"
    small = small_spec()  # steps of less than 1e9 FLOPs
    assert precision_of(small, Slurm(), folder) == "fp32"


def test_short_runs_share_jobs_and_long_ones_have_one_each(tmp_path):
    plan, _ = planned(tmp_path, sweep=small_sweep(sizes=(4, 8, 16, 24, 32)))
    work = chains(plan.experiments)
    seconds = {chain: 60.0 * i for i, chain in enumerate(work, 1)}  # one to ten minutes
    jobs = shared_out(work, seconds.__getitem__, minutes_per_job=8)
    assert sorted(e.id for job in jobs for e in job.experiments) == sorted(
        e.id for e in plan.experiments
    )
    for job in jobs:
        assert job.seconds == sum(seconds[chain] for chain in job.chains)
        assert len(job.chains) == 1 or job.seconds <= 480
    assert sum(len(job.chains) > 1 for job in jobs) >= 1
    assert sum(job.seconds >= 480 for job in jobs) >= 3
    apart = shared_out(work, None, minutes_per_job=8)
    assert [job.chains for job in apart] == [(chain,) for chain in work]


def test_an_array_asks_for_what_its_longest_and_its_largest_need(tmp_path):
    plan, _ = planned(tmp_path)
    by_size = {e.num_params_total: e for e in plan.experiments}
    work = chains(plan.experiments)
    cost = Costs(lambda chain: 3600.0 * chain[0].num_steps, lambda e: 1e6 * e.num_params_total)
    jobs = shared_out(work, cost.seconds, 10)
    arrays = arrays_of(jobs, cost, ASKED)
    assert [array.budget for array in arrays] == list(plan.budgets)
    for array in arrays:
        mine = [e for e in plan.experiments if e.budget == array.budget]
        assert array.request.minutes == 5 + 2 * 60 * max(e.num_steps for e in mine)
        assert array.request.memory_gb == max(2, -(-1.25e6 * max(by_size) // 1e9))
        assert [job.seconds for job in array.jobs] == sorted(
            (job.seconds for job in array.jobs), reverse=True
        )
    (asked, *_) = arrays_of(jobs, cost, replace(ASKED, minutes=3, memory_gb=1.5))
    assert (asked.request.minutes, asked.request.memory_gb) == (3, 1.5)


def test_large_arrays_are_parted(tmp_path):
    plan, _ = planned(tmp_path, sweep=small_sweep(budgets=(2e5,), sizes=(4,)))
    jobs = shared_out(chains(plan.experiments) * 2500, None, 10)
    assert [len(a.jobs) for a in arrays_of(jobs, Costs(), ASKED)] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "needs sbatch, which is not on the PATH"),
        (["executor.cpus=0"], "executor.cpus is 0: give a number above 0"),
        (["executor.machine=h1000"], "there is no machine 'h1000': did you mean"),
        (["executor.more=3"], "give options of sbatch and their values"),
        (["dry_run=true", "executor.more.setup=3"], "give lines of shell"),
        (["dry_run=true", "executor.minutes=1"], "would be told to stop as it starts"),
        (["executor=slrm"], "executor=slrm: did you mean 'slurm'?"),
    ],
)
def test_what_cannot_be_is_said(folder, capsys, monkeypatch, words, said):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["train", *SWEEP, "device=cpu", *words]) == 1
    assert said in capsys.readouterr().err
    assert not folder.pinned()  # nothing that a training on this machine would be bound to


def test_a_missing_package_is_named_with_its_extra(folder, monkeypatch):
    monkeypatch.setattr("flops_fit.executors.slurm.find_spec", lambda name: None)
    parts = dict.fromkeys(("model", "dataset", "loss", "optimizer", "schedule", "fit"))
    settings = SweepSettings(study="small", device="cpu", dry_run=True, **parts)
    with pytest.raises(ConfigError, match=r"pip install 'flops-fit\[slurm\]'"):
        submitted(Slurm(), small_spec(), folder, settings, tell=lambda text: None)


def test_this_machine_tells_what_it_would_train(folder, capsys):
    words = ["train", *SWEEP, "device=cpu", "executor=local"]
    assert main([*words, "dry_run=true"]) == 0
    assert "+6 new, 0 completed already" in capsys.readouterr().err
    assert not folder.path.joinpath("runs").exists()


ARRAY = JobArray(
    "small", Request(5, 1, 0, 2.0), "2026-11-27T12:00:00+00:00",
    (Job("12_0", ("C1",)), Job("12_1", ("C2", "C3"))),
)  # fmt: skip


def test_records_come_back_as_they_were(folder):
    keep(ARRAY, folder.path / "jobs/now", 1)
    assert records(folder).arrays == (ARRAY,)
    assert records(folder).runs_of(["12_1"]) == {"C2", "C3"}


@pytest.mark.parametrize(
    "id", ["1; rm -rf /", "--all", "12_", "_3", "", "12_0_1", "-1", "١٢", "12345678901", "1\n2"]
)
def test_a_job_has_an_id_that_is_one(folder, id):
    keep(ARRAY, folder.path / "jobs/now", 1)
    path = folder.path / "jobs/now/array-1.json"
    record = json.loads(path.read_text())
    record["jobs"][0]["id"] = id
    del record["checksum"]
    path.write_text(json.dumps(record))
    known = records(folder)
    assert not known.arrays
    assert "is no id of a job" in known.problems[0]


def test_records_outside_of_the_study_are_not_read(folder, tmp_path):
    keep(ARRAY, tmp_path / "elsewhere", 1)
    (folder.path / "jobs").mkdir(parents=True)
    (folder.path / "jobs/now").symlink_to(tmp_path / "elsewhere")
    known = records(folder)
    assert not known.arrays
    assert "leads out of" in known.problems[0]


def test_without_a_queue_what_was_submitted_is_queued(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    plan, _ = planned(folder.path)
    folder.write_plan(plan)
    folder.put_in_force(plan)
    mine = plan.experiments[0].id
    keep(replace(ARRAY, jobs=(Job("12", (mine,)),)), folder.path / "jobs/now", 1)
    status = study_status(folder)
    assert status.counts["queued"] == 1
    assert status.counts["missing"] == len(plan) - 1
    assert "there is no squeue here" in status.problems[0]


SQUEUE = """#!/bin/sh
echo "12_0|RUNNING|None|{study}/jobs/now/script.sh"
echo "12_1|PENDING|PartitionDown|/home/somebody/else.sh"
echo "13|PENDING|None|{study}/jobs/now/script.sh"
"""


def test_a_record_that_joins_jobs_of_others_cancels_none(folder, tmp_path, monkeypatch):
    """One of the study's jobs in it doesn't make the others the study's."""
    keep(ARRAY, folder.path / "jobs/now", 1)
    (tmp_path / "bin").mkdir()
    told = tmp_path / "told"
    for name, text in (
        ("squeue", f"echo '12_0|RUNNING|None|{folder.path}/jobs/now/script.sh'"),
        ("scancel", f'echo "$@" >{told}'),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    record = json.loads((folder.path / "jobs/now/array-1.json").read_text())
    del record["checksum"]
    record["jobs"][0]["id"] = "99"
    (folder.path / "jobs/now/array-2.json").write_text(json.dumps(record))
    known = records(folder)
    assert known.arrays == (ARRAY,)
    assert "its jobs are not those of one array" in known.problems[0]
    assert cancel(known) == ["12_0"]
    assert told.read_text() == "12\n"


def test_only_jobs_of_the_study_that_are_in_the_queue_count(folder, tmp_path, monkeypatch):
    keep(ARRAY, folder.path / "jobs/now", 1)
    (tmp_path / "bin").mkdir()
    squeue = tmp_path / "bin/squeue"
    squeue.write_text(SQUEUE.format(study=folder.path))
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    queue = queue_of(folder, [])
    assert (queue.runs, queue.notes) == ({"C1"}, ())
    squeue.write_text(
        SQUEUE.format(study=folder.path).replace("RUNNING|None", "PENDING|PartitionTimeLimit")
    )
    (note,) = queue_of(folder, []).notes
    assert note.startswith("1 job is held up, for PartitionTimeLimit as Slurm calls it")
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    queue = queue_of(folder, [])
    assert queue.runs == {"C1", "C2", "C3"}
    assert "Unable to contact slurm controller" in queue.notes[0]
    squeue.write_text("#!/bin/sh\nexit 0\n")
    queue = queue_of(folder, [])
    assert not queue.runs
    assert "array 12 are gone and left no log" in queue.notes[0]
    assert not queue_of(folder, ["C1", "C2", "C3"]).notes
    (folder.path / "jobs/now/12_1_0_log.out").touch()
    assert not queue_of(folder, []).notes


class Trap:
    """Says that it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return subprocess.call, (["touch", str(self.path)],)


def test_a_job_unpickles_nothing_but_what_was_written_for_it(tmp_path):
    path, trap = tmp_path / "study.pkl", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(StudyError, match="was changed after it was written"):
        Packed(path, "0" * 64, ()).unpacked()
    assert not trap.exists()


def test_no_command_unpickles_what_lies_in_a_study(folder, tmp_path, capsys):
    """A pickle under every name that a job's could have is left alone by all that look at jobs."""
    keep(ARRAY, folder.path / "jobs/now", 1)
    trap = tmp_path / "sprung"
    for name in ("study.pkl", "12_0_submitted.pkl", "12_0_0_result.pkl"):
        (folder.path / "jobs/now" / name).write_bytes(pickle.dumps(Trap(trap)))
    plan, _ = planned(folder.path)
    folder.write_plan(plan)
    folder.put_in_force(plan)
    assert main(["status", "study=small"]) == 0
    main(["cancel", "study=small"])
    pytest.importorskip("submitit")
    assert main(["train", *SWEEP, "device=cpu", "dry_run=true"]) == 0
    assert not trap.exists()
