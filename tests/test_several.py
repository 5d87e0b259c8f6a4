"""One run over several processes: the same result as in one, whatever becomes of the processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from small_study import ADAMW, Net, outcome, planned, small_sweep
from test_portions import Normed, Tagger, flat, labelled
from torch import nn

from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError
from flops_fit.learning.losses import cross_entropy
from flops_fit.models import Transformer
from flops_fit.settings import MachineSettings
from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Prepared, Unwatched
from flops_fit.study.machine import check_devices, machine_of
from flops_fit.training import progress
from flops_fit.training.rank_processes import SpreadTrainer
from flops_fit.training.spec import torch_trainer

SAME = 1e-5
"""Relative: sums of fp32 in another order."""

# What follows up to the first fixture is imported by the processes of a run as well.


class Steady(Net):
    """Without dropout."""

    def __init__(self, width):
        super().__init__(width, dropout=0.0)


class Mortal(Steady):
    """In one of the processes of a run, but the first, something happens in the 20th step, once."""

    def __init__(self, width, marker, fate):
        super().__init__(width)
        self.marker, self.fate, self.steps = Path(marker), fate, 0

    def forward(self, x):
        self.steps += self.training
        is_chosen = dist.is_initialized() and dist.get_rank() == 1
        if is_chosen and self.steps == 20 and not self.marker.exists():
            self.marker.touch()
            FATES[self.fate]()
        return super().forward(x)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise EOFError("no more rows")


def run_out_of_memory():
    raise torch.OutOfMemoryError("out of memory")


FATES = {"killed": be_killed, "fails": fail, "memory": run_out_of_memory}


class Choosy(nn.Module):
    """Uses a layer only where a row calls for it, and one never."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 1)
        self.sometimes, self.never = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        h, chosen = self.first(x).tanh(), x[:, 0] > 1.2
        if chosen.any():
            h = torch.where(chosen[:, None], self.sometimes(h), h)
        return self.last(h)


def text():
    """Ids that can be learned: each a function of the one before it, and noise."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(2, (480, 13), generator=generator)
    ids = (torch.arange(13) * 3 + torch.arange(480)[:, None] + noise) % 12
    return ids[:, :-1], ids[:, 1:]


def barely_labelled():
    """Every third row has no label at all, the others from one to five."""
    ids, labels = labelled()
    labels[::3] = -100
    return ids, labels


SGD = partial(torch.optim.SGD, lr=0.01)

MLP = {
    "factory": Steady,
    "sweep": small_sweep(budgets=(2e5,), sizes=(8, 16), batch_size=15),
}
"""41 and 83 steps of 15 samples, which two processes can't halve."""

TRANSFORMER = {
    "factory": partial(Transformer, vocab_size=12, context_length=12),
    "source": as_source(text(), tokens_per_sample=12),
    "loss": cross_entropy,
    "clip_grad_norm": 0.5,
    "sweep": small_sweep(budgets=(1.5e8,), sizes=(16,), batch_size=16),
}

LABELLED = {
    "factory": Tagger,
    "source": as_source(barely_labelled()),
    "loss": flat,
    "micro_batch_size": 2,
    "sweep": small_sweep(budgets=(1e6,), sizes=(8,), batch_size=5),
}
"""Batches of 5 in portions of 2, of which many have no label: one process has one more."""


def make_trainer(folder, **changes):
    _, recipe = planned(folder, **changes)
    return torch_trainer(recipe, StudyFolder(folder))


@contextmanager
def spread_trainer(folder, spread="replicas", count=2, **changes):
    trainer = SpreadTrainer(
        partial(make_trainer, folder.path, **changes), count, spread, 1, on_gpus=False
    )
    try:
        yield trainer
    finally:
        trainer.close()


def trained(folder, trainer, watcher=None, **changes):
    plan, _ = planned(folder.path, **changes)
    return train_plan(plan, folder, Inline(trainer, folder), watcher or Unwatched())


def trained_alone(folder, watcher=None, **changes):
    return trained(folder, make_trainer(folder.path, **changes), watcher, **changes)


