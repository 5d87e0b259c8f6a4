import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flops_fit.building.from_config import ConfiguredModel
from flops_fit.building.node import Part
from flops_fit.cli import main
from flops_fit.errors import ConfigError, PlanError
from flops_fit.learning.losses import cross_entropy, mse
from flops_fit.models import GPT, MLP, Transformer, ViT
from flops_fit.training.family import ModelFamily, SizeSpec, flops_per_token

IN_FEATURES = 5
SAMPLE = (torch.zeros(8, IN_FEATURES), torch.zeros(8, 1))

mlp = partial(MLP, in_features=IN_FEATURES, depth=2)


class Plain(nn.Module):
    """One hidden layer, nothing declared."""

    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(IN_FEATURES, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.layers(x)


class Heads(Plain):
    def __init__(self, hidden, head=6):
        assert hidden % head == 0, f"heads of {head}"
        super().__init__(hidden)


class NeedsNumbers(Plain):
    """Looks at the value of a weight, which tensors on the meta device don't have."""

    largest_built = 0

    def __init__(self, hidden):
        super().__init__(hidden)
        self.scale = self.layers[0].weight.detach().abs().max().item()
        NeedsNumbers.largest_built = max(NeedsNumbers.largest_built, hidden)


class Lazy(Plain):
    def __init__(self, hidden):
        super().__init__(hidden)
        self.layers = nn.Sequential(nn.LazyLinear(hidden), nn.Tanh(), nn.LazyLinear(1))


class ReadsValues(Plain):
    """Can be built on the meta device, but not run there."""

    def forward(self, x):
        return super().forward(x) * (1 if x.sum().item() else 2)


class SaysByMethod(Plain):
    def num_params(self):
        return 1000 * self.layers[0].out_features

    def flops_per_token(self):
        return 77 * self.num_params()


class SaysByProperty(Plain):
    @property
    def num_params(self):
        return 1000 * self.layers[0].out_features

    @property
    def flops_per_token(self):
        return 77 * self.num_params


class Elementwise(nn.Module):
    """No matrix product to count."""

    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x):
        return (x.sum(dim=1, keepdim=True) * self.weight).mean(dim=1, keepdim=True)


def family(factory, name="hidden", tokens_per_sample=1, sample=SAMPLE, **spec):
    return ModelFamily(factory, SizeSpec(name, **spec), sample, tokens_per_sample, F.mse_loss)


def count(model):
    return sum(p.numel() for p in model.parameters())


class TestCounts:
    @pytest.mark.parametrize("width", [1, 7, 64])
    def test_are_torch_s_for_the_mlp(self, width):
        measured = family(mlp, "width").at(width)
        assert measured.num_params == measured.num_params_total == count(mlp(width))
        assert (measured.size.name, measured.size.value) == ("width", width)

    @pytest.mark.parametrize("factory", [Plain, NeedsNumbers, Lazy, ReadsValues, Elementwise])
    def test_are_torch_s_for_strange_models(self, factory):
        model = factory(12)
        model(SAMPLE[0])
        assert family(factory).at(12).num_params == count(model)

    @pytest.mark.parametrize("factory", [SaysByMethod, SaysByProperty])
    def test_are_the_model_s_own_where_it_has_them(self, factory):
        measured = family(factory).at(12)
        assert measured.num_params == 12_000
        assert measured.counted_flops_per_token == 77 * 12_000
        assert measured.num_params_total == count(factory(12))
        assert family(factory).declares_flops
        assert not family(Plain).declares_flops

    def test_whole_shapes(self):
        shapes = ({"width": 8, "depth": 1}, {"width": 16, "depth": 4})
        shaped = family(partial(MLP, in_features=IN_FEATURES), "shape", values=shapes)
        for shape in shapes:
            measured = shaped.at(shape)
            assert measured.num_params == count(MLP(in_features=IN_FEATURES, **shape))
            assert measured.size.value == shape
        assert shaped.smallest == shapes[0]
        assert shaped.nearest(1e9).size.value == shapes[1]


