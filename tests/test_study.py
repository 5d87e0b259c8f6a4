import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_study import (
    IN_FEATURES,
    Net,
    WatchedLoss,
    outcome,
    planned,
    rows,
    small_spec,
    small_sweep,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flops_fit import find_optimal
from flops_fit.datasets import Text, Toy
from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError, PlanError, StudyError, StudyWarning
from flops_fit.fitting import Refusal
from flops_fit.learning.schedules import WSD, Cosine
from flops_fit.plan.flops import CountedFlops
from flops_fit.plan.run import ended_run
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.study.fits import FittedStudy
from flops_fit.study.runs import Runs
from flops_fit.study.study import Study
from flops_fit.training.devices import choose_device, choose_precision
from flops_fit.training.kernels import KernelPlan
from flops_fit.training.spec import plan_study, sweep_for, torch_trainer

HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


class Watching(Unwatched):
    """Keeps the runs that finish; may do something after each."""

    def __init__(self, after=lambda run: None):
        super().__init__()
        self.runs = []
        self.after = after

    def finished(self, run):
        self.runs.append(run)
        self.after(run)


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "study")


@pytest.fixture
def continued(folder):
    """Trains what is missing of the small study; returns its runs and the steps this took."""

    def run(watcher=None, at=None, act=None, retry=(), **changes):
        plan, recipe = planned(folder.path, **changes)
        folder.pin(torch_trainer(recipe, folder).pins)
        loss = WatchedLoss(at, act) if act else WatchedLoss()
        execute = Inline(torch_trainer(replace(recipe, loss=loss), folder), folder)
        runs = train_plan(plan, folder, execute, watcher or Watching(), retry)
        return runs, len(loss.values)

    return run


@pytest.fixture
def whole(tmp_path):
    """The small study trained without a break, in a folder of its own."""
    elsewhere = StudyFolder(tmp_path / "whole")
    plan, recipe = planned(elsewhere.path)
    return train_plan(
        plan, elsewhere, Inline(torch_trainer(recipe, elsewhere), elsewhere), Unwatched()
    )


def total_steps(runs):
    return sum(run.num_steps for run in runs)


def result_path(folder, run):
    return folder.run_folder(run.id) / "result.json"


