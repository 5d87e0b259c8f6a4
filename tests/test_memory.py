"""What steps need of memory, told without taking any: counted by hand, measured, and planned by."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_study import Net, planned, small_sweep
from torch import nn

from flops_fit.learning.losses import cross_entropy
from flops_fit.learning.optimizers import Muon
from flops_fit.models.transformer import Transformer
from flops_fit.plan.experiment import Experiment
from flops_fit.training import memory
from flops_fit.training.checks import check_fit
from flops_fit.training.dry_step import CUBLAS_WORKSPACE, Parts, dry_step
from flops_fit.training.memory import (
    available_bytes,
    estimated_step_bytes,
    fit_of,
    fits_of,
    fitted,
)
from flops_fit.training.state import TrainingState, seeded
from flops_fit.training.steps import train_step
from flops_fit.training.timing import step_times

GIB = 2**30


class TwoLayers(nn.Module):
    def __init__(self, width, inputs=3):
        super().__init__()
        self.up = nn.Linear(inputs, width, bias=False)
        self.down = nn.Linear(width, 1, bias=False)

    def forward(self, x):
        return self.down(self.up(x).relu())


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.1)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=0.1, fused=True)


def parts(model, batch, **changes):
    defaults = {"loss": F.mse_loss, "optimizer": sgd, "device": "cpu", "precision": "fp32"}
    return Parts(build=model, batch=batch, **{**defaults, **changes})


def rows_of(samples, inputs=3):
    return torch.empty(samples, inputs, device="meta"), torch.empty(samples, 1, device="meta")


class TestByHand:
    """An MLP whose every tensor can be counted: w = width, n = samples."""

    def test_parameters_and_state_are_kept(self):
        step = dry_step(parts(lambda: TwoLayers(100), rows_of(8), optimizer=adamw))
        params, batch = 4 * (3 * 100 + 100), 4 * (8 * 3 + 8)
        counters = 2 * 4  # AdamW's count of steps, one for each tensor
        assert step.kept_bytes == 3 * params + batch + counters

    def test_the_peak_is_in_the_backward_pass(self):
        w, n = 100, 1000
        step = dry_step(parts(lambda: TwoLayers(w), rows_of(n)))
        kept = 4 * (3 * w + w) + 4 * (3 * n + n)
        hidden = 4 * n * w
        # The activation that relu keeps, and its gradient before and behind relu; small beside
        # them: output and its gradient (n numbers each) and the gradients of the weights.
        assert kept + 3 * hidden <= step.peak_bytes <= kept + 3 * hidden + 4 * (3 * n + 4 * w) + 64

    def test_gradients_of_other_parts_count(self):
        alone = dry_step(parts(lambda: TwoLayers(5000), rows_of(2)))
        beside = dry_step(parts(lambda: TwoLayers(5000), rows_of(2), accumulates=True))
        gradients = 4 * 4 * 5000
        assert 0.5 * gradients < beside.peak_bytes - alone.peak_bytes <= gradients

    def test_autocast_keeps_half(self):
        w, n = 512, 4096
        fp32 = dry_step(parts(lambda: TwoLayers(w), rows_of(n), device="cuda"))
        bf16 = dry_step(parts(lambda: TwoLayers(w), rows_of(n), device="cuda", precision="bf16"))
        share = (bf16.peak_bytes - CUBLAS_WORKSPACE) / (fp32.peak_bytes - CUBLAS_WORKSPACE)
        assert 0.45 < share < 0.6

    def test_products_are_counted(self):
        step = dry_step(parts(lambda: TwoLayers(64), rows_of(16)))
        flops = sum(kernel.flops * count for kernel, count in step.part_kernels.items())
        forward = 2 * 16 * (3 * 64 + 64)
        assert flops == 3 * forward - 2 * 16 * 3 * 64  # the input has no gradient

    @pytest.mark.parametrize("more", [{"fused": True}, {"fused": True, "capturable": True}, {}])
    def test_any_adamw_keeps_as_much(self, more):
        def optimizer(groups):
            return torch.optim.AdamW(groups, lr=0.1, **more)

        model = lambda: TwoLayers(1000)  # noqa: E731
        step = dry_step(parts(model, rows_of(2), optimizer=optimizer, device="cuda"))
        params = 4 * 4 * 1000
        assert step.kept_bytes == 3 * params + 4 * 2 * 4 + 2 * 4
        temporaries = 0 if more else params  # of all tensors at once
        assert step.peak_bytes - CUBLAS_WORKSPACE >= 4 * params + temporaries

    def test_muon(self):
        ids = torch.empty(2, 8, dtype=torch.int64, device="meta")
        model = partial(Transformer, 16, 64, 8, depth=1)
        step = dry_step(parts(model, (ids, ids), loss=cross_entropy, optimizer=Muon))
        matrices, others = 12 * 16 * 16, 2 * 64 * 16
        rotary = 2 * 8 * 4  # cosine and sine of 8 positions, for half of a head of 8
        assert step.kept_bytes == 4 * (2 * matrices + 3 * others + rotary) + 16 * 8 + 2 * 4

    def test_a_shared_weight_counts_once(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(1000, 64)
                self.head = nn.Linear(64, 1000, bias=False)
                self.head.weight = self.embedding.weight

            def forward(self, x):
                return self.head(self.embedding(x)).flatten(0, 1)

        ids = torch.empty(2, 4, dtype=torch.int64, device="meta")
        loss = lambda p, y: F.cross_entropy(p, y.flatten())  # noqa: E731
        step = dry_step(parts(Tied, (ids, ids), loss=loss))
        assert step.kept_bytes == 4 * 1000 * 64 + 2 * 4 * 8

    def test_inputs_by_name(self):
        class Named(TwoLayers):
            def forward(self, a, b):
                return super().forward(a + b)

        x, y = rows_of(8)
        step = dry_step(parts(lambda: Named(100), ({"a": x, "b": x}, y)))
        assert step.kept_bytes == 4 * 400 + 4 * (2 * 3 * 8 + 8)

    def test_torch_cannot_be_made_to_allocate(self):
        """64 GB of weights, 256 GB with what AdamW keeps of them."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step = dry_step(parts(lambda: TwoLayers(4 * GIB, 3), rows_of(1), optimizer=adamw))
        assert step.kept_bytes > 190 * GIB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.slow