class TestFlops:
    @pytest.mark.parametrize(("width", "tokens_per_sample"), [(8, 1), (64, 1), (64, 4)])
    def test_of_a_two_layer_mlp_are_those_by_hand(self, width, tokens_per_sample):
        """A multiply and an add for each weight and sample: forward, for the weight's gradient,
        and for the input's gradient, which the first layer doesn't need."""
        first, second = IN_FEATURES * width, width * 1
        model = partial(MLP, in_features=IN_FEATURES, depth=1)
        measured = family(model, "width", tokens_per_sample).at(width)
        by_hand = 2 * (2 * first + 3 * second) / tokens_per_sample
        assert measured.counted_flops_per_token == by_hand

    @pytest.mark.parametrize("factory", [NeedsNumbers, Lazy])
    def test_of_models_built_on_the_cpu_are_those_of_plain_ones(self, factory):
        plain = family(Plain).at(12).counted_flops_per_token
        assert family(factory).at(12).counted_flops_per_token == plain

    @pytest.mark.parametrize("factory", [ReadsValues, Elementwise])
    def test_are_unknown_where_they_cannot_be_counted(self, factory):
        assert family(factory).at(12).counted_flops_per_token is None

    def test_without_a_sample_are_unknown(self):
        nothing = (torch.empty(0), torch.empty(0))
        for factory in (Plain, Elementwise):
            assert family(factory, sample=nothing).at(12).counted_flops_per_token is None


class TestNearest:
    @pytest.mark.parametrize("num_params", [1, 50, 1234, 98_765, 10**9, 10**12])
    def test_no_other_size_is_closer_in_ratio(self, num_params):
        plain = family(Plain, min=2, max=2**40)
        found = plain.nearest(num_params)
        width = found.size.value

        def ratio(width):
            n = plain.at(width).num_params
            return max(n / num_params, num_params / n)

        assert all(ratio(width) <= ratio(w) for w in (max(2, width - 1), width + 1))

    def test_is_exact_for_the_n_of_a_size(self):
        plain = family(Plain, min=8, max=4096, multiple_of=8)
        for width in (8, 16, 1024, 4096):
            assert plain.nearest(plain.at(width).num_params).size.value == width

    def test_stays_within_the_range(self):
        plain = family(Plain, min=8, max=100, multiple_of=16)
        assert plain.nearest(1).size.value == 16
        assert plain.nearest(1e12).size.value == 96

    def test_70_billion_parameters_take_no_memory(self):
        measured = family(mlp, "width", max=2**20, multiple_of=64).nearest(70e9)
        assert measured.num_params == pytest.approx(70e9, rel=0.01)
        assert measured.counted_flops_per_token == pytest.approx(6 * 70e9, rel=0.01)

    @pytest.mark.parametrize("head", [6, 128])
    def test_illegal_sizes_are_stepped_over(self, head):
        picky = family(partial(Heads, head=head))
        assert picky.smallest == head
        for target in (1, 100, 5_000, 10**7, 10**10):
            exact = family(Plain, min=head, multiple_of=head).nearest(target)
            assert picky.nearest(target) == exact

    def test_what_needs_the_cpu_stays_within_its_memory(self, monkeypatch):
        """In a quarter of a megabyte, whatever is asked."""
        memory = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64}
        monkeypatch.setattr(os, "sysconf", memory.__getitem__)
        NeedsNumbers.largest_built = 0
        found = family(NeedsNumbers, max=2**20).nearest(10**12)
        assert 4 * count(Plain(NeedsNumbers.largest_built)) < 4096 * 64
        assert found.size.value == NeedsNumbers.largest_built > 64

    def test_what_needs_no_cpu_is_not_bound_by_its_memory(self, monkeypatch):
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64}.get)
        found = family(Heads).nearest(10**8)
        assert found.num_params == pytest.approx(10**8, rel=1e-3)


@pytest.mark.parametrize("factory", [Plain, NeedsNumbers, Lazy, Heads])
def test_measuring_draws_no_random_numbers(factory):
    state = torch.random.get_rng_state()
    family(factory).nearest(5000)
    assert torch.equal(torch.random.get_rng_state(), state)