class TestTraining:
    def test_every_experiment_is_trained_as_planned_and_kept(self, folder, continued):
        watcher = Watching()
        runs, steps = continued(watcher)
        plan = folder.read_plan()
        assert [run.id for run in runs] == [e.id for e in plan.experiments]
        assert [run.num_tokens for run in runs] == [e.num_tokens for e in plan.experiments]
        assert steps == sum(e.num_steps for e in plan.experiments)
        assert all(run.is_completed for run in runs)
        assert watcher.runs == runs == [folder.read_run(run.id) for run in runs]
        assert folder.missing(plan) == []

    def test_nothing_is_left_lying_about(self, folder, continued):
        runs, _ = continued()
        files = {path.name for path in folder.run_folder(runs[0].id).iterdir()}
        assert files - {".lock"} == {"result.json", "metrics.jsonl"}

    def test_a_second_call_trains_nothing(self, continued):
        runs, _ = continued()
        assert continued() == (runs, 0)

    def test_a_result_that_is_gone_is_trained_again_and_only_that(self, folder, continued):
        runs, _ = continued()
        result_path(folder, runs[2]).unlink()
        again, steps = continued()
        assert steps == runs[2].num_steps
        assert list(map(outcome, again)) == list(map(outcome, runs))

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: text[: len(text) // 2],
            lambda text: "",
            lambda text: json.dumps({**json.loads(text), "loss": None, "checksum": None}),
            lambda text: json.dumps({**json.loads(text), "schema_version": 0, "checksum": None}),
        ],
    )
    def test_a_result_that_cannot_be_true_is_trained_again(self, folder, continued, spoil):
        runs, _ = continued()
        path = result_path(folder, runs[1])
        path.write_text(spoil(path.read_text()))
        again, steps = continued()
        assert steps == runs[1].num_steps
        assert list(map(outcome, again)) == list(map(outcome, runs))

    def test_divergence_is_final_unless_tried_again(self, folder, continued):
        runs, _ = continued(at=30, act=lambda loss: loss * torch.nan)
        statuses = ["diverged", *["completed"] * 5]
        assert [run.status for run in runs] == statuses
        again, steps = continued()
        assert ([run.status for run in again], steps) == (statuses, 0)
        again, steps = continued(retry=["diverged"])
        assert [run.status for run in again] == ["completed"] * 6
        assert steps == again[0].num_steps

    def test_divergence_that_stays_is_tried_once(self, continued):
        for retry in ([], ["diverged"]):
            runs, _ = continued(
                optimizer=partial(torch.optim.SGD, lr=1e9), sweep=small_sweep(budgets=(2e5,))
            )
            assert [run.status for run in runs] == ["diverged"] * 3, retry

    def test_a_failing_run_is_told_and_the_sweep_goes_on(self, folder, continued):
        def fail(loss):
            raise LookupError("no such token")

        runs, _ = continued(at=100, act=fail)  # in the second run
        assert [run.status for run in runs] == ["completed", "failed", *["completed"] * 4]
        assert runs[1].error == "LookupError: no such token"
        assert runs[1].loss is None
        told = folder.run_folder(runs[1].id) / "error.txt"
        assert "Traceback" in told.read_text()
        assert 'raise LookupError("no such token")' in told.read_text()

        again, steps = continued()
        assert [run.status for run in again] == ["completed"] * 6
        assert steps == again[1].num_steps
        assert not told.exists()

    def test_a_stopped_sweep_goes_on_where_it_was(self, continued, whole):
        for at in (50, 60, 200):
            watcher = Watching()

            def stop(loss, watcher=watcher):
                watcher.stop_requested = True
                return loss

            with pytest.raises(KeyboardInterrupt):
                continued(watcher, at=at, act=stop)
        runs, steps = continued()
        assert list(map(outcome, runs)) == list(map(outcome, whole))
        assert steps == total_steps(whole) - 50 - 60 - 200

    def test_a_spoilt_checkpoint_is_set_aside_and_its_run_begins_anew(self, folder, continued):
        plan, _ = planned(folder.path)
        checkpoint = folder.run_folder(plan.experiments[0].id) / "checkpoint.pt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"half a file")
        with pytest.warns(StudyWarning, match=r"checkpoint.pt can't be used .* set aside as"):
            runs, _ = continued()
        assert [run.status for run in runs] == ["completed"] * 6
        assert (checkpoint.parent / "checkpoint.pt.unusable-1").read_bytes() == b"half a file"
        shutil.rmtree(folder.path)
        assert list(map(outcome, continued()[0])) == list(map(outcome, runs))


class TestSweepsThatGrow:
    def test_another_budget_trains_only_what_is_new(self, continued):
        runs, _ = continued()
        more, steps = continued(sweep=small_sweep(budgets=(1e5, 2e5, 4e5)))
        assert more[3:] == runs
        assert steps == total_steps(more[:3])

    def test_the_plan_trained_last_is_in_force_and_the_first_kept(self, folder, continued):
        continued()
        first = folder.read_plan()
        more, _ = continued(sweep=small_sweep(budgets=(2e5, 4e5, 8e5)))
        assert [e.id for e in folder.read_plan().experiments] == [run.id for run in more]
        assert (folder.plan_folder(first) / "plan.json").exists()

    def test_what_was_pinned_at_the_first_training_holds(self, folder, continued):
        runs, _ = continued(precision="bf16")
        held_out = runs[0].held_out_samples
        plan, recipe = planned(folder.path, sweep=small_sweep(budgets=(1e5, 2e5, 4e5)))
        assert recipe.precision == "bf16"
        assert recipe.held_out_samples == held_out
        assert {run.id for run in runs} < {e.id for e in plan.experiments}

    def test_other_kernels_than_the_pinned_ones_are_said_not_to_be_used(self, folder, continued):
        continued(kernels=KernelPlan("default", "fused"))
        said, unsaid = (
            " ".join(planned(folder.path, kernels=KernelPlan("default", attention))[0].notes)
            for attention in ("blocks", "fused")
        )
        assert "keeps {'matmul': 'default', 'attention': 'fused'} of its first training" in said
        assert "kernels" not in unsaid

    def test_planning_writes_nothing(self, folder):
        planned(folder.path)
        assert not folder.path.exists()


