import os
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_study import Net, outcome, planned, small_spec, small_sweep

from flops_fit.errors import StudyError
from flops_fit.fitting import IsoflopFit
from flops_fit.plan.trunks import chains
from flops_fit.settings import SweepSettings
from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.study.fits import Fitting
from flops_fit.study.supervised import Supervised
from flops_fit.study.sweeps import train_study
from flops_fit.study.workers import STOP_SECONDS, Workers
from flops_fit.training.spec import StudySpec, torch_trainer

# What follows up to the first fixture is imported by the worker processes as well.

LONG = small_sweep(budgets=(5e6,), sizes=(4, 5), max_epochs=1000.0)
"""Two runs of 2,083 and 1,680 steps: half a second each at least."""


class Mortal(Net):
    """Kills its process in the 20th step at width 8, once: `marker` says that it has."""

    def __init__(self, width, marker, by=signal.SIGKILL):
        super().__init__(width)
        self.width = width
        self.marker = Path(marker)
        self.by = by
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        if self.width == 8 and self.steps == 20 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), self.by)
        return super().forward(x)


class LoggedLoss:
    """Adds a byte to a file for every training step."""

    def __init__(self, log):
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __call__(self, prediction, target):
        if torch.is_grad_enabled():
            os.write(self.log, b".")
        return F.mse_loss(prediction, target)


class SlowEvaluation:
    """Touches `marker` when an evaluation after `num_steps` begins, which then takes a second."""

    def __init__(self, marker, num_steps):
        self.marker = Path(marker)
        self.steps_left = num_steps

    def __call__(self, prediction, target):
        self.steps_left -= torch.is_grad_enabled()
        if self.steps_left == 0 and not torch.is_grad_enabled() and not self.marker.exists():
            self.marker.touch()
            time.sleep(1)
        return F.mse_loss(prediction, target)


def make_trainer(folder, loss=None, **changes):
    """What a worker trains with; `loss` is built in the worker itself."""
    _, recipe = planned(folder, **changes)
    recipe = replace(recipe, loss=loss()) if loss else recipe
    return torch_trainer(recipe, StudyFolder(folder))


def make_trainer_and_tell(folder, told):
    """Leaves a file that is named after what the process was given."""
    gpu = os.environ["CUDA_VISIBLE_DEVICES"]
    (told / f"gpu {gpu}, {torch.get_num_threads()} threads").touch()
    return make_trainer(folder)


def make_trainer_after_deaths(folder, graves, most):
    """The first `most` processes that are to make one are killed."""
    grave = Path(graves, str(len(os.listdir(graves))))
    if int(grave.name) < most:
        grave.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return make_trainer(folder)


def fail_to_make_trainer():
    raise EOFError("no such part")


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "study")


def trained_inline(folder, **changes):
    plan, recipe = planned(folder.path, **changes)
    return train_plan(plan, folder, Inline(torch_trainer(recipe, folder), folder), Unwatched())


def trained_by_workers(folder, loss=None, watcher=None, **changes):
    plan, _ = planned(folder.path, **changes)
    make = partial(make_trainer, folder.path, loss, **changes)
    workers = Workers(make, folder, num_workers=2, threads=1)
    return train_plan(plan, folder, workers, watcher or Unwatched())


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """The small study's runs, trained in this process."""
    return list(map(outcome, trained_inline(StudyFolder(tmp_path_factory.mktemp("inline")))))


def test_a_killed_worker_takes_only_its_run_with_it(folder, tmp_path, inline):
    """The others come out bit for bit as in one process."""
    runs = trained_by_workers(folder, factory=partial(Mortal, marker=str(tmp_path / "died")))
    (failed,) = [run for run in runs if run.status != "completed"]
    assert failed.size.value == 8
    assert "died with exit code -9" in failed.error
    assert len(runs) == 6
    assert {outcome(run) for run in runs if run is not failed} < set(inline)


@pytest.mark.slow
def test_a_worker_that_is_asked_to_stop_leaves_its_run_to_another(folder, tmp_path, inline):
    asked = partial(Mortal, marker=str(tmp_path / "asked"), by=signal.SIGTERM)
    assert list(map(outcome, trained_by_workers(folder, factory=asked))) == inline
    assert (tmp_path / "asked").exists()


@pytest.mark.slow
def test_a_worker_that_dies_before_it_trains_is_replaced_but_not_for_ever(folder, tmp_path, inline):
    plan, _ = planned(folder.path)
    for most in (2, 3):
        graves = tmp_path / f"graves {most}"
        graves.mkdir()
        make = partial(make_trainer_after_deaths, folder.path, str(graves), most)
        workers = Workers(make, folder, 1, threads=1)
        if most == 2:
            runs = train_plan(plan, folder, workers, Unwatched())
            assert list(map(outcome, runs)) == inline
        else:
            with pytest.raises(StudyError, match=r"3 worker processes died .* exit code -9"):
                workers(chains(plan.experiments), Unwatched())


