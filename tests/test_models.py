import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from flops_fit.losses import cross_entropy, mse
from flops_fit.models import MLP, Transformer
from flops_fit.models.transformer import causal_attention

VOCAB_SIZE, CONTEXT_LENGTH = 64, 32


def transformer(width, **arguments):
    return Transformer(width, VOCAB_SIZE, CONTEXT_LENGTH, **arguments)


def token_ids(batch_size=4, length=CONTEXT_LENGTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB_SIZE, (batch_size, length), generator=generator)


def randomized(model):
    """With no weight at zero, so that every part has a say in the output."""
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(i)
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


MODELS = [MLP(24, in_features=8), MLP(8, in_features=3, out_features=2, depth=1), transformer(16)]


@pytest.mark.parametrize("model", MODELS, ids=["mlp", "shallow mlp", "transformer"])
def test_every_parameter_is_in_one_group(model):
    grouped = [p for group in model.param_groups() for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())


@pytest.mark.parametrize("model", MODELS, ids=["mlp", "shallow mlp", "transformer"])
def test_groups_marked_matrix_hold_the_hidden_matrices(model):
    marked = {p for group in model.param_groups() if group["matrix"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if p in marked}
    assert names == {
        name
        for name, p in model.named_parameters()
        if p.ndim == 2 and name.startswith(("hidden", "blocks"))
    }


def test_mlp_counts_all_its_weights_and_biases():
    model = MLP(10, in_features=8, out_features=3)
    assert model.num_params() == (8 * 10 + 10) + 2 * (10 * 10 + 10) + (10 * 3 + 3)
    assert model.num_params() == sum(p.numel() for p in model.parameters())


def test_mlp_maps_rows_to_rows_and_starts_at_zero():
    assert MLP(16, in_features=8, out_features=2)(torch.randn(5, 8)).tolist() == [[0, 0]] * 5


def test_mlp_activations_keep_their_size_through_the_layers():
    torch.manual_seed(0)
    model = MLP(512, in_features=8, depth=8)
    size = model.hidden(model.first(torch.randn(256, 8))).square().mean().item()
    assert 0.5 < size / 2 < 2  # (fan-in of the first layer) x 2 / fan-in = 2


def test_transformer_counts_matrices_and_head_without_embeddings():
    model = transformer(16, depth=3)
    embeddings = VOCAB_SIZE * 16
    assert model.num_params() == sum(p.numel() for p in model.parameters()) - embeddings


def test_transformer_starts_at_uniform_predictions():
    x = token_ids()
    assert cross_entropy(transformer(16)(x), x).item() == pytest.approx(math.log(VOCAB_SIZE))


def test_transformer_never_looks_ahead():
    model, x = randomized(transformer(16)), token_ids()
    changed = x.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % VOCAB_SIZE
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20])
    assert (before[:, 20:] - after[:, 20:]).abs().amax(-1).min() > 1e-4


def test_transformer_reads_shorter_sequences_as_prefixes():
    model, x = randomized(transformer(16)), token_ids()
    torch.testing.assert_close(model(x[:, :9]), model(x)[:, :9])


@pytest.mark.parametrize("device_length", [16, 600], ids=["written out", "fused"])
def test_attention_equals_the_definition(device_length):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, device_length, 8, generator=generator)
    mask = torch.ones(device_length, device_length, dtype=torch.bool).tril()
    scores = (0.3 * q @ k.mT).masked_fill(~mask, -math.inf)
    expected = scores.softmax(-1) @ v
    torch.testing.assert_close(causal_attention(q, k, v, 0.3), expected)


def counted_flops(model, x, loss):
    with FlopCounterMode(display=False) as counter:
        loss(model(x), x).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("depth", [1, 3])
def test_transformer_on_the_meta_device_costs_what_the_formula_says(depth):
    with torch.device("meta"):
        model, x = transformer(24, depth=depth), torch.zeros(4, CONTEXT_LENGTH, dtype=torch.long)
        flops_per_token = counted_flops(model, x, cross_entropy) / x.numel()
    assert flops_per_token == 6 * model.num_params() + 12 * depth * 24 * CONTEXT_LENGTH


def test_mlp_on_the_meta_device_costs_what_the_formula_says():
    with torch.device("meta"):
        model, x = MLP(16, in_features=8, out_features=8), torch.zeros(4, 8)
        flops = counted_flops(model, x, mse) / len(x)
    weights = 8 * 16 + 2 * 16 * 16 + 16 * 8
    assert flops == 6 * weights - 2 * 8 * 16  # the input itself needs no gradient


def output_change(model, x, target, loss, lr):
    """Root mean square of what two Adam steps do to the outputs."""
    groups = [{**g, "lr": lr * g["lr_scale"]} for g in model.param_groups()]
    optimizer = torch.optim.Adam(groups)
    before = model(x)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model(x), target).backward()
        optimizer.step()
    return (model(x) - before).square().mean().sqrt().item()


def test_one_learning_rate_moves_transformers_of_all_widths_alike():
    changes = []
    for width in (16, 64, 256):
        torch.manual_seed(0)
        x = token_ids()
        changes.append(output_change(transformer(width), x, x.roll(1, 1), cross_entropy, 0.01))
    assert max(changes) / min(changes) < 2


def test_one_learning_rate_moves_mlps_of_all_widths_alike():
    changes = []
    for width in (32, 128, 512):
        torch.manual_seed(0)
        x = torch.randn(64, 8)
        changes.append(output_change(MLP(width, 8), x, x[:, :1], mse, 0.01))
    assert max(changes) / min(changes) < 2


def test_attention_works_in_bfloat16_autocast():
    model, x = randomized(transformer(16)), token_ids()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    assert F.cosine_similarity(low.float().flatten(), model(x).flatten(), dim=0) > 0.99


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match=r"width 18 can't be shared by 2 heads.*multiples of 4"):
        transformer(18)
    with pytest.raises(ValueError, match="depth is 0"):
        MLP(8, in_features=2, depth=0)
    with pytest.raises(ValueError, match=r"40 tokens in a sequence.*32"):
        transformer(16)(token_ids(length=40))
