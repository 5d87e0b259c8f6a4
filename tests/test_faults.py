"""What goes wrong on a machine: no memory, no disk, kills, losses that explode."""

import os
import resource
import signal
import subprocess
import sys
import warnings
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_training import train_small_study
from small_study import Net, WatchedLoss, outcome, planned, rows

from flops_fit.datasets.adapters import as_source
from flops_fit.errors import StudyError, StudyWarning
from flops_fit.files import write_json
from flops_fit.store.execution import Inline, Patience, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.spec import torch_trainer
from flops_fit.training.state import Trunks
from flops_fit.training.trainer import TorchTrainer, train

MORE_THAN_ANY_MACHINE_HAS = 2**50  # bytes


class Greedy(Net):
    """Wants all the memory there is for more than `most` rows at a time, from `width` 8 on."""

    def __init__(self, width, most=8):
        super().__init__(width, dropout=0.0)
        self.most = most if width >= 8 else 16

    def forward(self, x):
        if len(x) > self.most and not x.is_meta:
            torch.empty(MORE_THAN_ANY_MACHINE_HAS, dtype=torch.uint8)
        return super().forward(x)


class Modest(Greedy):
    """The same without the hunger."""

    def __init__(self, width):
        super().__init__(width, most=16)


class TestMemory:
    def test_a_run_that_does_not_fit_is_trained_in_halves_with_the_same_result(self, tmp_path):
        plan, recipe = planned(tmp_path, factory=Greedy)
        _, plenty = planned(tmp_path, factory=Modest)
        trainer = TorchTrainer(recipe, Trunks(tmp_path / "trunks"))
        for index, micro_batch_size in ((0, None), (1, 8)):
            run = trainer(plan.experiments[index], tmp_path / str(index), Unwatched())
            expected = train(plan.experiments[index], plenty, tmp_path / f"{index} b", Unwatched())
            assert run.status == "completed"
            assert run.micro_batch_size == micro_batch_size
            assert run.loss == pytest.approx(expected.loss, rel=1e-5)
            assert (run.id, run.num_tokens) == (expected.id, expected.num_tokens)

    def test_one_that_does_not_fit_in_halves_either_fails_with_advice(self, tmp_path):
        folder = StudyFolder(tmp_path)
        plan, recipe = planned(tmp_path, factory=lambda width: Greedy(width, most=3))
        execute = Inline(torch_trainer(recipe, folder), folder)
        runs = train_plan(plan, folder, execute, Unwatched())
        failed = [run for run in runs if run.status == "failed"]
        assert [run.size.value for run in failed] == [8, 16, 8, 16]
        assert "out of memory with 16 samples at a time, and again with 8" in failed[0].error
        assert "micro_batch_size=4" in failed[0].error

    def test_other_errors_are_not_taken_for_it(self, tmp_path):
        plan, recipe = planned(tmp_path)
        calls = []

        def fail(loss):
            calls.append(loss)
            raise RuntimeError("shapes don't fit")

        trainer = TorchTrainer(replace(recipe, loss=WatchedLoss(3, fail)), Trunks(tmp_path))
        with pytest.raises(RuntimeError, match="shapes don't fit"):
            trainer(plan.experiments[0], tmp_path, Unwatched())
        assert len(calls) == 1

    @pytest.mark.slow
    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_is_flat_over_50_runs(self, tmp_path):
        plan, recipe = planned(tmp_path)
        trainer = torch_trainer(recipe, StudyFolder(tmp_path))
        sizes = []
        for i in range(60):
            trainer(plan.experiments[3], tmp_path / str(i), Unwatched())
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(pages * resource.getpagesize())
        assert max(sizes[10:]) - sizes[10] < 2 * 2**20


class TestLosses:
    @pytest.mark.parametrize(("factor", "status"), [(50.0, "diverged"), (2.0, "completed")])
    def test_one_that_explodes_ends_the_run(self, tmp_path, factor, status):
        class Exploding(WatchedLoss):
            def __call__(self, prediction, target):
                loss = super().__call__(prediction, target)
                return loss * factor if len(self.values) > 60 else loss

        plan, recipe = planned(tmp_path, loss=Exploding())
        run = train(plan.experiments[3], recipe, tmp_path, Unwatched())
        assert run.status == status
        if status == "diverged":
            assert "the training loss rose from" in run.error
            assert run.error.endswith(f"by step {run.num_steps}")
            assert run.loss is None
            assert run.is_settled

    def test_a_low_loss_that_wobbles_is_none(self, tmp_path):
        x, y = rows()
        plan, recipe = planned(tmp_path, source=as_source((x, 1e-4 * y)))
        assert train(plan.experiments[3], recipe, tmp_path, Unwatched()).status == "completed"