def test_a_recipe_that_cannot_be_made_ends_the_sweep(folder, capfd):
    plan, _ = planned(folder.path)
    with pytest.raises(RuntimeError, match="a worker process ended with exit code 1 before"):
        Workers(fail_to_make_trainer, folder, 1, threads=1)(chains(plan.experiments), Unwatched())
    assert "EOFError: no such part" in capfd.readouterr().err


@pytest.mark.parametrize("has_heard", [True, False])
def test_a_worker_whose_command_is_gone_leaves_without_a_word(folder, capfd, has_heard):
    """Closed with a message that nobody had read, a connection is reset, else it ends."""
    worker = Workers(partial(make_trainer, folder.path), folder, 1, threads=1)._start(0)
    assert worker.connection.poll(60)
    if has_heard:
        assert worker.connection.recv() is None
    worker.connection.close()
    worker.process.join(60)
    assert worker.process.exitcode == 0
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_two_workers_give_the_losses_of_one_process(folder, inline):
    assert list(map(outcome, trained_by_workers(folder))) == inline


@pytest.mark.slow
def test_each_worker_gets_its_threads_and_its_gpu(folder, tmp_path):
    plan, _ = planned(folder.path)
    told = tmp_path / "told"
    told.mkdir()
    before = dict(os.environ)
    workers = Workers(
        partial(make_trainer_and_tell, folder.path, told), folder, 2, threads=3, gpus=("5", "7")
    )
    runs = workers(chains(plan.experiments), Unwatched())
    assert {run.id for run in runs} == {e.id for e in plan.experiments}
    files = {path.name for path in told.iterdir()}
    assert files <= {"gpu 5, 3 threads", "gpu 7, 3 threads"}
    assert files
    assert os.environ == before


@pytest.mark.slow
def test_what_another_process_trains_is_left_to_it(folder, inline):
    plan, _ = planned(folder.path)
    workers = Workers(partial(make_trainer, folder.path), folder, num_workers=1, threads=1)
    with folder.lock(plan.experiments[2].id):
        runs = workers(chains(plan.experiments[1:4]), Unwatched())
    assert {run.id for run in runs} == {plan.experiments[i].id for i in (1, 3)}
    assert set(map(outcome, runs)) <= set(inline)


class Chatty(Net):
    """Prints when it is built, in training, and past Python; says where it trains."""

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            print("trained")
            os.write(2, b"past Python\n")
        return super().forward(x)


@pytest.mark.slow
def test_what_a_run_prints_is_in_its_folder_and_not_on_the_screen(folder, inline, capfd):
    plan, _ = planned(folder.path, factory=Chatty)
    capfd.readouterr()  # of this process, which tries what can be done with the model
    make = partial(make_trainer, folder.path, factory=Chatty)
    runs = train_plan(plan, folder, Workers(make, folder, 2, threads=1), Unwatched())
    assert list(map(outcome, runs)) == inline
    screen = capfd.readouterr()
    assert "trained" not in screen.out + screen.err
    for run in runs:
        lines = (folder.run_folder(run.id) / "log.txt").read_text().splitlines()
        assert [lines.count("trained"), lines.count("past Python")] == [run.num_steps] * 2


@pytest.mark.slow
def test_a_run_that_prints_nothing_has_no_log(folder):
    trained_by_workers(folder)
    assert not list(folder.path.glob("runs/*/log.txt"))


class Slow(Net):
    """Takes its time at width 8, `deaf` to whoever asks it to stop meanwhile."""

    def __init__(self, width, deaf=False):
        super().__init__(width)
        self.seconds = 0.05 if width == 8 else 0.0
        if deaf and width == 8:
            self.seconds = 100.0

    def forward(self, x):
        if not x.is_meta and self.training and torch.is_grad_enabled():
            time.sleep(self.seconds)
        return super().forward(x)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2])
