"""A batch in portions trains and is measured as the whole batch, or it is said that it doesn't."""

import functools
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_study import ADAMW, planned, small_spec, small_sweep
from torch import nn

from flops_fit.datasets.adapters import as_source
from flops_fit.learning.losses import cross_entropy
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import Inline, SideBySide
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.evaluation import evaluate
from flops_fit.training.kernels import DEFAULT
from flops_fit.training.portions import Labels, Samples
from flops_fit.training.spec import torch_trainer

VOCAB, LENGTH = 8, 6


def labelled(ignored=-100, rows=480):
    """Ids and labels, of which every other row has one, the others all but one."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCAB, (rows, LENGTH), generator=generator)
    labels = torch.randint(1, VOCAB, (rows, LENGTH), generator=generator)
    labels[::2, 1:] = ignored
    labels[1::2, :1] = ignored
    return ids, labels


class Tagger(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(VOCAB, width), nn.Linear(width, VOCAB))

    def forward(self, ids):
        return self.layers(ids)


class Normed(nn.Module):
    """Of rows of numbers, with statistics of the batch."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 3)
        )

    def forward(self, x):
        return self.layers(x)


class Balanced(Tagger):
    """With an auxiliary loss over all of the batch, as experts are balanced by."""

    def forward(self, ids):
        logits = super().forward(ids)
        used = logits.softmax(-1).mean((0, 1))
        return logits, 0.01 * (used**2).sum()


def flat(output, target, ignored=-100):
    return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=ignored)


def flat_without_padding(output, target):
    return flat(output, target, ignored=0)


def flat_without_negative(output, target):
    return flat(output, target, ignored=-1)


def balanced_loss(output, target):
    logits, auxiliary = output
    return flat(logits, target) + auxiliary


def mean_of_rows(output, target):
    return F.cross_entropy(output.movedim(-1, 1), target, reduction="none").mean()


class ByMask:
    """Of targets that are numbers, without those that are not known."""

    def __call__(self, output, target):
        known = ~target.isnan()
        return ((output - target)[known] ** 2).mean()

    def num_targets(self, target):
        return (~target.isnan()).sum()


def recipe_of(tmp_path, factory=Tagger, data=None, loss=cross_entropy, **changes):
    sweep = small_sweep(budgets=(1e6, 2e6), sizes=(4, 8), batch_size=8)
    source = as_source(labelled() if data is None else data, batch_size=8)
    parts = {"factory": factory, "loss": loss, "source": source, "sweep": sweep, **changes}
    return planned(tmp_path, **parts)


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        (cross_entropy, -100),
        (flat, -100),
        (functools.partial(flat, ignored=-100), -100),
        (flat_without_negative, -1),
        (flat_without_padding, 0),
    ],
)
def test_what_a_loss_leaves_out_is_found(tmp_path, loss, ignored):
    _, recipe = recipe_of(tmp_path, data=labelled(ignored), loss=loss)
    assert recipe.portions.weights == Labels(ignored)
    assert recipe.portions.depends is None


def test_a_mean_over_samples_is_told_from_one_over_labels(tmp_path):
    ids, labels = labelled(ignored=0)
    _, recipe = recipe_of(tmp_path, data=(ids, labels), loss=mean_of_rows)
    assert recipe.portions.depends is None
    x = torch.randn(480, 4, generator=torch.Generator().manual_seed(0))
    _, of_numbers = planned(tmp_path, source=as_source((x, x.sum(1, keepdim=True))))
    assert of_numbers.portions.weights == Samples()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("portion", [1, 3])
def test_portions_change_no_result(tmp_path, together, portion):
    plan, recipe = recipe_of(tmp_path, loss=flat, together=together)
    portioned, in_portions = recipe_of(
        tmp_path, loss=flat, together=together, micro_batch_size=portion
    )
    assert [e.id for e in portioned.experiments] == [e.id for e in plan.experiments]
    losses = []
    for name, each in (("whole", recipe), ("portions", in_portions)):
        place = StudyFolder(tmp_path / name)
        trainer = torch_trainer(each, place)

        how = SideBySide(trainer, place, 1) if together else Inline(trainer, place)
        runs = how(chains(plan.experiments), Unwatched())
        losses.append({run.id: (run.loss, run.train_loss) for run in runs})
    assert len(losses[0]) >= 2
    for run, (loss, train_loss) in losses[0].items():
        assert losses[1][run] == pytest.approx((loss, train_loss), rel=1e-5)


def test_the_held_out_loss_is_the_mean_over_labels_whatever_the_batch(tmp_path):
    _, recipe = recipe_of(tmp_path, loss=flat)
    torch.manual_seed(0)
    model = Tagger(8)
    samples = recipe.source.held_out_samples
    whole = evaluate(model, recipe, samples, samples).loss
    ids, labels = next(recipe.source.held_out_batches(samples, samples))
    assert whole == pytest.approx(float(flat(model(ids), labels).detach()))
    for batch_size in (1, 5, 32):
        assert evaluate(model, recipe, batch_size, samples).loss == pytest.approx(whole, rel=1e-6)


