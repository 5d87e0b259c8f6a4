"""Steps from static tensors, and several runs in turns: what a GPU does, tried on a CPU."""

import pytest
import torch
from small_study import outcome, planned, rows
from torch import nn

from flops_fit.datasets import Toy
from flops_fit.datasets.adapters import as_source
from flops_fit.datasets.source import shuffled_batches
from flops_fit.datasets.tokens import ShardedWindows, Windows
from flops_fit.learning.losses import mse
from flops_fit.learning.optimizers import Muon, step_by_tensor_rates
from flops_fit.plan.run import Status
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import Inline, SideBySide
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.feed import BLOCK_STEPS, device_data
from flops_fit.training.host_state import HostState
from flops_fit.training.program import BlockSteps, OneRun, why_not_captured
from flops_fit.training.state import Draws, Trunks, seeded
from flops_fit.training.trainer import TorchTrainer, TrainingTurns, pieces_of, train

CPU = torch.device("cpu")


@pytest.fixture
def in_blocks(monkeypatch):
    """Let training on this CPU go through the program that a GPU has, uncaptured."""
    monkeypatch.setattr(
        "flops_fit.training.trainer.steps_of",
        lambda *of_run: BlockSteps(OneRun(*of_run), captures=False),
    )


class TestBlocks:
    @pytest.mark.parametrize(
        "changes", [{}, {"micro_batch_size": 5}, {"clip_grad_norm": 0.2}, {"precision": "bf16"}]
    )
    def test_the_program_computes_what_single_calls_do(self, tmp_path, monkeypatch, changes):
        plan, recipe = planned(tmp_path / "plan", **changes)
        called = train(plan.experiments[-1], recipe, tmp_path / "called", Unwatched())
        monkeypatch.setattr(
            "flops_fit.training.trainer.steps_of",
            lambda *of_run: BlockSteps(OneRun(*of_run), captures=False),
        )
        in_blocks = train(plan.experiments[-1], recipe, tmp_path / "blocks", Unwatched())
        assert outcome(in_blocks) == outcome(called)
        curves = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("called", "blocks")]
        assert curves[0] == curves[1]

    def test_a_run_that_was_stopped_goes_on_bit_for_bit(self, tmp_path, in_blocks):
        plan, recipe = planned(tmp_path / "plan")
        experiment = plan.experiments[3]
        whole = train(experiment, recipe, tmp_path / "whole", Unwatched())
        for _ in range(3):
            watcher = Unwatched()
            pieces = pieces_of(experiment, recipe, tmp_path / "cut", watcher, None)
            turns = TrainingTurns(pieces, recipe, experiment.seed)
            for _ in range(5):
                assert turns.take() == []
            watcher.stop_requested = True
            with pytest.raises(KeyboardInterrupt):
                for _ in iter(turns.take, None):
                    pass
        assert (tmp_path / "cut" / "checkpoint.pt").exists()
        again = train(experiment, recipe, tmp_path / "cut", Unwatched())
        assert outcome(again) == outcome(whole)

    def test_batches_of_other_shapes_train_one_by_one(self, tmp_path, in_blocks):
        """Sequences as long as the longest of a batch: no static tensor could hold them."""
        lengths = torch.randint(2, 9, (200,), generator=torch.Generator().manual_seed(0))
        data = [torch.full((int(n), 4), 0.1) for n in lengths]

        class Ragged(torch.utils.data.Dataset):
            def __len__(self):
                return len(data)

            def __getitem__(self, index):
                return data[index], data[index].sum()[None]

        def padded(samples):
            inputs, targets = zip(*samples, strict=True)
            return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), torch.stack(targets)

        loader = torch.utils.data.DataLoader(Ragged(), batch_size=16, collate_fn=padded)
        changes = {"factory": Summed, "source": as_source(loader)}
        plan, recipe = planned(tmp_path / "plan", **changes)
        run = train(plan.experiments[0], recipe, tmp_path / "run", Unwatched())
        assert run.status == Status.COMPLETED


class Summed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x).sum(1)