def trained_by_several(folder, spread="replicas", watcher=None, count=2, **changes):
    with spread_trainer(folder, spread, count, **changes) as trainer:
        return trained(folder, trainer, watcher, **changes)


class StopAfter:
    """Asks to stop when so many FLOPs have been told of."""

    def __init__(self, flops=0.0):
        self.flops, self.stop_requested = flops, False

    def progress(self, experiment, flops):
        self.stop_requested = flops >= self.flops

    def finished(self, run):
        pass


def assert_same(runs, others):
    assert [run.status for run in runs] == ["completed"] * len(others)
    for run, other in zip(runs, others, strict=True):
        assert run.id == other.id
        assert (run.loss, run.train_loss) == pytest.approx((other.loss, other.train_loss), rel=SAME)
        assert run.loss_stderr > 0
        assert run.held_out_samples == other.held_out_samples


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "study")


@pytest.mark.parametrize(
    ("changes", "spread"),
    [
        pytest.param(MLP, "replicas", id="mlp, replicas"),
        pytest.param(MLP, "shards", id="mlp, shards", marks=pytest.mark.slow),
        pytest.param(TRANSFORMER, "replicas", id="lm, replicas", marks=pytest.mark.slow),
        pytest.param(TRANSFORMER, "shards", id="lm, shards", marks=pytest.mark.slow),
        pytest.param(LABELLED, "replicas", id="labels, replicas", marks=pytest.mark.slow),
        pytest.param(LABELLED, "shards", id="labels, shards"),
    ],
)
def test_the_losses_are_those_of_one_process(folder, tmp_path, changes, spread):
    alone = trained_alone(StudyFolder(tmp_path / "alone"), **changes)
    several = trained_by_several(folder, spread, **changes)
    assert_same(several, alone)
    assert {run.num_processes for run in several} == {2}
    assert {run.num_processes for run in alone} == {None}
    for run in alone:
        curves = [
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in (
                place / "runs" / run.id / "metrics.jsonl"
                for place in (tmp_path / "alone", folder.path)
            )
        ]
        assert len(curves[0]) > 2
        for one, other in zip(*curves, strict=True):
            known = {name: value for name, value in one.items() if value is not None}
            assert {name: other[name] for name in known} == pytest.approx(known, rel=1e-4)
            assert other.keys() == one.keys()


@pytest.mark.slow
def test_three_processes_do_what_one_does(folder, tmp_path):
    alone = trained_alone(StudyFolder(tmp_path / "alone"), **MLP)
    assert_same(trained_by_several(folder, count=3, **MLP), alone)


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "optimizer"), [("replicas", ADAMW), ("shards", SGD)])
def test_parameters_that_only_some_rows_use(folder, tmp_path, spread, optimizer):
    """Sharded ones that no row uses have a gradient of 0, which is none for SGD."""
    changes = {**MLP, "factory": Choosy, "optimizer": optimizer}
    alone = trained_alone(StudyFolder(tmp_path / "alone"), **changes)
    assert_same(trained_by_several(folder, spread, **changes), alone)


@pytest.mark.slow
@pytest.mark.parametrize("spread", ["replicas", "shards"])
@pytest.mark.parametrize("begins", ["alone", "several"])
def test_others_go_on_from_a_checkpoint(folder, tmp_path, spread, begins, monkeypatch):
    """One process where two have begun, and two where one has."""
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)  # or it may have ended by then
    changes = {**TRANSFORMER, "checkpoint_seconds": 0.0}
    expected = trained_alone(StudyFolder(tmp_path / "alone"), **changes)
    by = {"alone": trained_alone, "several": partial(trained_by_several, spread=spread)}
    [goes_on] = by.keys() - {begins}
    with pytest.raises(KeyboardInterrupt):
        by[begins](folder, watcher=StopAfter(0.2 * expected[0].flops), **changes)
    [run] = folder.path.glob("runs/*")
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    assert 0 < checkpoint["step"] < expected[0].num_steps
    assert all(type(tensor) is torch.Tensor for tensor in checkpoint["model"].values())
    runs = by[goes_on](folder, **changes)
    assert_same(runs, expected)
    assert runs[0].flops_spent == expected[0].flops
    assert not (run / "checkpoint.pt").exists()