class TestFailures:
    @pytest.mark.parametrize(("fail_fast", "num_runs"), [(False, 6), (True, 2)])
    def test_the_sweep_goes_on_unless_told_otherwise(self, tmp_path, fail_fast, num_runs):
        reasons = iter(("no such token", "no such word", "no such token", "no", "such", "token"))

        def fail(loss):
            raise LookupError(next(reasons))

        folder = StudyFolder(tmp_path)
        plan, recipe = planned(tmp_path)
        first = plan.experiments[0].num_steps
        recipe = replace(recipe, loss=WatchedLoss(first + 5, fail))
        execute = Inline(torch_trainer(recipe, folder), folder, Patience(fail_fast))
        runs = train_plan(plan, folder, execute, Unwatched())
        assert len(runs) == num_runs
        assert [run.status for run in runs[:2]] == ["completed", "failed"]
        assert "no such token" in (folder.run_folder(runs[1].id) / "error.txt").read_text()

    @pytest.mark.parametrize(
        ("error", "num_runs"),
        [(LookupError("no such token 17"), 4), (RuntimeError("CUDA out of memory"), 6)],
    )
    def test_what_ails_all_runs_is_tried_with_three_unless_smaller_ones_may_have_room(
        self, tmp_path, error, num_runs
    ):
        steps = 0

        def fail(prediction, target):
            nonlocal steps
            steps += torch.is_grad_enabled()
            if steps > plan.experiments[0].num_steps:
                raise error
            return torch.nn.functional.mse_loss(prediction, target)

        folder = StudyFolder(tmp_path)
        plan, recipe = planned(tmp_path)
        broken = replace(recipe, loss=fail)
        stops = pytest.warns(StudyWarning, match="3 runs in a row failed alike")
        with stops if num_runs < len(plan) else nullcontext():
            runs = train_plan(
                plan, folder, Inline(torch_trainer(broken, folder), folder), Unwatched()
            )
        assert [run.status for run in runs] == ["completed", *["failed"] * (num_runs - 1)]
        mended = Inline(torch_trainer(recipe, folder), folder)
        again = train_plan(plan, folder, mended, Unwatched())
        assert [run.status for run in again] == ["completed"] * len(plan)


@contextmanager
def full_disk(largest_file):
    """No file can grow beyond so many bytes: writing more fails as on a full disk.

    Over before the test ends, since pytest may write its own output to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class TestDisk:
    def test_a_file_that_cannot_be_written_leaves_the_old_one(self, tmp_path):
        write_json(tmp_path / "a.json", {"old": 1})
        says = r"a.json can't be written .*what was there before"
        with full_disk(100), pytest.raises(StudyError, match=says):
            write_json(tmp_path / "a.json", {"new": "x" * 1000})
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
        assert "old" in (tmp_path / "a.json").read_text()

    def test_a_full_disk_ends_the_sweep_and_a_rerun_goes_on(self, tmp_path):
        folder = StudyFolder(tmp_path)
        plan, recipe = planned(tmp_path)
        trainer = torch_trainer(recipe, folder)

        with ExitStack() as stack:

            class FillAfterTwo(Unwatched):
                ended = 0

                def finished(self, run):
                    self.ended += 1
                    if self.ended == 2:
                        stack.enter_context(full_disk(100))

            with pytest.raises(StudyError, match=r"result.json can't be written"):
                train_plan(plan, folder, Inline(trainer, folder), FillAfterTwo())
        kept, problems = folder.runs_of(plan)
        assert (len(kept), problems) == (2, [])
        runs = train_plan(plan, folder, Inline(trainer, folder), Unwatched())
        assert runs[:2] == kept
        assert all(run.is_completed for run in runs)

    def test_a_run_goes_on_without_its_checkpoint(self, tmp_path):
        plan, recipe = planned(tmp_path / "whole")
        whole = train(plan.experiments[0], recipe, tmp_path / "whole", Unwatched())
        _, recipe = planned(tmp_path / "full", checkpoint_seconds=0.0)
        with warnings.catch_warnings(record=True) as caught, full_disk(4000):
            warnings.simplefilter("always")
            run = train(plan.experiments[0], recipe, tmp_path / "full", Unwatched())
        said = [str(warning.message) for warning in caught]
        assert "goes on without a checkpoint at step 1:" in said[0]
        assert "goes on without its curve at step 83:" in said[-1]
        assert outcome(run) == outcome(whole)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_20_kills_at_random_moments_change_no_result(tmp_path):
    """Each child is killed (-9) between checkpoints, in them, or while a result is written."""
    train_small_study(tmp_path / "whole", checkpoint_seconds=30.0)
    script = [sys.executable, str(Path(__file__).with_name("killed_training.py"))]
    words = [str(tmp_path / "killed"), "25", "0"]
    ended = subprocess.run([*script, *words], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) >= 20
    plan = StudyFolder(tmp_path / "whole").read_plan()
    whole, _ = StudyFolder(tmp_path / "whole").runs_of(plan)
    killed, unreadable = StudyFolder(tmp_path / "killed").runs_of(plan)
    assert list(map(outcome, killed)) == list(map(outcome, whole))
    assert len(killed) == len(plan)
    assert unreadable == []
