"""What a model's code keeps from call to call, and what flops-fit leaves of it."""

import sys
from types import ModuleType

import pytest
import torch
from small_study import planned, small_sweep
from torch import nn

from flops_fit.datasets.adapters import as_source
from flops_fit.learning.losses import cross_entropy
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import SideBySide
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.dry_step import DryStep
from flops_fit.training.evaluation import evaluate
from flops_fit.training.leftovers import nothing_left, undisturbed
from flops_fit.training.memory import dry_step_of
from flops_fit.training.spec import torch_trainer
from flops_fit.training.together import why_apart

CACHES = """
import functools
import torch
from torch import nn

MASKS = {}
LENGTH, PLACES = 0, None


@functools.cache
def rates(width):
    return 1 / torch.arange(1, width + 1)


class Rotating(nn.Module):
    kept = {}

    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Embedding(16, width), nn.Linear(width, 16)
        self.rates = rates(width)

    def forward(self, ids):
        global LENGTH, PLACES
        length = ids.shape[1]
        if length != LENGTH:
            LENGTH, PLACES = length, torch.arange(length)[:, None].float()
        if length not in MASKS:
            MASKS[length] = torch.ones(length, length).tril()
        if length not in Rotating.kept:
            Rotating.kept[length] = MASKS[length].sum(1, keepdim=True)
        h = self.embed(ids) * (PLACES * self.rates).cos()
        return self.head(MASKS[length] @ h / Rotating.kept[length])
"""


@pytest.fixture
def caches(monkeypatch):
    module = ModuleType("caches_of_a_user")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(CACHES, vars(module))
    return module


class Lazy(nn.Module):
    """Keeps a table for the last length, and counts its calls."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.head = nn.Embedding(16, width), nn.Linear(width, 16)
        self.register_buffer("mask", None, persistent=False)
        self.length, self.table, self.tables = 0, None, {}

    def forward(self, ids):
        if ids.shape[1] != self.length:
            self.length = ids.shape[1]
            self.table = torch.arange(1, self.length + 1)[:, None] / 10
            self.mask = torch.ones(self.length, 1)
        self.tables.setdefault(self.length, self.table)
        return self.head(self.embed(ids) * self.table.cos() * self.mask)


class Remembers(Lazy):
    """Hands a state from call to call."""

    def forward(self, ids):
        h = self.embed(ids)
        if self.table is not None and self.table.shape == h.shape:
            h = h + self.table
        self.table = h.detach()
        return self.head(h)


def data(rows=400, length=6):
    ids = torch.randint(0, 16, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def study(folder, factory, **changes):
    sweep = small_sweep(budgets=(2e6, 4e6), sizes=(4, 8), batch_size=8)
    source = as_source(data(), batch_size=8)
    parts = {"factory": factory, "loss": cross_entropy, "source": source, "sweep": sweep}
    return planned(folder, **{**parts, **changes})


def test_a_model_trains_after_a_table_was_made_in_evaluation(tmp_path):
    _, recipe = study(tmp_path, Lazy)
    model = Lazy(4)
    evaluate(model, recipe, 4, 8)
    ids, target = data(2)
    cross_entropy(model(ids), target).backward()
    assert model.embed.weight.grad is not None


def test_evaluation_leaves_what_training_keeps(tmp_path):
    _, recipe = study(tmp_path, Lazy)
    model = Lazy(4)
    model(data(2, length=3)[0])
    kept = (model.length, model.table, model.mask, dict(model.tables))
    evaluate(model, recipe, 4, 8)
    assert (model.length, model.table, model.mask) == kept[:3]
    assert model.tables.keys() == kept[3].keys() == {3}


def test_what_comes_and_goes_inside_is_as_before():
    model = Lazy(4)
    with undisturbed(model):
        model(data(2)[0])
        model.new = 1
        model.tables[0] = None
    assert (model.length, model.table, model.mask, model.tables) == (0, None, None, {})
    assert not hasattr(model, "new")


def test_tables_without_numbers_are_in_no_cache(caches):
    with nothing_left(), torch.device("meta"):
        caches.Rotating(4)(torch.zeros(2, 5, dtype=torch.long))
    assert (caches.MASKS, caches.LENGTH, caches.PLACES, caches.Rotating.kept) == ({}, 0, None, {})
    assert not caches.rates(4).is_meta


def test_tables_with_numbers_stay(caches):
    with nothing_left():
        caches.Rotating(4)(torch.zeros(2, 5, dtype=torch.long))
    assert caches.LENGTH == 5
    assert caches.MASKS.keys() == caches.Rotating.kept.keys() == {5}


@pytest.mark.parametrize("together", [True, False])
def test_a_model_with_tables_in_its_module_is_planned_and_trained(tmp_path, caches, together):
    plan, recipe = study(tmp_path, caches.Rotating, together=together)
    assert isinstance(dry_step_of(plan.experiments[0], recipe), DryStep)
    place = StudyFolder(tmp_path / "study")
    runs = SideBySide(torch_trainer(recipe, place), place, 1)(chains(plan.experiments), Unwatched())
    assert {run.status for run in runs} == {"completed"}


def test_runs_whose_steps_hand_on_a_state_train_alone(tmp_path):
    plan, recipe = study(tmp_path, Remembers)
    assert "table" in why_apart(plan.experiments, recipe)
    plan, recipe = study(tmp_path, Lazy)
    assert "its buffer mask changes" in why_apart(plan.experiments, recipe)