@pytest.mark.slow
def test_dropout_is_drawn_again_as_it_was(folder, tmp_path):
    """By each process for itself, to the last bit, after a stop too."""
    changes = {"sweep": small_sweep(budgets=(2e6,), sizes=(16,)), "checkpoint_seconds": 0.0}
    first, second = (
        trained_by_several(StudyFolder(tmp_path / name), **changes) for name in ("a", "b")
    )
    assert list(map(outcome, first)) == list(map(outcome, second))
    with pytest.raises(KeyboardInterrupt):
        trained_by_several(folder, watcher=StopAfter(0.1 * first[0].flops), **changes)
    assert list(map(outcome, trained_by_several(folder, **changes))) == list(map(outcome, first))


@pytest.mark.parametrize("fate", ["killed", pytest.param("fails", marks=pytest.mark.slow)])
def test_one_that_ends_takes_the_run_with_it_and_no_more(folder, tmp_path, fate):
    """The reason is in the result; the next run has new processes, and the next command goes on
    from the checkpoint."""
    factory = partial(Mortal, marker=str(tmp_path / "has happened"), fate=fate)
    changes = {**MLP, "factory": factory, "checkpoint_seconds": 0.0}
    started = time.monotonic()
    with spread_trainer(folder, **changes) as trainer:
        failed, other = trained(folder, trainer, **changes)
        assert time.monotonic() - started < 60
        assert (failed.status, other.status) == ("failed", "completed")
        if fate == "killed":
            assert "process 2 of 2 that trained the run died with exit code -9" in failed.error
        else:
            assert failed.error == "EOFError: no more rows"
            told = (folder.path / "runs" / failed.id / "error.txt").read_text()
            assert "in process 2 of 2" in told
            assert "FATES[self.fate]()" in told
        checkpoint = folder.path / "runs" / failed.id / "checkpoint.pt"
        assert torch.load(checkpoint, weights_only=True)["step"] > 0
        assert_same(
            trained(folder, trainer, **changes),
            trained_alone(StudyFolder(tmp_path / "alone"), **changes),
        )


@pytest.mark.slow
def test_what_one_has_no_memory_for_all_do_in_halves(folder, tmp_path):
    factory = partial(Mortal, marker=str(tmp_path / "has happened"), fate="memory")
    changes = {**MLP, "factory": factory}
    runs = trained_by_several(folder, **changes)
    assert [run.micro_batch_size for run in runs] == [4, None]
    assert_same(runs, trained_alone(StudyFolder(tmp_path / "alone"), **changes))


@pytest.mark.slow
def test_only_the_first_writes(folder):
    """Whoever writes a checkpoint has its number in the name of the file until it is whole."""
    changes = {**MLP, "sweep": small_sweep(budgets=(2e7,), sizes=(16,)), "checkpoint_seconds": 0.0}
    seen = set()
    is_over = threading.Event()

    def look():
        while not is_over.is_set():
            seen.update(path.name for path in folder.path.glob("runs/*/*"))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        trained_by_several(folder, **changes)
    finally:
        is_over.set()
        looking.join()
    temporary = {name for name in seen if name.endswith(".tmp") and "checkpoint" in name}
    writers = {name.split(".")[-2].partition("-")[0] for name in temporary}
    assert len(writers) == 1
    left = {path.name for path in folder.path.glob("runs/*/*")}
    assert left == {".lock", "metrics.jsonl", "result.json"}


COMMAND = [
    "model=mlp", "dataset=toy", "budgets=[2e8]", "sizes=[8]", "device=cpu", "study=small",
    "held_out_samples=64", "batch_size=64", "workers=1", "threads=1", "checkpoint_seconds=0.2",
    "optimizer.lr=3e-4",
]  # fmt: skip
"""A low rate: at the recipe's, last bits grow to 0.3% of the loss in these 2,315 steps."""


def command(folder, *words):
    return [sys.executable, "-m", "flops_fit", "train", *COMMAND, f"output_root={folder}", *words]


def ended(folder, *words):
    """The exit code of the command."""
    return subprocess.run(command(folder, *words), capture_output=True, timeout=120).returncode