def test_estimates_are_within_15_percent_of_what_is_measured():
    """Ten steps of mlp, transformer and vit, in fp32 and bf16: the script ends with 1 if not."""
    script = Path(__file__).parent.parent / "scripts/check_memory.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n") == 12


class Reads(Net):
    """Asks for a value of its input, which isn't there."""

    def forward(self, x):
        return super().forward(x) * (1 if x.is_meta or float(x.sum()) < 1e9 else 2)


def first(tmp_path, **changes) -> tuple[Experiment, object]:
    plan, recipe = planned(tmp_path, **changes)
    return plan.experiments[-1], recipe


class TestFit:
    def test_the_whole_batch_where_it_fits(self, tmp_path):
        experiment, recipe = first(tmp_path)
        fit = fit_of(experiment, recipe, 10**8)
        assert (fit.fits, fit.micro_batch_size, fit.unknown) == (True, None, None)

    def test_a_part_where_it_does_not(self, tmp_path):
        experiment, recipe = first(tmp_path)
        whole = estimated_step_bytes(experiment, recipe)
        few = estimated_step_bytes(experiment, recipe, 2)
        assert few < whole
        there = int((0.4 * few + 0.6 * whole) / memory.USABLE_SHARE)
        fit = fit_of(experiment, recipe, there)
        assert fit.fits
        assert 1 <= fit.micro_batch_size <= experiment.batch_size // 2
        exact = estimated_step_bytes(experiment, recipe, fit.micro_batch_size)
        assert exact <= fit.needed + 64 <= memory.USABLE_SHARE * there + 64

    def test_nothing_where_the_parameters_are_too_many(self, tmp_path):
        experiment, recipe = first(tmp_path)
        fit = fit_of(experiment, recipe, 1000)
        assert not fit.fits
        assert fit.needed > 1000
        assert fit.micro_batch_size == 1

    def test_a_micro_batch_that_is_set_is_kept(self, tmp_path):
        experiment, recipe = first(tmp_path, micro_batch_size=8)
        assert fit_of(experiment, recipe, 10**8).micro_batch_size == 8
        assert fit_of(experiment, recipe, 1000).micro_batch_size == 8

    def test_what_cannot_be_told_is_said(self, tmp_path):
        experiment, recipe = first(tmp_path, factory=Reads)
        assert estimated_step_bytes(experiment, recipe) is None
        experiment = replace(experiment, flops_per_token_counted=None)
        fit = fit_of(experiment, recipe, 10**9)
        assert fit.fits
        assert fit.needed is None
        assert "DataDependent" in fit.unknown
        assert not fit_of(experiment, recipe, 1000).fits

    def test_sizes_below_one_that_fits_are_not_looked_at(self, tmp_path):
        plan, recipe = planned(tmp_path)
        assert [f.experiment.size.value for f in fits_of(plan.experiments, recipe, GIB)] == [16]
        sizes = [f.experiment.size.value for f in fits_of(plan.experiments, recipe, 1000)]
        assert sizes == [16, 8, 4]


class Counted(Net):
    """Tells when one of 16 units is made with numbers, or run with them."""

    made: list[str] = []  # noqa: RUF012

    def __init__(self, width):
        super().__init__(width)
        if width == 16 and self.layers[0].weight.device.type != "meta" and not is_fake(self):
            self.made.append(f"{width}")


def is_fake(model):
    return type(next(model.parameters())).__name__ == "FakeTensor"


