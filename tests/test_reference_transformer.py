"""The shipped transformer against one written anew, from its sources, in plain torch operations."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_study import planned, small_sweep
from torch import Tensor

from flops_fit.datasets.adapters import as_source
from flops_fit.learning.losses import cross_entropy
from flops_fit.learning.schedules import Constant
from flops_fit.models import Transformer
from flops_fit.store.protocols import Unwatched
from flops_fit.training.kernels import KernelPlan
from flops_fit.training.trainer import train

VOCAB_SIZE, CONTEXT_LENGTH, NUM_HEADS, BASE_WIDTH = 12, 24, 2, 16


def reference_logits(weights: dict[str, Tensor], tokens: Tensor, depth: int) -> Tensor:
    """Token ids (B, T) -> logits (B, T, VOCAB_SIZE)."""
    x = weights["embedding.weight"][tokens]  # (B, T, width)
    for i in range(depth):
        qkv, out, up, down = (
            weights[f"blocks.{i}.{name}.weight"] for name in ("qkv", "attention_out", "up", "down")
        )
        q, k, v = (normed(x) @ qkv.T).chunk(3, dim=-1)  # (B, T, width) each
        heads = [
            reference_head(*parts)
            for parts in zip(*(of.chunk(NUM_HEADS, dim=-1) for of in (q, k, v)), strict=True)
        ]
        x = x + torch.cat(heads, dim=-1) @ out.T
        x = x + F.relu(normed(x) @ up.T) ** 2 @ down.T  # So et al. 2021 (Primer)
    return normed(x) @ weights["head.weight"].T


def reference_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head, one position after the other: (B, T, head_dim) -> (B, T, head_dim).

    Scores scale with 1 / head_dim (Yang et al. 2022, definition 4.1), so that they are those of
    1 / sqrt(head_dim) (Vaswani et al. 2017) at the base width.
    """
    head_dim, base_head_dim = q.shape[-1], BASE_WIDTH // NUM_HEADS
    scale = 1 / math.sqrt(base_head_dim) * base_head_dim / head_dim
    q, k = turned(q), turned(k)
    outputs = []
    for t in range(q.shape[1]):
        scores = scale * (k[:, : t + 1] @ q[:, t, :, None])  # (B, t + 1, 1)
        outputs.append((scores.softmax(dim=1) * v[:, : t + 1]).sum(dim=1))
    return torch.stack(outputs, dim=1)


def turned(x: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, equation 34) as complex numbers, each of one number of the
    first half and one of the second, as in GPT-NeoX. Base 1,000: contexts here are short."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])  # (B, T, half)
    angles = torch.tensor(
        [[t / 1000 ** (i / half) for i in range(half)] for t in range(x.shape[1])], dtype=x.dtype
    )
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


def normed(x: Tensor) -> Tensor:
    return x / x.square().mean(dim=-1, keepdim=True).sqrt()


def token_ids(count: int, length: int) -> Tensor:
    return torch.randint(VOCAB_SIZE, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("width", [16, 48])
@pytest.mark.parametrize("length", [1, CONTEXT_LENGTH])
def test_logits_are_those_of_the_reference(width, length):
    model = Transformer(width, VOCAB_SIZE, CONTEXT_LENGTH, depth=3).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.shape[-1] ** -0.5
            normal = torch.randn(parameter.shape, generator=generator, dtype=torch.double)
            parameter.copy_(2 * size * normal)
    tokens = token_ids(4, length)
    expected = reference_logits(model.state_dict(), tokens, depth=3)
    torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-4)  # fp32 angles


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("kernels", [KernelPlan(), KernelPlan(attention="fused")], ids=str)
def test_training_is_adam_on_the_reference_with_each_group_s_rate(tmp_path, width, kernels):
    """Hidden matrices and head at the rate over the width, the embedding at half of it at every
    width (Yang et al. 2022, table 8, for Adam)."""
    rate, steps = 0.02, 6
    tokens = token_ids(160, CONTEXT_LENGTH + 1)
    source = as_source((tokens[:, :-1], tokens[:, 1:]), tokens_per_sample=CONTEXT_LENGTH)
    models: list[Transformer] = []

    def factory(width: int) -> Transformer:
        models.append(Transformer(width, VOCAB_SIZE, CONTEXT_LENGTH))
        return models[-1]

    plan, recipe = planned(
        tmp_path,
        factory=factory,
        source=source,
        loss=cross_entropy,
        optimizer=partial(torch.optim.AdamW, lr=rate, weight_decay=0.0),
        schedule=Constant(0.0),
        kernels=kernels,
        sweep=small_sweep(budgets=(1e9,), sizes=(width,), min_steps=1),
    )
    experiment = replace(plan.experiments[0], num_steps=steps)
    train(experiment, recipe, tmp_path, Unwatched())
    trained = models[-1].state_dict()

    torch.manual_seed(experiment.seed)
    weights = {k: v.detach().clone() for k, v in Transformer(width, 12, 24).state_dict().items()}
    for weight in weights.values():
        weight.requires_grad_()
    groups = [
        {"params": [weight], "lr": rate / 2 if name == "embedding.weight" else rate * 16 / width}
        for name, weight in weights.items()
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    batches = source.training_batches(experiment.batch_size, experiment.order_seed)
    for _ in range(steps):
        inputs, target = next(batches)
        logits = reference_logits(weights, inputs, depth=2)
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
        optimizer.step()
    for name, weight in weights.items():
        torch.testing.assert_close(trained[name], weight.detach(), rtol=1e-3, atol=2e-4, msg=name)