class TestWrongModels:
    def test_a_size_that_changes_nothing_is_named(self):
        class Fixed(Plain):
            def __init__(self, hidden, dropout):
                super().__init__(hidden)

        with pytest.raises(PlanError, match=r"size argument 'dropout' doesn't change.*N is 57"):
            family(partial(Fixed, 8), "dropout")
        with pytest.raises(PlanError, match="size argument 'shape' doesn't change"):
            family(partial(Fixed, 8), "shape", values=({"dropout": 0.1}, {"dropout": 0.2}))

    def test_one_single_size_may_stand_alone(self):
        assert family(Plain, values=(8,)).nearest(1e6).size.value == 8
        assert family(Plain, min=8, max=8).nearest(1e6).size.value == 8

    @pytest.mark.parametrize(
        "spec", [{"name": "width"}, {"name": "shape", "values": ({"hidden": 8, "width": 4},)}]
    )
    def test_a_missing_size_argument_is_named_with_those_there_are(self, spec):
        with pytest.raises(ConfigError, match=r"Plain takes no argument 'width'.*takes hidden"):
            family(Plain, **spec)

    def test_any_name_will_do_where_the_factory_takes_all(self):
        def factory(**arguments):
            return Plain(hidden=arguments["anything"])

        assert family(factory, "anything").at(8).num_params == count(Plain(8))

    def test_a_model_that_cannot_be_built_at_all_says_why(self):
        class Broken(nn.Module):
            def __init__(self, hidden):
                raise RuntimeError("no such backend")

        with pytest.raises(ConfigError, match=r"can't be built with hidden=1.*no such backend"):
            family(Broken)

    def test_an_illegal_size_asked_for_says_why(self):
        with pytest.raises(ConfigError, match=r"can't be built with hidden=7.*heads of 6"):
            family(Heads).at(7)

    def test_a_configured_model_passes_over_sizes_that_nobody_asked_for(self):
        node = {
            "_target_": "flops_fit.models.Transformer", "vocab_size": 8, "context_length": 4,
            "depth": 1, "num_heads": 12,
        }  # fmt: skip
        transformers = family(ConfiguredModel(Part("model", node, "mine.yaml")), "width")
        assert transformers.smallest == 24
        assert transformers.at(768).size.value == 768
        assert transformers.nearest(transformers.at(48).num_params).size.value == 48
        with pytest.raises(ConfigError, match=r"^mine\.yaml: model .*can't be built: .*width 100 "):
            transformers.at(100)

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"values": ()}, "values is empty"),
            ({"multiple_of": 0}, "multiple_of is 0"),
            ({"min": 0}, "min=0"),
            ({"min": 9, "max": 8}, "no multiple of 1 lies between min=9 and max=8"),
            ({"min": 9, "max": 15, "multiple_of": 8}, "no multiple of 8"),
        ],
    )
    def test_ranges_without_a_size_are_refused(self, spec, message):
        with pytest.raises(ConfigError, match=message):
            SizeSpec("width", **spec)