class TestNothingIsRunThatDoesNotFit:
    def test_steps_are_not_timed(self, tmp_path, monkeypatch):
        plan, recipe = planned(tmp_path, factory=Counted, sweep=small_sweep())
        Counted.made.clear()
        few = fit_of(plan.experiments[-1], recipe, 1000).needed
        small = plan.experiments[0]
        assert small.size.value == 4
        there = int((estimated_step_bytes(small, recipe) + few) / 2 / memory.USABLE_SHARE)
        monkeypatch.setattr(memory, "free_main_memory", lambda: there)
        seconds = step_times(plan.experiments, recipe, threads=1)
        assert Counted.made == []
        assert all(0 < seconds(e) < 10 for e in plan.experiments)
        monkeypatch.undo()
        step_times(plan.experiments, recipe, threads=1)
        assert Counted.made == ["16"]

    def test_parts_are_checked_by_shapes_alone(self, tmp_path, monkeypatch):
        monkeypatch.setattr(memory, "free_main_memory", lambda: 1000)
        _, recipe = planned(tmp_path, factory=Counted, sweep=small_sweep(sizes=(16,)))
        monkeypatch.undo()
        check_fit(recipe, 16)


LIMITED = """
import resource, sys
import torch
from flops_fit.cli import main
import flops_fit.training.spec, flops_fit.training.trainer, torch._dynamo, sympy
torch.set_num_threads(1)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 1200 * 2**20,) * 2)
sys.exit(main(sys.argv[1:]))
"""

LARGE = [
    "plan", "model=mlp", "dataset=toy", "budgets=[1e17]", "sizes=[64,12288]", "batch_size=4096",
    "max_epochs=1e12", "device=cpu", "precision=fp32", "json=true", "workers=1", "study=large",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are Linux's")
def test_a_plan_of_a_model_that_does_not_fit_takes_no_memory(tmp_path):
    """302M parameters, 1.2 GB, and 4.8 with AdamW: 1.2 GB are allowed."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *LARGE, f"output_root={tmp_path}"],
        capture_output=True, text=True, timeout=300,
        env={"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    estimate = json.loads(done.stdout)["estimate"]
    largest = estimate["memory"][0]
    assert largest["size"] == "width 12288"
    assert not largest["fits"]
    assert largest["needed_bytes"] > 4.8e9 > largest["available_bytes"]
    assert "width 12288 (302M parameters) doesn't fit here" in done.stderr
    assert estimate["seconds"] > 1e4


class TestAvailable:
    def test_is_some_and_no_more_than_there_is(self):
        there = available_bytes(torch.device("cpu"))
        assert 1e7 < there < 1e14

    def test_is_shared_by_processes(self):
        one, four = (available_bytes(torch.device("cpu"), n) for n in (1, 4))
        assert 4 * four < one

    def test_is_within_the_limits_of_control_groups(self, tmp_path, monkeypatch):
        folder = tmp_path / "job"
        folder.mkdir()
        (folder / "memory.max").write_text("3000000\n")
        (folder / "memory.current").write_text("2000000\n")
        (folder / "memory.stat").write_text("inactive_file 400000\nactive_file 100000\n")
        names = ("memory.max", "memory.current")
        monkeypatch.setattr(memory, "_memory_groups", lambda: [(folder, *names)])
        assert memory.free_main_memory() == 1_500_000

    def test_is_within_the_limit_of_the_process(self):
        code = (
            "import resource; from flops_fit.training.memory import free_main_memory as free;"
            "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
            "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, taken + 2**28));"
            "print(free())"
        )
        if sys.platform != "linux":
            pytest.skip("limits on memory are Linux's")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert 0.9 * 2**28 < int(done.stdout) <= 2**28


class TestFitted:
    def test_is_the_same_where_the_batch_fits(self, tmp_path):
        experiment, recipe = first(tmp_path)
        assert fitted(recipe, experiment) is recipe
        given = replace(recipe, micro_batch_size=4)
        assert fitted(given, experiment) is given

    def test_trains_in_parts_to_the_same_loss_where_it_does_not(self, tmp_path, monkeypatch):
        experiment, recipe = first(tmp_path, factory=partial(Net, dropout=0.0))
        few, whole = (estimated_step_bytes(experiment, recipe, n) for n in (2, None))
        there = int((few + whole) / 2 / memory.USABLE_SHARE)
        monkeypatch.setattr(memory, "free_main_memory", lambda: there)
        parted = fitted(recipe, experiment)
        assert parted.micro_batch_size in (2, 4, 8)
        losses = []
        for each in (recipe, parted):
            with seeded(0):
                state = TrainingState.start(experiment, each)
                for batch in islice(each.source.training_batches(16, seed=0), 5):
                    train_step(batch, 1.0, each, state)
            losses.append(state.losses[:5])
        torch.testing.assert_close(*losses)

    def test_looking_leaves_random_numbers_alone(self, tmp_path):
        experiment, recipe = first(tmp_path)
        before = torch.random.get_rng_state()
        fit_of(experiment, recipe, 10**8)
        assert torch.equal(torch.random.get_rng_state(), before)
