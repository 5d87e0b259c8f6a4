"""Runs of one size in one batched step, as a study trains them."""

import json
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from small_study import Net, planned, small_sweep
from torch import nn

from flops_fit.datasets.adapters import as_source
from flops_fit.errors import StudyWarning
from flops_fit.models import MLP
from flops_fit.plan.run import Status
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import Inline, SideBySide, SweepStopped, Unit, train_unit, units_of
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training import together
from flops_fit.training.feed import BLOCK_STEPS
from flops_fit.training.spec import torch_trainer
from flops_fit.training.together import groups_of, train_together, why_apart


def still(width):
    return Net(width, dropout=0.0)


def study(folder, **changes):
    """Three widths at two budgets: groups of two that end at different steps."""
    plan, recipe = planned(folder / "plan", **{"factory": still, **changes})
    place = StudyFolder(folder / "study")
    return plan, recipe, place, torch_trainer(recipe, place)


def close(run, other):
    assert (run.id, run.status, run.num_steps) == (other.id, other.status, other.num_steps)
    for name in ("loss", "train_loss", "loss_stderr"):
        assert getattr(run, name) == pytest.approx(getattr(other, name), rel=1e-5)
    assert run.learning_rate == other.learning_rate


class TestTogether:
    @pytest.mark.parametrize("seeds", [1, 2])
    @pytest.mark.parametrize("clip", [None, 0.3])
    def test_each_ends_as_it_does_alone(self, tmp_path, seeds, clip):
        plan, recipe, place, trainer = study(
            tmp_path, sweep=small_sweep(seeds=seeds), clip_grad_norm=clip
        )
        alone = StudyFolder(tmp_path / "alone")
        apart = Inline(torch_trainer(replace(recipe, together=False), alone), alone)
        expected = {run.id: run for run in apart(chains(plan.experiments), Unwatched())}
        groups = trainer.groups(plan.experiments)
        assert [len(group) for group in groups] == [2 * seeds] * 3
        runs = SideBySide(trainer, place, 1)(chains(plan.experiments), Unwatched())
        assert len(runs) == len(expected)
        for run in runs:
            close(run, expected[run.id])
            paths = (f.run_folder(run.id) / "metrics.jsonl" for f in (place, alone))
            ours, theirs = (
                [json.loads(line) for line in p.read_text().splitlines()] for p in paths
            )
            assert len(ours) == len(theirs)
            for a, b in zip(ours, theirs, strict=True):
                assert a.keys() == b.keys()
                for name, value in b.items():
                    assert a[name] == (value and pytest.approx(value, rel=1e-4))
            assert not (place.run_folder(run.id) / "checkpoint.pt").exists()

    def test_two_hundred_steps_stay_within_float_tolerance(self, tmp_path):
        plan, recipe, place, _ = study(tmp_path, factory=lambda width: MLP(width, in_features=4))
        longest = max(plan.experiments, key=lambda e: e.num_steps)
        pair = [replace(longest, num_steps=200, seed=seed, id=f"{seed}") for seed in (0, 1)]
        folders = {e.id: place.run_folder(e.id) for e in pair}
        ended = [run for runs in train_together(pair, recipe, folders, Unwatched()) for run in runs]
        for run, e in zip(ended, pair, strict=True):
            [alone] = train_unit(
                Unit((replace(e, id=f"{e.id} alone"),)),
                torch_trainer(recipe, place),
                place,
                Unwatched(),
            )
            assert run.loss == pytest.approx(alone.loss, rel=1e-5)

    @pytest.mark.parametrize(("width", "batch_size"), [(16, 16), (5, 16), (7, 11)])
    def test_a_result_does_not_depend_on_which_runs_were_there(self, tmp_path, width, batch_size):
        sweep = small_sweep(sizes=(width,), batch_size=batch_size, budgets=(2e6,))
        plan, recipe, _, _ = study(
            tmp_path, factory=lambda width: MLP(width, in_features=4), sweep=sweep
        )
        [run] = plan.experiments
        runs = [replace(run, seed=seed, id=f"{seed}") for seed in range(4)]
        groups = [[runs[0]], runs[:2], runs, *permutations([runs[0], runs[3], runs[1]])]
        losses = []
        for number, group in enumerate(groups):
            folders = {e.id: tmp_path / f"{number}" / e.id for e in group}
            ended = [r for rs in train_together(group, recipe, folders, Unwatched()) for r in rs]
            losses += [(run.loss, run.train_loss) for run in ended if run.id == "0"]
        assert len(losses) == len(groups)
        assert len(set(losses)) == 1

    def test_data_of_several_blocks_come_in_order(self, tmp_path):
        plan, recipe, place, trainer = study(tmp_path)
        [group, *_] = trainer.groups(plan.experiments)
        assert max(e.num_steps for e in group) > BLOCK_STEPS + 1
        folders = {e.id: place.run_folder(e.id) for e in group}
        runs = [run for runs in train_together(group, recipe, folders, Unwatched()) for run in runs]
        for run, e in zip(runs, sorted(group, key=lambda e: e.num_steps), strict=True):
            [alone] = train_unit(Unit((e,)), torch_trainer(recipe, place), place, Unwatched())
            close(run, alone)

    def test_stops_lose_none_of_it(self, tmp_path):
        plan, recipe, place, trainer = study(tmp_path)
        every = SideBySide(trainer, place, 1)(chains(plan.experiments), Unwatched())
        whole = {run.id: run for run in every}
        left, cut, ended = trainer.groups(plan.experiments)[0], tmp_path / "cut", []
        stops = 0
        while left:
            folders = {e.id: cut / e.id for e in left}
            try:
                for runs in train_together(left, recipe, folders, StopsAfter(40)):
                    ended += runs
            except KeyboardInterrupt:
                stops += 1
            left = [e for e in left if e.id not in {run.id for run in ended}]
        assert stops >= 2
        for run in ended:
            assert (run.loss, run.train_loss) == (whole[run.id].loss, whole[run.id].train_loss)

    def test_one_that_diverges_leaves_the_others_as_they_are(self, tmp_path):
        plan, recipe, place, trainer = study(tmp_path)
        [group, *_] = trainer.groups(plan.experiments)
        wild = [replace(group[0], learning_rate=1e12), group[1]]
        folders = {e.id: place.run_folder(e.id) for e in wild}
        ended = [run for runs in train_together(wild, recipe, folders, Unwatched()) for run in runs]
        by_id = {run.id: run for run in ended}
        assert by_id[group[0].id].status == Status.DIVERGED
        tame = by_id[group[1].id]
        [alone] = train_unit(Unit((group[1],)), torch_trainer(recipe, place), place, Unwatched())
        close(tame, alone)

    def test_code_that_fails_in_a_group_is_found_alone(self, tmp_path):
        plan, recipe, place, trainer = study(tmp_path)
        breaking = replace(trainer, recipe=replace(recipe, loss=Breaks(recipe.loss)))
        with (
            pytest.warns(StudyWarning, match="3 runs in a row failed alike .*the user's loss"),
            pytest.raises(SweepStopped),
        ):
            SideBySide(breaking, place, 1)(chains(plan.experiments), Unwatched())
        runs, _ = place.runs_of(plan)
        assert [run.status for run in runs] == [Status.FAILED] * 3
        assert all("the user's loss" in run.error for run in runs)

    def test_batches_of_many_shapes_train_alone(self, tmp_path):
        lengths = torch.randint(2, 9, (400,), generator=torch.Generator().manual_seed(0))

        class Ragged(torch.utils.data.Dataset):
            def __len__(self):
                return len(lengths)

            def __getitem__(self, index):
                return torch.full((int(lengths[index]), 4), 0.1), torch.zeros(1)

        def padded(samples):
            inputs, targets = zip(*samples, strict=True)
            return nn.utils.rnn.pad_sequence(list(inputs), batch_first=True), torch.stack(targets)

        loader = torch.utils.data.DataLoader(Ragged(), batch_size=16, collate_fn=padded)
        plan, _, place, trainer = study(tmp_path, factory=Summed, source=as_source(loader))
        with pytest.warns(UserWarning, match="trained alone, not together: "):
            runs = SideBySide(trainer, place, 1)(chains(plan.experiments), Unwatched())
        assert {run.status for run in runs} == {Status.COMPLETED}


