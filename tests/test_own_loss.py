"""Models that make their loss from labels that forward is given."""

import functools

import models_with_loss as models
import pytest
import torch
import torch.nn.functional as F
from small_study import planned, small_sweep

from flops_fit.api import find_optimal
from flops_fit.building.from_config import ConfiguredModel, size_spec
from flops_fit.building.node import Part
from flops_fit.datasets.adapters import as_source
from flops_fit.errors import ConfigError
from flops_fit.learning.losses import WithLabels, cross_entropy, inputs_for, own
from flops_fit.plan.trunks import chains
from flops_fit.store.execution import Inline, SideBySide
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.evaluation import evaluate

GIVING = (
    models.GPT, models.LossFirst, models.OnlyLoss, models.ObjectWithLoss, models.DictWithLoss
)  # fmt: skip


def of(cls):
    return functools.partial(build, cls)


def build(cls, width):
    return cls(models.GPTConfig(n_embd=width))


def study(folder, cls, data=None, loss=own, **changes):
    sweep = small_sweep(budgets=(2e7, 4e7), sizes=(4, 8), batch_size=8)
    source = as_source(models.pairs() if data is None else data, batch_size=8)
    parts = {"factory": of(cls), "loss": loss, "source": source, "sweep": sweep}
    return planned(folder, **{**parts, **changes})


@pytest.mark.parametrize("cls", GIVING)
def test_the_loss_is_the_models_own(tmp_path, cls):
    _, recipe = study(tmp_path, cls)
    torch.manual_seed(0)
    model = build(cls, 8)
    ids, target = next(recipe.source.held_out_batches(16, 16))
    with torch.no_grad():
        logits, _ = models.GPT.forward(model, ids, target)
    expected = float(F.cross_entropy(logits.flatten(0, 1), target.flatten()))
    assert evaluate(model, recipe, 4, 16).loss == pytest.approx(expected, rel=1e-5)


class TakesAnything(models.GPT):
    """As wrappers around models do."""

    def forward(self, **named):
        logits, loss = super().forward(named["ids"], named["labels"])
        return {"logits": logits, "loss": loss}


def test_a_forward_that_takes_any_names_is_given_labels(tmp_path):
    ids, targets = models.pairs()
    _, recipe = study(tmp_path, TakesAnything, data={"ids": ids, "labels": targets})
    assert recipe.loss.label_name == "labels"
    batch = next(recipe.source.held_out_batches(4, 4))
    assert sorted(inputs_for(recipe.loss, *batch)) == ["ids", "labels"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_a_model_without_python_code_trains(tmp_path):
    plan, recipe = planned(tmp_path, factory=scripted_net)
    assert (plan.experiments[0].num_params, recipe.loss) == (25, F.mse_loss)


def scripted_net(width):
    net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Linear(width, 1))
    return torch.jit.script(net)


def test_a_loss_of_the_user_that_needs_labels_gets_them(tmp_path):
    def of_output(output, target):
        return output["loss"]

    _, recipe = study(tmp_path, models.DictWithLoss, loss=of_output)
    assert isinstance(recipe.loss, WithLabels)


def test_a_loss_of_outputs_is_left_as_it_is(tmp_path):
    def of_logits(output, target):
        return F.cross_entropy(output["logits"][:, -1], target[:, -1])  # all that it has

    _, recipe = study(tmp_path, models.DictWithLoss, loss=of_logits)
    assert recipe.loss is of_logits


@pytest.mark.parametrize("together", [True, False])
def test_runs_train_alike_together_and_in_portions(tmp_path, together):
    losses = []
    for portion in (None, 3):
        plan, recipe = study(tmp_path, models.GPT, together=together, micro_batch_size=portion)
        place = StudyFolder(tmp_path / f"{portion}")
        trainer = planned_trainer(recipe, place)
        how = SideBySide(trainer, place, 1) if together else Inline(trainer, place)
        losses.append({run.id: run.loss for run in how(chains(plan.experiments), Unwatched())})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) >= 2
    assert max(losses[0].values()) < 2.7  # ln 16 is 2.77


def planned_trainer(recipe, place):
    from flops_fit.training.spec import torch_trainer

    return torch_trainer(recipe, place)


def test_labels_that_a_model_moves_itself_are_moved_once(tmp_path):
    _, given_pairs = study(tmp_path, models.Shifting)
    ids, target = (part[:4] for part in models.pairs())
    labels = inputs_for(given_pairs.loss, ids, target)["labels"]
    assert torch.equal(labels[:, 1:], ids[:, 1:])
    _, given_ids = study(tmp_path, models.Shifting, data=models.tokens(length=8))
    assert torch.equal(inputs_for(given_ids.loss, ids, ids)["labels"], ids)
    _, plain = study(tmp_path, models.DictWithLoss)
    assert torch.equal(inputs_for(plain.loss, ids, target)["labels"], target)