@pytest.fixture
def hold_lock():
    """Starts a process that holds a lock; gives what frees it."""
    holders = []

    def hold(lock):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD_LOCK, lock.lock_file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        assert holder.stdout.readline() == "locked\n"
        return holder

    yield hold
    for holder in holders:
        with holder:
            holder.kill()


class TestTwoProcesses:
    def test_what_another_one_trains_is_left_to_it(self, folder, hold_lock):
        plan, recipe = planned(folder.path)
        hold_lock(folder.lock(plan.experiments[1].id))
        runs = Inline(torch_trainer(recipe, folder), folder)(chains(plan.experiments), Unwatched())
        assert [run.id for run in runs] == [e.id for i, e in enumerate(plan.experiments) if i != 1]
        assert folder.missing(plan) == [plan.experiments[1]]

    def test_a_run_whose_holder_dies_is_trained_here(self, folder, continued, hold_lock):
        plan, _ = planned(folder.path)
        holder = hold_lock(folder.lock(plan.experiments[0].id))

        def kill_at_last(run):
            if run.id == plan.experiments[-1].id:
                holder.kill()
                holder.wait()

        runs, steps = continued(Watching(kill_at_last))
        assert all(run.is_completed for run in runs)
        assert steps == total_steps(runs)

    def test_a_run_that_another_one_finishes_is_waited_for(
        self, folder, continued, hold_lock, whole
    ):
        """Its result appears while the lock is held."""
        plan, _ = planned(folder.path)
        lock = folder.lock(plan.experiments[0].id)
        holder = hold_lock(lock)

        def finish_at_last(run):
            if run.id == plan.experiments[-1].id:
                folder.write_run(whole[0])
                holder.kill()
                holder.wait()

        runs, steps = continued(Watching(finish_at_last))
        assert runs[0] == whole[0]
        assert steps == total_steps(runs[1:])

    def test_a_run_finished_since_the_list_was_made_is_not_trained_twice(self, folder, continued):
        plan, recipe = planned(folder.path)
        runs, _ = continued()
        loss = WatchedLoss()
        again = Inline(torch_trainer(replace(recipe, loss=loss), folder), folder)(
            chains(plan.experiments), Watching()
        )
        assert (again, loss.values) == (runs, [])


X, Y = rows(400)


def ids_of(folder=".", **changes):
    """Of the plan that `find_optimal` makes."""
    arguments = {
        "model_cls": Net,
        "model_size_param": "width",
        "compute_budgets": [1e8],
        "dataset": (X, Y),
        "loss_fn": F.mse_loss,
        "epochs": 1e6,
        "min_steps": 10,
        "max_size": 64,
        "num_sizes": 3,
        "span": 4,
        "device": "cpu",
        "output_dir": folder,
        "train": False,
    }
    plan = find_optimal(**{**arguments, **changes})
    return [e.id for e in plan.experiments]


class AnotherNet(Net):
    """Its size and count are those of Net."""


