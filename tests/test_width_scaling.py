"""One learning rate serves all widths: activations and their updates keep their size."""

import functools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from from_scripts import loaded
from torch import Tensor, nn

from flops_fit.datasets import PythonSource, SyntheticImages, Toy
from flops_fit.learning.losses import cross_entropy, mse
from flops_fit.models import GPT, MLP, Transformer, ViT

WIDTHS = (16, 32, 64, 128, 256)
NUM_STEPS = 5
NUM_SEEDS = 2

FLAT = 0.15
"""Largest slope of a size that does not change with width; measured: below 0.1."""

GROWING = 0.5
"""Slope of a size that clearly does; measured with one rate for all groups: 0.9 to 1.7."""


check = loaded("check_width_scaling")


@dataclass(frozen=True)
class Case:
    model: Callable[[int], nn.Module]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor], Tensor]
    lr: float


@functools.cache
def python_source():
    return PythonSource(context_length=32)


def source_code(seed):
    """Real text: of random ids updates would partly cancel, the more the wider the model."""
    return next(python_source().training_batches(16, seed))


CASES = {
    "mlp": Case(
        partial(MLP, in_features=8),
        lambda seed: next(Toy().training_batches(64, seed)),
        mse,
        lr=0.01,
    ),
    "transformer": Case(
        partial(Transformer, vocab_size=256, context_length=32), source_code, cross_entropy, lr=0.02
    ),
    "gpt": Case(
        lambda width: GPT(2, 256, 32, head_dim=8, width=width, base_width=16, base_depth=2),
        source_code,
        cross_entropy,
        lr=0.02,
    ),
    "vit": Case(
        partial(ViT, image_size=12, patch_size=4, channels=1, num_classes=10, num_heads=1),
        lambda seed: next(SyntheticImages().training_batches(32, seed)),
        cross_entropy,
        lr=0.005,
    ),
}


def is_layer(module):
    return isinstance(module, nn.Linear | nn.Embedding)


def rms(tensor):
    return tensor.square().mean().sqrt().item()


def sizes_of_activations(case, width, seed, lr_scale):
    """Name and step -> size of a layer's output and of how far it is from where it began."""
    torch.manual_seed(seed)
    model = case.model(width)
    outputs = {}
    for name, layer in model.named_modules():
        if is_layer(layer):
            layer.register_forward_hook(lambda _, __, y, name=name: outputs.update({name: y}))
    inputs, target = case.batch(seed)
    groups = [{**g, "lr": case.lr * lr_scale(g)} for g in model.param_groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    sizes, first = {}, {}
    for step in range(NUM_STEPS + 1):
        loss = case.loss(model(inputs), target)
        for name, output in outputs.items():
            start = first.setdefault(name, output.detach().clone())
            sizes[name, "size", step] = rms(output.detach())
            sizes[name, "change", step] = rms(output.detach() - start)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sizes


def slopes(case, lr_scale):
    """Of ln size over ln width, sizes being means over seeds."""
    by_width = defaultdict(list)
    for width in WIDTHS:
        runs = [sizes_of_activations(case, width, seed, lr_scale) for seed in range(NUM_SEEDS)]
        for key in runs[0]:
            by_width[key].append(np.mean([run[key] for run in runs]))
    return {
        key: np.polyfit(np.log(WIDTHS), np.log(values), 1)[0]
        for key, values in by_width.items()
        if min(values) > 0
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_activations_and_their_updates_have_one_size_at_every_width(case):
    """The coordinate check of Yang et al. 2022, appendix D.1."""
    found = slopes(case, lambda group: group["lr_scale"])
    moved = {name for name, what, step in found if what == "change" and step == NUM_STEPS}
    assert moved == {name for name, module in case.model(16).named_modules() if is_layer(module)}
    assert {key: slope for key, slope in found.items() if abs(slope) > FLAT} == {}


DEPTHS = (2, 4, 8, 16)


def added_by_layers(depth, residual_scale, seed):
    """Size of what all layers of a GPT together add to the stream, after NUM_STEPS steps."""
    torch.manual_seed(seed)
    model = GPT(depth, 256, 32, head_dim=8, width=32, base_width=16, base_depth=2)
    for block in model.blocks:
        block.residual_scale = residual_scale(block)
    inputs, target = source_code(seed)
    groups = [{**g, "lr": 0.02 * g["lr_scale"]} for g in model.param_groups()]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        cross_entropy(model(inputs), target).backward()
        optimizer.step()
    streams = []
    for module in (model.embedding, model.blocks[-1]):
        module.register_forward_hook(lambda _, __, y: streams.append(y.detach()))
    model(inputs)
    return rms(streams[1] - streams[0])


def slope_over_depth(residual_scale):
    added = [
        np.mean([added_by_layers(depth, residual_scale, seed) for seed in range(NUM_SEEDS)])
        for depth in DEPTHS
    ]
    return np.polyfit(np.log(DEPTHS), np.log(added), 1)[0]


@pytest.mark.slow
def test_layers_of_a_gpt_move_the_stream_alike_at_every_depth():
    assert abs(slope_over_depth(lambda block: block.residual_scale)) < FLAT


@pytest.mark.slow
def test_without_scaled_layers_the_stream_moves_the_more_the_deeper_a_gpt_is():
    assert slope_over_depth(lambda block: 1.0) > GROWING


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_without_scaled_rates_updates_grow_with_width(case):
    found = slopes(case, lambda group: 1.0)
    assert max(found.values()) > GROWING


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mlp-toy", {"sizes": (8, 32, 128), "num_steps": 1000}),
        (
            "transformer-python_source",
            {"sizes": (16, 64, 256), "num_steps": 40, "held_out_samples": 32},
        ),
    ],
)
def test_one_learning_rate_is_near_the_best_at_every_width(name, changes):
    scan = replace(check.SCANS[name], **changes)
    table = check.scanned(scan, factors=(0.5, 1.0, 2.0))
    assert min(table.excess) < check.LIMIT