class SmallConvolutions(nn.Module):
    """3 x 11 x 10 pixels -> width x 11 x 10 -> pooled to 5 x 5 -> 2 width x 2 x 2 -> 10 classes."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 2 * 2, 10),
        )

    def forward(self, images):
        return self.layers(images)


@dataclass(frozen=True)
class Case:
    """A model, a batch, and the multiplications of its forward pass, as they are on paper.

    Those that multiply the data are apart: training makes them a second time for the gradient of
    the weight, all others also a third time for the gradient of what they multiply.
    """

    model: Callable[[], nn.Module]
    sample: tuple[Tensor, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    tokens_per_sample: int
    on_data: int
    on_activations: int

    @property
    def flops(self) -> int:
        """Of a training step, an addition going with each multiplication."""
        return 2 * (2 * self.on_data + 3 * self.on_activations)


def in_blocks(num_sequences, length, width, depth):
    """Queries, keys, values and their output: 4 matrices; up and down: 8. All heads together
    multiply each query with `length` keys, and as many values, of `width` numbers."""
    return depth * num_sequences * length * (12 * width**2 + 2 * length * width)


CASES = {
    "mlp": Case(
        partial(MLP, 16, in_features=5, out_features=3, depth=4),
        (torch.zeros(8, 5), torch.zeros(8, 3)),
        mse,
        tokens_per_sample=1,
        on_data=8 * 5 * 16,
        on_activations=8 * (3 * 16 * 16 + 16 * 3),
    ),
    "transformer": Case(
        partial(Transformer, 24, vocab_size=64, context_length=32, depth=3),
        (torch.zeros(4, 32, dtype=torch.long), torch.zeros(4, 32, dtype=torch.long)),
        cross_entropy,
        tokens_per_sample=32,
        on_data=0,  # the embedding looks up
        on_activations=in_blocks(4, 32, 24, 3) + 4 * 32 * 24 * 64,
    ),
    "gpt": Case(
        partial(GPT, 3, vocab_size=64, context_length=32, width_per_layer=8, head_dim=8),
        (torch.zeros(4, 32, dtype=torch.long), torch.zeros(4, 32, dtype=torch.long)),
        cross_entropy,
        tokens_per_sample=32,
        on_data=0,
        on_activations=in_blocks(4, 32, 24, 3) + 4 * 32 * 24 * 64,
    ),
    "gpt, swiglu": Case(  # three matrices of 24 x 64 in place of two of 24 x 96
        partial(GPT, 3, 64, 32, width_per_layer=8, head_dim=8, mlp="swiglu"),
        (torch.zeros(4, 32, dtype=torch.long), torch.zeros(4, 32, dtype=torch.long)),
        cross_entropy,
        tokens_per_sample=32,
        on_data=0,
        on_activations=in_blocks(4, 32, 24, 3) + 4 * 32 * 24 * (64 + 3 * (3 * 64 - 2 * 96)),
    ),
    "vit": Case(
        partial(ViT, 16, image_size=12, patch_size=4, channels=3, num_classes=10),
        (torch.zeros(8, 3, 12, 12), torch.zeros(8, dtype=torch.long)),
        cross_entropy,
        tokens_per_sample=9,
        on_data=8 * 9 * (3 * 4 * 4) * 16,
        on_activations=in_blocks(8, 9, 16, 2) + 8 * 16 * 10,
    ),
    "convolutions": Case(
        partial(SmallConvolutions, 6),
        (torch.zeros(8, 3, 11, 10), torch.zeros(8, dtype=torch.long)),
        cross_entropy,
        tokens_per_sample=1,
        on_data=8 * (11 * 10) * 6 * (3 * 3 * 3),
        on_activations=8 * ((2 * 2) * 12 * (6 * 3 * 3) + 12 * 2 * 2 * 10),
    ),
}


def attention_on_paper(q, k, v, scale):
    """Without a mask, which costs no multiplications."""
    return (scale * q @ k.mT).softmax(-1) @ v


def flops_of_a_step(case, device):
    """Counted while it happens, with attention as it is on paper."""
    model = case.model().to(device)
    for module in model.modules():
        if "attention" in vars(module):
            module.attention = attention_on_paper
    inputs, target = (tensor.to(device) for tensor in case.sample)
    with FlopCounterMode(display=False) as counter:
        case.loss(model(inputs), target).backward()
    return counter.get_total_flops()


CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
class TestCountedFlops:
    def test_are_those_on_paper(self, case):
        with torch.device("meta"):
            model = case.model()
        counted = flops_per_token(model, case.sample, case.loss, case.tokens_per_sample)
        assert counted == case.flops / (len(case.sample[0]) * case.tokens_per_sample)

    @pytest.mark.parametrize("device", ["meta", "cpu", CUDA])
    def test_are_the_same_on_every_device(self, case, device):
        assert flops_of_a_step(case, device) == case.flops


LADDER = """\
_target_: flops_fit.models.Transformer
size: {values: [{width: 8, depth: 1}, {width: 8, depth: 2}, {width: 12, depth: 2}]}
vocab_size: ${dataset.vocab_size}
context_length: ${dataset.context_length}
"""


@pytest.mark.slow
def test_a_ladder_of_depths_and_widths_is_planned_and_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"{i}. A ladder has steps of more than one kind. " * 9)
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/ladder.yaml").write_text(LADDER)
    words = ["train", "model=ladder", "dataset=text", "dataset.files=*.txt", "workers=1"]
    words += ["dataset.context_length=16", "dataset.held_out=0.2", "budgets=[3e7,6e7]"]
    words += ["min_steps=1", "max_epochs=1e9", "batch_size=8", "num_sizes=15", "draws=100"]
    assert main(words) == 0
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/runs/*/result.json")]
    trained = {(run["budget"], *run["size"]["value"].values()) for run in runs}
    shapes = [(8, 1), (8, 2), (12, 2)]
    assert trained == {(budget, *shape) for budget in (3e7, 6e7) for shape in shapes}
    for run in runs:
        shape = run["size"]["value"]
        in_matrices = 12 * shape["depth"] * shape["width"] ** 2 + 256 * shape["width"]
        assert run["num_params"] == in_matrices
        assert run["num_tokens"] == run["num_steps"] * 8 * 16
        assert run["status"] == "completed"