def test_a_run_over_its_time_leaves_a_checkpoint_and_fails_and_goes_on_later(
    folder, inline, at_once
):
    """At width 8 it takes 4 and 2 seconds, in one go each of which 1 is allowed."""
    plan, recipe = planned(folder.path, factory=Slow)

    def trained():
        if at_once == 1:
            trainer = Supervised(torch_trainer(recipe, folder), 1.0)
            return train_plan(plan, folder, Inline(trainer, folder), Unwatched())
        make = partial(make_trainer, folder.path, factory=Slow)
        workers = Workers(make, folder, num_workers=2, threads=1, timeout_seconds=1.0)
        return train_plan(plan, folder, workers, Unwatched())

    runs = trained()
    failed = [run for run in runs if run.status == "failed"]
    assert {run.size.value for run in failed} == {8}
    assert all("took longer than timeout_seconds=1: raise it" in run.error for run in failed)
    assert {outcome(run) for run in runs if run not in failed} < set(inline)
    checkpoints = [folder.run_folder(run.id) / "checkpoint.pt" for run in failed]
    assert all(path.is_file() for path in checkpoints)
    for _ in range(6):
        runs = trained()
    assert list(map(outcome, runs)) == inline


@pytest.mark.slow
def test_a_run_that_hears_of_no_time_limit_is_killed(folder, monkeypatch):
    monkeypatch.setattr("flops_fit.study.workers.STOP_SECONDS", 1.0)
    make = partial(make_trainer, folder.path, factory=partial(Slow, deaf=True))
    plan, _ = planned(folder.path, factory=Slow)
    workers = Workers(make, folder, num_workers=2, threads=1, timeout_seconds=1.0)
    runs = train_plan(plan, folder, workers, Unwatched())
    failed = [run for run in runs if run.status == "failed"]
    assert [run.size.value for run in failed] == [8, 8]
    assert all("it did not stop when asked to" in run.error for run in failed)


@pytest.mark.slow
def test_leftovers_of_killed_writers_are_swept_up_by_who_trains_the_run(folder):
    plan, _ = planned(folder.path)
    gone = 2**22 + 1  # above all process numbers
    left = [folder.room_for(e.id) / f"checkpoint.{gone}.tmp" for e in plan.experiments]
    mine = folder.room_for(plan.experiments[0].id) / "checkpoint.tmp"
    for path in (*left, mine):
        path.touch()
    trained_by_workers(folder)
    assert not any(path.exists() for path in left)
    assert mine.exists()


class StopWhenTraining(Unwatched):
    """Asks for a stop as soon as a run is under way."""

    def progress(self, experiment, flops):
        self.stop_requested = True


@pytest.mark.slow
def test_a_stop_leaves_a_checkpoint_and_the_next_call_goes_on(folder, tmp_path):
    log = tmp_path / "steps"
    parts = {"loss": partial(LoggedLoss, str(log)), "sweep": LONG}
    with pytest.raises(KeyboardInterrupt):
        trained_by_workers(folder, watcher=StopWhenTraining(), **parts)
    plan, _ = planned(folder.path, sweep=LONG)
    planned_steps = sum(e.num_steps for e in plan.experiments)
    assert 0 < log.stat().st_size < planned_steps
    assert list(folder.path.glob("runs/*/checkpoint.pt"))
    assert folder.missing(plan)

    runs = trained_by_workers(folder, **parts)
    assert log.stat().st_size == planned_steps
    expected = trained_inline(StudyFolder(tmp_path / "inline"), sweep=LONG)
    assert list(map(outcome, runs)) == list(map(outcome, expected))


class StopOnFile(Unwatched):
    """Asks for a stop once a file exists."""

    def __init__(self, path):
        self.path = path

    @property
    def stop_requested(self):
        return self.path.exists()


@pytest.mark.slow
def test_a_stop_during_the_evaluation_lets_it_end_and_no_longer(folder, tmp_path):
    marker = tmp_path / "evaluating"
    plan, _ = planned(folder.path)
    first = max(plan.experiments, key=lambda e: (e.budget, e.num_steps))
    slow = partial(SlowEvaluation, marker, first.num_steps)
    make = partial(make_trainer, folder.path, slow)
    workers = Workers(make, folder, num_workers=1, threads=1)
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        workers(chains(plan.experiments), StopOnFile(marker))
    assert time.perf_counter() - started < STOP_SECONDS
    assert [run.status for run in folder.runs_of(plan)[0]] == ["completed"]


@dataclass(frozen=True)
class Raced(StudySpec):
    """Another process pins a study's held-out samples after this one has prepared its plan."""

    def prepare(self, folder):
        prepared = super().prepare(folder)
        folder.pin({"held_out_samples": 17})
        return prepared


@pytest.mark.slow
def test_what_another_process_pins_meanwhile_holds_for_all_runs(folder):
    spec = Raced(**vars(small_spec()))
    parts = dict.fromkeys(("model", "dataset", "loss", "optimizer", "schedule", "fit"))
    settings = SweepSettings(study="study", workers=1, threads=1, **parts)
    study = train_study(spec, folder, settings, Fitting(IsoflopFit(), 0, 0))
    assert {run.held_out_samples for run in study.runs} == {17}
    assert folder.pinned()["held_out_samples"] == 17