def losses(folder):
    paths = folder.glob("small/runs/*/result.json")
    return {path.parent.name: json.loads(path.read_text())["loss"] for path in paths}


@pytest.mark.slow
def test_a_sweep_by_command_stopped_and_gone_on_with(tmp_path):
    """Ctrl-C reaches all processes of the terminal; one goes on alone where it is told to."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert ended(one) == 0
    words = command(two, "gpus_per_run=2", "spread=shards")
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(two.glob("small/runs/*/checkpoint.pt")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert list(two.glob("small/runs/*/checkpoint.pt"))
    assert ended(two, "gpus_per_run=1") == 0
    assert len(losses(one)) == 1
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    pinned = json.loads((two / "small/pinned.json").read_text())
    assert (pinned["gpus_per_run"], pinned["spread"]) == (2, "shards")


@pytest.mark.slow
def test_none_is_left_where_the_first_command_is_killed(tmp_path):
    words = command(tmp_path, "gpus_per_run=2", "budgets=[1e10]")
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("small/runs/*/checkpoint.pt")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and is_group_alive(process.pid):
        time.sleep(0.1)
    assert not is_group_alive(process.pid)


def is_group_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def machine(tmp_path, settings, **changes):
    plan, recipe = planned(tmp_path, **changes)
    prepared = Prepared(plan, torch_trainer(recipe, StudyFolder(tmp_path)), recipe.device)
    return machine_of(prepared, len(plan), StudyFolder(tmp_path), settings)


def test_what_cannot_be_spread_is_said(tmp_path, monkeypatch):
    two = MachineSettings(gpus_per_run=2, threads=1)
    with pytest.raises(ConfigError, match=r"a step has 1 samples to share out: .* at most 1"):
        machine(tmp_path, two, sweep=small_sweep(batch_size=1))
    x = torch.randn(480, 4, generator=torch.Generator().manual_seed(0))
    data = as_source((x, (x.sum(1) > 0).long()))
    with pytest.raises(ConfigError, match="BatchNorm1d takes means over a portion; leave gpus_per"):
        machine(tmp_path, two, factory=Normed, loss=nn.functional.cross_entropy, source=data)
    with pytest.raises(ConfigError, match="gpus_per_run is 4, 2 GPUs are there: set gpus_per_run"):
        check_devices(4, torch.device("cuda"), 2)
    with pytest.raises(ConfigError, match="device is cuda:1: set device=cuda"):
        check_devices(2, torch.device("cuda:1"), 2)
    with pytest.raises(ConfigError, match="spread=shards with gpus_per_run=1"):
        machine(tmp_path, MachineSettings(spread="shards"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"torchrun has started 2 of this.* without torchrun"):
        machine(tmp_path, two)


def test_no_process_for_a_run_is_a_mistake(capsys):
    from flops_fit.cli.dispatch import main  # not in the processes of a run

    assert main(["train", *COMMAND, "gpus_per_run=0"]) == 1
    assert "gpus_per_run is 0: it must be at least 1" in capsys.readouterr().err


def test_a_study_keeps_how_its_runs_are_spread_unless_told_otherwise(tmp_path):
    StudyFolder(tmp_path).pin({"gpus_per_run": 2, "spread": "shards", "threads": 1})
    kept = machine(tmp_path, MachineSettings())
    assert (kept.gpus_per_run, kept.spread) == (2, "shards")
    assert machine(tmp_path, MachineSettings(gpus_per_run=3)).gpus_per_run == 3
    assert machine(tmp_path, MachineSettings(gpus_per_run=1)).gpus_per_run == 1
    assert machine(tmp_path, MachineSettings(spread="replicas")).spread == "replicas"


def test_gpus_are_shared_out_to_runs(tmp_path, monkeypatch):
    """Each run has its own; what is left over stays idle."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    plan, recipe = planned(tmp_path)
    trainer = torch_trainer(recipe, StudyFolder(tmp_path))
    prepared = Prepared(plan, trainer, torch.device("cuda"))
    settings = MachineSettings(gpus_per_run=2)
    found = machine_of(prepared, len(plan), StudyFolder(tmp_path), settings)
    assert found.gpus == ("0,1", "2,3")
    assert found.workers == 2