class TestIds:
    @pytest.mark.parametrize(
        "changes",
        [
            {"learning_rate": 0.1},
            {"batch_size": 32},
            {"seed": 1},
            {"precision": "bf16"},
            {"optimizer_cls": torch.optim.SGD},
            {"model_cls": AnotherNet},
            {"loss_fn": F.l1_loss},
            {"schedule": WSD()},
            {"schedule": WSD(cooldown_fraction=0.5)},
            {"loss_fn": nn.MSELoss()},
            {"model_kwargs": {"dropout": 0.2}},
            {"held_out": 0.2},
            {"dataset": (X, Y + 1)},
            {"dataset": (X, Y.where(torch.arange(400)[:, None] != 77, 9.0))},
            {"dataset": Toy(dim=IN_FEATURES, num_waves=16)},
        ],
    )
    def test_change_with_all_that_decides_the_loss(self, tmp_path, changes):
        assert not set(ids_of(tmp_path, **changes)) & set(ids_of(tmp_path))

    @pytest.mark.parametrize(
        "changes",
        [
            {"folder": "elsewhere"},
            {"device": "auto"},
            {"precision": "fp32"},
            {"compute_budgets": [100_000_000]},
            {"dataset": (X.clone(), Y.clone())},
        ],
    )
    def test_stay_whatever_the_path_the_device_and_the_spelling(self, changes, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert ids_of(**changes) == ids_of()

    def test_stay_with_the_content_of_files_wherever_they_lie(self, tmp_path):
        def ids(name, extra=""):
            (tmp_path / name).mkdir()
            for i in range(20):
                (tmp_path / name / f"{i}.txt").write_text(f"{i}{extra} said the cat. " * 100)
            text = Text(str(tmp_path / name / "*.txt"), context_length=IN_FEATURES, held_out=0.2)
            return ids_of(model_cls=ByteModel, loss_fn=byte_loss, dataset=text)

        assert ids("here") == ids("there")
        assert not set(ids("changed", extra="!")) & set(ids("again"))


class ByteModel(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(256, width), nn.Linear(width, 256))

    def forward(self, ids):
        return self.layers(ids)


def byte_loss(logits, target):
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class TestPlanning:
    def test_c_is_6nd_unless_the_model_counts_its_own(self, tmp_path):
        class Counting(Net):
            def flops_per_token(self):
                return 1000.0

        plain, _ = planned(tmp_path)
        assert all(e.flops_per_token == 6 * e.num_params for e in plain.experiments)
        own, _ = planned(tmp_path, factory=Counting)
        assert {e.flops_per_token for e in own.experiments} == {1000.0}
        counted, _ = planned(tmp_path, flops=CountedFlops())
        assert [e.flops_per_token for e in counted.experiments[:3]] == [
            4 * IN_FEATURES * width + 6 * width for width in (4, 8, 16)
        ]

    def test_the_batch_of_a_data_loader_is_the_run_s(self):
        loader = as_source(DataLoader(TensorDataset(*rows()), batch_size=24))
        assert sweep_for(small_sweep(batch_size=16), loader).batch_size == 24
        assert sweep_for(small_sweep(batch_size=16), as_source(rows())).batch_size == 16

    def test_more_held_out_samples_than_there_are_is_said_before_training(self, tmp_path):
        with pytest.raises(ConfigError, match="held_out_samples is 100, the data hold out 64"):
            planned(tmp_path, held_out_samples=100)

    def test_a_size_of_no_effect_is_said_before_training(self, tmp_path):
        class Fixed(Net):
            def __init__(self, width):
                super().__init__(8)

        with pytest.raises(PlanError, match="'width' doesn't change"):
            planned(tmp_path, factory=Fixed)

    def test_checking_and_planning_draw_no_random_numbers(self, tmp_path):
        state = torch.random.get_rng_state()
        planned(tmp_path)
        assert torch.equal(torch.random.get_rng_state(), state)


HINTS = {
    "model": "conf/model/net.yaml",
    "optimizer": "conf/optimizer/mine.yaml sets optimizer.lr=x",
    "schedule": "conf/schedule/mine.yaml",
    "metrics.off": "conf/metrics/mine.yaml",
}


class RatelessSGD(torch.optim.SGD):
    def __init__(self, groups):
        super().__init__(groups)
        for group in self.param_groups:
            del group["lr"]


def float_mse(prediction, target):
    return F.mse_loss(prediction, target.float())


class TestWhatDoesNotFit:
    def fails(self, tmp_path, **changes):
        spec = small_spec(hints=HINTS, **changes)
        with pytest.raises(ConfigError) as caught:
            plan_study(spec, StudyFolder(tmp_path))
        return str(caught.value)

    def test_inputs_of_another_shape(self, tmp_path):
        message = self.fails(tmp_path, source=Toy(dim=7, num_waves=4))
        assert "width=1) can't take a batch" in message
        assert "input (16, 7) float32, target (16, 1) float32" in message
        assert "conf/model/net.yaml" in message

    def test_a_loss_for_something_else(self, tmp_path):
        message = self.fails(tmp_path, loss=F.cross_entropy, source=as_source((X, torch.ones(400))))
        assert "loss can't compare the model's output (16, 1) float32" in message
        assert "target (16,) float32" in message

    def test_a_loss_for_each_sample(self, tmp_path):
        message = self.fails(tmp_path, loss=nn.MSELoss(reduction="none"))
        assert "the loss returns a tensor (16, 1) float32, expected one number" in message

    def test_a_loss_that_is_no_tensor(self, tmp_path):
        message = self.fails(tmp_path, loss=lambda p, t: float(F.mse_loss(p, t).detach()))
        assert "the loss returns float, expected one number" in message

    def test_a_loss_apart_from_the_model(self, tmp_path):
        message = self.fails(tmp_path, loss=lambda p, t: F.mse_loss(p.detach(), t))
        assert "doesn't depend on the model's parameters" in message

    @pytest.mark.parametrize(
        ("optimizer", "said"),
        [
            (partial(torch.optim.AdamW, lr="fast"), "AdamW(lr='fast') can't be built for the mod"),
            (partial(torch.optim.SGD, lr=-1.0), "SGD(lr=-1.0) can't be built"),
            (partial(torch.optim.SGD, lr=0.1, momentum="much"), "momentum='much') can't be built"),
            (partial(torch.optim.SGD, lr=math.inf), "SGD(lr=inf) has the learning rate inf"),
            (partial(torch.optim.SGD, lr=0.0), "the learning rate 0: it must be finite and above"),
            (lambda groups: None, "gives NoneType, expected a torch.optim.Optimizer"),
            (RatelessSGD, "RatelessSGD has no learning rate `lr` in its first group"),
        ],
    )
    def test_an_optimizer_that_cannot_be(self, tmp_path, optimizer, said):
        message = self.fails(tmp_path, optimizer=optimizer)
        assert said in message
        assert message.endswith("\n  conf/optimizer/mine.yaml sets optimizer.lr=x")

    @pytest.mark.parametrize(
        ("schedule", "said"),
        [
            (lambda progress: "high", "after 1% of a run no factor that is a number: TypeError"),
            (lambda progress: 1 / (1 - progress), "after 100% of a run no factor.*ZeroDivision"),
            (lambda progress: math.nan, "after 1% of a run the factor nan: it must be a finite"),
            (Cosine, "no factor that is a number"),
        ],
    )
    def test_a_schedule_that_gives_no_factor(self, tmp_path, schedule, said):
        message = self.fails(tmp_path, schedule=schedule)
        assert re.search(said, message)
        assert message.endswith("\n  conf/schedule/mine.yaml")

    @pytest.mark.parametrize(
        ("metric", "said"),
        [
            (nn.L1Loss(reduction="none"), "metric off returns a tensor (16, 1) float32, expected"),
            (lambda p, t: "good", "metric off returns str, expected one number"),
            (F.cross_entropy, "metric off can't compare the model's output (16, 1) float32"),
        ],
    )
    def test_a_metric_that_measures_nothing(self, tmp_path, metric, said):
        source = as_source((X, torch.ones(400, 1, dtype=torch.long)))
        message = self.fails(tmp_path, source=source, loss=float_mse, metrics={"off": metric})
        assert said in message
        assert message.endswith("\n  conf/metrics/mine.yaml")

    def test_metrics_of_other_kinds_of_numbers_do(self, tmp_path):
        kinds = (float, lambda loss: loss.reshape(1), lambda loss: loss.numpy())
        metrics = {
            str(i): lambda p, t, as_=as_: as_(F.l1_loss(p, t)) for i, as_ in enumerate(kinds)
        }
        planned(tmp_path, metrics=metrics)

    @pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
    def test_a_device_that_is_not_there(self, name):
        with pytest.raises(ConfigError, match=f"device '{name}' can't be used here"):
            choose_device(name)

    def test_a_precision_that_is_not_known(self):
        with pytest.raises(ConfigError, match="precision is 'fp8': use auto, fp32, bf16 or fp16"):
            choose_precision("fp8", torch.device("cpu"))


def test_a_study_without_a_law_says_why(folder):
    plan, _ = planned(folder.path)
    runs = tuple(ended_run(e, "failed", "no luck") for e in plan.experiments)
    study = Study(FittedStudy(folder, plan, Runs(runs), None, Refusal("0 runs are done")))
    assert (len(study), list(study)) == (6, list(runs))
    with pytest.raises(StudyError, match="no law to predict with: 0 runs are done"):
        study.predict(1e9)