def test_padding_of_named_inputs_is_no_label():
    ids, mask = torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]])
    both = {"input_ids": ids, "attention_mask": mask}
    given = WithLabels(own, "input_ids", "labels").inputs(both, both)
    assert given["labels"].tolist() == [[5, 6, -100]]
    assert given["attention_mask"] is mask


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 3),
        {"logits": torch.zeros(2)},
        (torch.zeros(2), None),
        (torch.tensor(1.0),) * 2,
    ],
)
def test_an_output_without_a_loss_is_told(output):
    with pytest.raises(ValueError, match="no loss in the model's output"):
        own(output, None)


def test_a_model_that_names_no_labels_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no loss in the model's output"):
        planned(tmp_path, loss=own)


def test_classes_with_the_default_loss_are_told(tmp_path):
    from flops_fit.learning.losses import mse

    x = torch.randn(200, 4)
    with pytest.raises(ConfigError, match="set loss=cross_entropy"):
        planned(tmp_path, loss=mse, source=as_source((x, (x.sum(1) > 0).long())))


def rows(targets=1, dtype=torch.float32):
    x = torch.randn(200, 4)
    return as_source((x.to(dtype), x[:, :targets].squeeze(1) if targets == 1 else x))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": F.mse_loss, "source": rows()}, "Using a target size"),
        ({"source": rows(dtype=torch.float64)}, "float64 is what numpy makes"),
        ({"source": as_source({"x": torch.randn(200, 4), "y": torch.randn(200, 1)})},
         r"forward is given these by name, forward\(x=\.\.\)"),
    ],
)  # fmt: skip
def test_usual_mistakes_are_told_with_what_to_do(tmp_path, changes, said):
    class Net(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = torch.nn.Linear(4, width)
            self.last = torch.nn.Linear(width, 1)

        def forward(self, inputs):
            return self.last(self.layer(inputs))

    with pytest.raises(ConfigError, match=said):
        planned(tmp_path, factory=Net, **changes)


def test_what_to_do_with_outputs_of_other_forms(tmp_path):
    with pytest.raises(ConfigError, match="say loss=own if the model makes its loss itself"):
        study(tmp_path, models.DictWithLoss, loss=cross_entropy)

    def of_ids(width):
        return torch.nn.Sequential(torch.nn.Embedding(64, width), torch.nn.Linear(width, 64))

    with pytest.raises(ConfigError, match="loss=cross_entropy last"):
        study(tmp_path, None, factory=of_ids, loss=torch.nn.CrossEntropyLoss())


def test_sizes_that_can_be_built_and_not_run_are_told_before_training(tmp_path):
    """Smaller ones than are asked for may be so too: these are passed over."""

    class Grouped(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer, self.last = torch.nn.Linear(4, width), torch.nn.Linear(width, 1)

        def forward(self, x):
            return self.last(self.layer(x).view(len(x), 4, -1).softmax(1).view(len(x), -1))

    sweep = small_sweep(sizes=(4, 8, 16))
    plan, recipe = planned(tmp_path, factory=Grouped, sweep=sweep)
    assert (len(plan), recipe.family.smallest) == (6, 4)
    with pytest.raises(ConfigError, match=r"width=10\) can't take a batch"):
        planned(tmp_path / "b", factory=Grouped, sweep=small_sweep(sizes=(4, 10, 16)))


def test_whole_shapes_may_be_values_inside_of_a_config():
    node = {
        "_target_": "models_with_loss.GPT",
        "config": {"_target_": "models_with_loss.GPTConfig", "block_size": 8},
        "size": {"values": [{"config.n_embd": 8, "config.n_layer": 1}, {"config.n_embd": 16}]},
    }
    part = Part("model", node, "gpt.yaml")
    assert size_spec(part).values[1] == {"config.n_embd": 16}
    model = ConfiguredModel(part)(**{"config.n_embd": 12, "config.n_layer": 2})
    assert model.head.in_features == 12
    assert len(model.blocks) == 2


@pytest.mark.slow
def test_gpt2_of_transformers_trains(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    def gpt2(depth):
        shape = {"n_layer": depth, "n_embd": 16 * depth, "n_head": depth}
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = transformers.GPT2Config(vocab_size=16, n_positions=8, **shape, **dropout)
        return transformers.GPT2LMHeadModel(config)

    study = find_optimal(
        model_cls=gpt2,
        model_size_param="depth",
        dataset=models.pairs(),
        loss_fn=own,
        compute_budgets=[4e8, 8e8],
        sizes=[1, 2],
        batch_size=16,
        min_steps=5,
        max_epochs=1000,
        learning_rate=3e-3,
        output_dir=tmp_path,
    )
    assert len(study) >= 2
    assert all(run.status == "completed" and run.loss < 2.7 for run in study)