def test_batches_without_a_label_count_for_nothing(tmp_path):
    ids, labels = labelled()
    labels[::3] = -100
    plan, recipe = recipe_of(tmp_path, data=(ids, labels), loss=flat, micro_batch_size=1)
    place = StudyFolder(tmp_path / "study")
    for run in Inline(torch_trainer(recipe, place), place)(chains(plan.experiments), Unwatched()):
        assert run.status == "completed"
        assert 0 < run.loss < 5


def test_a_loss_may_say_how_many_targets_it_is_the_mean_of(tmp_path):
    x = torch.randn(480, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, :1].repeat(1, 3)
    y[::2, 1:] = torch.nan
    _, recipe = planned(
        tmp_path,
        factory=lambda width: nn.Sequential(nn.Linear(4, width), nn.Linear(width, 3)),
        source=as_source((x, y)),
        loss=ByMask(),
    )
    assert recipe.portions.depends is None
    model = nn.Linear(4, 3)
    losses = [evaluate(model, recipe, batch, 32).loss for batch in (1, 5, 32)]
    assert losses == pytest.approx([losses[-1]] * 3, rel=1e-6)


class TestModelsThatDependOnThePortion:
    def data(self):
        x = torch.randn(480, 4, generator=torch.Generator().manual_seed(0))
        return x, (x.sum(1) > 0).long()

    @pytest.mark.parametrize(
        ("factory", "loss", "data", "word"),
        [
            (Normed, F.cross_entropy, "rows", "BatchNorm1d"),
            (Balanced, balanced_loss, "labelled", "no mean over"),
        ],
    )
    def test_are_found_and_their_portion_is_in_the_id(self, tmp_path, factory, loss, data, word):
        data = self.data() if data == "rows" else labelled()
        plan, recipe = recipe_of(tmp_path, factory, data, loss)
        assert word in recipe.portions.depends
        assert not any(word in note for note in plan.notes)
        ids = {e.id for e in plan.experiments}
        for portion in (2, 4):
            portioned, _ = recipe_of(tmp_path, factory, data, loss, micro_batch_size=portion)
            assert any(word in note for note in portioned.notes)
            assert ids.isdisjoint(e.id for e in portioned.experiments)
            ids |= {e.id for e in portioned.experiments}
        same, _ = recipe_of(tmp_path, factory, data, loss, micro_batch_size=8)
        assert {e.id for e in same.experiments} < ids

    def test_are_not_halved_when_memory_runs_out(self, tmp_path):
        plan, recipe = recipe_of(tmp_path, Normed, self.data(), F.cross_entropy, together=False)
        asked = []

        def loss(output, target):
            asked.append(len(target))
            raise MemoryError("no room")

        place = StudyFolder(tmp_path / "study")
        trainer = torch_trainer(replace(recipe, loss=loss), place)
        with pytest.raises(MemoryError, match=r"BatchNorm1d .*micro_batch_size=4"):
            trainer(plan.experiments[0], tmp_path / "run", Unwatched())
        assert asked == [8]


class Counted:
    """A mean over samples that counts how often it is asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, output, target):
        self.calls += 1
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=-1)


def test_a_worker_does_not_try_again_what_its_parent_has_found(tmp_path):
    folder = StudyFolder(tmp_path)
    data = as_source(labelled(ignored=-1))
    sweep = small_sweep(budgets=(2e6,))
    spec = small_spec(factory=Tagger, loss=Counted(), source=data, sweep=sweep)
    trainer = spec.prepare(folder).trainer
    assert trainer.recipe.portions.weights == Labels(-1)
    folder.pin({**trainer.pins, "kernels": DEFAULT.to_json()})
    calls = []
    for known in (trainer, None):
        there = spec.in_worker(known)()
        before = there.loss.calls
        again = there.pinned_trainer(folder)
        assert again.recipe.portions == trainer.recipe.portions
        calls.append(there.loss.calls - before)
    assert calls[0] == 0 < calls[1]


class Noisy(nn.Module):
    """Draws random numbers, in evaluation too, as autoencoders do."""

    def __init__(self, width):
        super().__init__()
        self.layer, self.last = nn.Linear(4, width), nn.Linear(width, 4)

    def forward(self, x):
        h = self.layer(x)
        return self.last(h + 0.1 * torch.randn_like(h))


@pytest.mark.parametrize(("reduction", "depends"), [("sum", True), ("mean", False)])
def test_a_sum_is_found_among_losses_that_differ_each_time(tmp_path, reduction, depends):
    data = torch.randn(480, 4, generator=torch.Generator().manual_seed(0))
    loss = partial(F.mse_loss, reduction=reduction)
    _, recipe = recipe_of(tmp_path, Noisy, data, lambda output, target: loss(output, target))
    assert ("is it a sum" in (recipe.portions.depends or "")) == depends


def test_state_from_call_to_call_is_a_dependence(tmp_path):
    class Remembers(Tagger):
        memory = None

        def forward(self, ids):
            h = self.layers[0](ids)
            if self.memory is not None and self.memory.shape == h.shape:
                h = h + self.memory
            self.memory = h.detach()
            return self.layers[1](h)

    _, recipe = recipe_of(tmp_path, Remembers, optimizer=ADAMW)
    assert "memory" in recipe.portions.depends