class TestFeed:
    @pytest.mark.parametrize("start", [0, 7, 260])
    def test_blocks_hold_the_batches_of_the_stream_in_its_order(self, start):
        source = as_source(rows(100))
        blocks = device_data(source, CPU).blocks(16, 3, start)
        taken = [next(blocks) for _ in range(3)]
        assert [block.num_steps for block in taken] == [1, BLOCK_STEPS, BLOCK_STEPS]
        batches = source.training_batches(16, 3, start)
        for block in taken:
            for i in range(block.num_steps):
                for ours, theirs in zip(block.stacked, next(batches), strict=True):
                    assert torch.equal(ours[i], theirs)

    @pytest.mark.parametrize("start", [0, 11])
    def test_data_on_a_device_come_in_the_same_order(self, start):
        on_cpu = as_source(rows(100))
        moved = on_cpu.on(CPU)
        assert moved.device_bytes == on_cpu.device_bytes > 0
        theirs, ours = on_cpu.training_batches(16, 3, start), moved.training_batches(16, 3, start)
        for _ in range(20):
            for a, b in zip(next(theirs), next(ours), strict=True):
                assert torch.equal(a, b)
        block = ours.block(8)
        for i in range(8):
            for a, b in zip(next(theirs), block, strict=True):
                assert torch.equal(a, b[i])
        pairs = zip(on_cpu.held_out_batches(4, 9), moved.held_out_batches(4, 9), strict=True)
        assert all(torch.equal(a[0], b[0]) for a, b in pairs)

    @pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64"])
    def test_windows_on_a_device_are_the_same(self, dtype):
        import numpy as np

        largest = min(np.iinfo(dtype).max, 2**31)
        tokens = np.random.default_rng(0).integers(0, largest, 1000).astype(dtype)
        windows = ShardedWindows([tokens[:300], tokens[300:310], tokens[310:]], 16)
        if dtype == "uint16":
            windows = Windows(tokens, 16)
        moved = windows.on(CPU)
        assert len(moved) == len(windows)
        theirs = shuffled_batches(windows, 4, 1)
        ours = shuffled_batches(moved, 4, 1)
        for _ in range(40):
            for a, b in zip(next(theirs), next(ours), strict=True):
                assert torch.equal(a, b)

    def test_toy_on_a_device_draws_the_same(self):
        toy = Toy()
        batches = zip(
            toy.training_batches(64, 0, 5), toy.on(CPU).training_batches(64, 0, 5), strict=True
        )
        for _ in range(30):
            (a, b), (c, d) = next(batches)
            assert torch.equal(a, c)
            assert torch.equal(b, d)

    def test_samples_made_one_by_one_stay_where_they_are(self):
        class Made(torch.utils.data.Dataset):
            def __len__(self):
                return 128

            def __getitem__(self, index):
                return torch.randn(4), torch.zeros(1)

        source = as_source(Made())
        assert source.device_bytes == float("inf")
        batches = source.training_batches(8, 0)
        assert batches.block(4) is None


CALLS = 0


def counting_loss(prediction, target):
    global CALLS
    CALLS += 1
    return mse(prediction, target)


class TestWhatAGraphCanHold:
    def test_a_random_choice_on_the_host_is_seen(self):
        import random

        before = HostState.of([nn.Linear(2, 2)], mse)
        random.random()
        reason = before.change_to(HostState.of([nn.Linear(2, 2)], mse))
        assert reason == "it draws random numbers of Python on the host in each step"

    def test_a_counter_in_the_model_is_seen(self):
        model = nn.Sequential(nn.Linear(2, 2))
        model[0].calls = 0
        before = HostState.of([model], mse)
        assert before.change_to(HostState.of([model], mse)) is None
        model[0].calls += 1
        assert (
            before.change_to(HostState.of([model], mse)) == "each step changes 0.calls on the host"
        )

    def test_a_global_that_the_loss_counts_with_is_seen(self):
        before = HostState.of([], counting_loss)
        counting_loss(torch.zeros(1), torch.zeros(1))
        after = HostState.of([], counting_loss)
        assert before.change_to(after) == "each step changes CALLS on the host"

    def test_optimizers_that_may_wait_for_the_device_are_named(self):
        weights = [nn.Parameter(torch.ones(2, 2))]
        assert why_not_captured(torch.optim.AdamW(weights)) is None
        assert why_not_captured(torch.optim.SGD(weights, lr=0.1)) is None
        assert "LBFGS has no `capturable`" in why_not_captured(torch.optim.LBFGS(weights))

    def test_muon_steps_the_same_by_rates_in_tensors(self):
        results = []
        for tensor_rates in (False, True):
            torch.manual_seed(0)
            weight = nn.Parameter(torch.randn(6, 4))
            muon = torch.optim.Muon([weight], lr=0.02, weight_decay=0.1, momentum=0.9)
            for _ in range(3):
                weight.grad = torch.randn(6, 4)
                if tensor_rates:
                    muon.param_groups[0]["lr"] = torch.tensor(0.02)
                    step_by_tensor_rates(muon)
                else:
                    muon.step()
            results.append(weight.detach())
        torch.testing.assert_close(*results)

    def test_a_muon_of_ours_takes_tensor_rates_to_both_of_its_parts(self):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        groups = [
            {"params": [model[0].weight], "matrix": True},
            {"params": [model[0].bias, model[1].weight, model[1].bias]},
        ]
        muon = Muon(groups)
        assert why_not_captured(muon) is None