class Summed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x).sum(1)


class Breaks:
    def __init__(self, loss):
        self.loss = loss

    def __call__(self, prediction, target):
        raise ValueError("the user's loss")


class StopsAfter:
    """Asks for a stop when it has been looked at so often."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def stop_requested(self):
        self.looks -= 1
        return self.looks < 0

    def progress(self, experiment, flops):
        pass


class TestGroups:
    def test_only_small_steps_of_one_size_and_batch_are_grouped(self, tmp_path, monkeypatch):
        plan, recipe, _, trainer = study(tmp_path)
        assert len(groups_of(plan.experiments, recipe)) == 3
        assert [len(group) for group in groups_of(plan.experiments[:3], recipe)] == [1] * 3
        on_gpu = replace(recipe, device=torch.device("cuda"))
        assert [len(group) for group in groups_of(plan.experiments, on_gpu)] == [2] * 3
        assert groups_of(plan.experiments[:3], on_gpu) == []
        others = [replace(e, batch_size=8) for e in plan.experiments[:3]]
        assert len(groups_of([*plan.experiments[3:], *others], recipe)) == 6
        trunk = [replace(e, trunk="one") for e in plan.experiments]
        assert groups_of(trunk, recipe) == []
        monkeypatch.setitem(together.LARGEST_STEP_FLOPS, "cpu", 1.0)
        assert groups_of(plan.experiments, recipe) == []
        assert [unit.together for unit in units_of(chains(plan.experiments), trainer)] == [
            False
        ] * 6

    def test_models_that_cannot_be_stacked_train_alone(self, tmp_path):
        for factory in (Net, Normed):
            plan, recipe = planned(tmp_path / factory.__name__, factory=factory)
            assert why_apart(plan.experiments, recipe)

    def test_a_loss_that_counts_on_the_host_is_called_in_every_step(self, tmp_path):
        class Counting:
            def __init__(self):
                self.calls = 0

            def __call__(self, prediction, target):
                self.calls += 1
                return nn.functional.mse_loss(prediction, target)

        plan, recipe = planned(tmp_path / "plan", factory=still, loss=Counting())
        assert why_apart(plan.experiments, recipe) == "each step changes calls on the host"

    def test_what_a_study_began_with_is_kept(self, tmp_path):
        plan, _, _, trainer = study(tmp_path)
        kernels = {"kernels": trainer.tuned(plan, 1, {}).pins["kernels"]}
        assert trainer.tuned(plan, 1, {}).pins["together"] is True
        assert trainer.tuned(plan, 1, kernels).pins["together"] is False  # of an earlier version
        assert trainer.tuned(plan, 1, {**kernels, "together": True}).pins["together"] is True
        alone = replace(trainer, recipe=replace(trainer.recipe, together=False))
        assert alone.tuned(plan, 1, {}).pins["together"] is False


class Normed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, x):
        return self.layers(x)