class TestTurns:
    def test_draws_of_two_runs_do_not_mix(self):
        alone = []
        with seeded(1):
            alone += [torch.rand(1) for _ in range(4)]
        one, two, found = Draws(1), Draws(2), []
        for _ in range(4):
            with one.in_use():
                found.append(torch.rand(1))
            with two.in_use():
                torch.rand(3)
        assert torch.equal(torch.cat(alone), torch.cat(found))

    def test_runs_side_by_side_end_as_they_do_alone(self, tmp_path):
        """With dropout, so that each must have its own random numbers."""
        plan, recipe = planned(tmp_path / "plan")
        folders = [StudyFolder(tmp_path / name) for name in ("alone", "beside")]
        trainers = [InTurns(recipe, Trunks(folder.path / "trunks")) for folder in folders]
        alone = Inline(trainers[0], folders[0])(chains(plan.experiments), Unwatched())
        beside = SideBySide(trainers[1], folders[1], 3)(chains(plan.experiments), Unwatched())
        assert sorted(map(outcome, alone), key=str) == sorted(map(outcome, beside), key=str)
        assert trainers[1].most_at_once == 3

    def test_what_finds_no_room_beside_others_is_trained_after_them(self, tmp_path):
        plan, recipe = planned(tmp_path / "plan")
        folder = StudyFolder(tmp_path / "study")
        trainer = InTurns(recipe, Trunks(folder.path / "trunks"), no_room=plan.experiments[0].id)
        runs = SideBySide(trainer, folder, 4)(chains(plan.experiments), Unwatched())
        assert {run.id for run in runs} == {e.id for e in plan.experiments}
        assert all(run.status == Status.COMPLETED for run in runs)
        assert runs[-1].id == plan.experiments[0].id

    def test_one_that_fails_is_a_result_and_the_others_go_on(self, tmp_path):
        plan, recipe = planned(tmp_path / "plan")
        folder = StudyFolder(tmp_path / "study")
        trainer = InTurns(recipe, Trunks(folder.path / "trunks"), broken=plan.experiments[1].id)
        runs = SideBySide(trainer, folder, 4)(chains(plan.experiments), Unwatched())
        failed = [run for run in runs if run.status == Status.FAILED]
        assert [run.id for run in failed] == [plan.experiments[1].id]
        assert "the user's code" in failed[0].error
        assert (folder.run_folder(failed[0].id) / "error.txt").exists()
        assert len(runs) == len(plan.experiments)

    def test_a_stop_leaves_a_checkpoint_of_each(self, tmp_path):
        plan, recipe = planned(tmp_path / "plan")
        folder = StudyFolder(tmp_path / "study")
        watcher = Unwatched()
        trainer = InTurns(recipe, Trunks(folder.path / "trunks"), stop_after=30, watcher=watcher)
        with pytest.raises(KeyboardInterrupt):
            SideBySide(trainer, folder, 3)(chains(plan.experiments), watcher)
        begun = list(folder.path.rglob("checkpoint.pt"))
        assert len(begun) == 3
        for e in plan.experiments:
            assert not folder.is_locked(e.id)


class InTurns(TorchTrainer):
    """As on a GPU, where small runs take turns."""

    def __init__(self, recipe, trunks, no_room="", broken="", stop_after=None, watcher=None):
        super().__init__(recipe, trunks)
        told = {"no_room": no_room, "broken": broken, "watcher": watcher}
        told |= {"left": stop_after, "at_once": 0, "most_at_once": 0}
        for name, value in told.items():
            object.__setattr__(self, name, value)

    def groups(self, experiments):
        return []

    def in_turns(self, experiments, folders, watcher, together):
        [experiment] = experiments
        recipe = self.recipe
        pieces = pieces_of(experiment, recipe, folders[experiment.id], watcher, self.trunks)
        return _Watched(self, TrainingTurns(pieces, recipe, experiment.seed), experiment.id)


class _Watched:
    def __init__(self, trainer, turns, name):
        self.trainer, self.turns, self.name = trainer, turns, name
        object.__setattr__(trainer, "at_once", trainer.at_once + 1)
        object.__setattr__(trainer, "most_at_once", max(trainer.at_once, trainer.most_at_once))

    def take(self):
        if self.name == self.trainer.no_room:
            raise MemoryError
        if self.name == self.trainer.broken:
            raise ValueError("the user's code")
        if self.trainer.left is not None:
            object.__setattr__(self.trainer, "left", self.trainer.left - 1)
            self.trainer.watcher.stop_requested |= self.trainer.left <= 0
        return self.turns.take()

    def drop(self):
        object.__setattr__(self.trainer, "at_once", self.trainer.at_once - 1)
        self.turns.drop()
