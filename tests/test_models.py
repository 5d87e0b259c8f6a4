import math

import pytest
import torch
import torch.nn.functional as F

from flops_fit.learning.losses import cross_entropy
from flops_fit.models import MLP, Transformer, ViT
from flops_fit.models.transformer import causal_attention
from flops_fit.models.vit import full_attention, grid_rotation, patches

VOCAB_SIZE, CONTEXT_LENGTH = 64, 32
IMAGE_SIZE, PATCH_SIZE, CHANNELS, NUM_CLASSES = 12, 4, 3, 10


def transformer(width, **arguments):
    return Transformer(width, VOCAB_SIZE, CONTEXT_LENGTH, **arguments)


def vit(width, **arguments):
    return ViT(width, IMAGE_SIZE, PATCH_SIZE, CHANNELS, NUM_CLASSES, **arguments)


def images(batch_size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, CHANNELS, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


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


MODELS = {
    "mlp": MLP(24, in_features=8),
    "shallow mlp": MLP(8, in_features=3, out_features=2, depth=1),
    "transformer": transformer(16),
    "vit": vit(16),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_parameter_is_in_one_group(model):
    grouped = [p for group in model.param_groups() for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
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


def test_vit_counts_all_its_weights():
    patch_embedding, head = CHANNELS * PATCH_SIZE**2 * 24, 24 * NUM_CLASSES
    assert vit(24, depth=3).num_params() == patch_embedding + 3 * 12 * 24**2 + head


def test_vit_starts_at_uniform_predictions():
    loss = cross_entropy(vit(16)(images()), torch.arange(4))
    assert loss.item() == pytest.approx(math.log(NUM_CLASSES))


def test_vit_embeds_patches_as_a_convolution_does():
    x, weight = images(), vit(16).embedding.weight
    kernels = weight.view(16, CHANNELS, PATCH_SIZE, PATCH_SIZE)
    expected = F.conv2d(x, kernels, stride=PATCH_SIZE).flatten(2).transpose(1, 2)  # (B, T, 16)
    torch.testing.assert_close(patches(x, PATCH_SIZE) @ weight.T, expected)


def test_vit_sees_every_pixel_and_where_it_is():
    model, x = randomized(vit(16)), images().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert gradient.abs().min() > 0
    same_patches_elsewhere = model(x.roll(PATCH_SIZE, dims=3))
    assert (same_patches_elsewhere - logits).abs().max() > 1e-2


def test_vit_tells_patches_of_one_content_by_their_distance():
    """Scores of equal queries and keys depend on rows and columns between them, and on nothing
    else: neither on where they are, nor would the same distance turned by 90 degrees do."""
    side, head_dim = 3, 8
    cos, sin = grid_rotation(side, head_dim)  # (9, 1, 1, 4) each
    turns = torch.complex(cos, sin)[:, 0, 0]  # (9, 4)
    content = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scores = ((turns * content) @ turns.conj().T).real  # (9, 9)
    by_distance = {}
    for i, j in torch.cartesian_prod(torch.arange(9), torch.arange(9)).tolist():
        distance = (i // side - j // side, i % side - j % side)
        by_distance.setdefault(distance, set()).add(round(scores[i, j].item(), 4))
    assert all(len(values) == 1 for values in by_distance.values())
    assert by_distance[0, 1] != by_distance[1, 0] != by_distance[2, 0]


@pytest.mark.parametrize("length", [16, 600, 2100], ids=["short", "longer", "fused"])
@pytest.mark.parametrize("attention", [causal_attention, full_attention])
def test_attention_equals_the_definition(attention, length):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, length, 8, generator=generator)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1) * (attention is causal_attention)
    scores = (0.3 * q @ k.mT).masked_fill(hidden, -math.inf)
    expected = scores.softmax(-1) @ v
    torch.testing.assert_close(attention(q, k, v, 0.3), expected)


def test_attention_works_in_bfloat16_autocast():
    model, x = randomized(transformer(16)), token_ids()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x)
    assert F.cosine_similarity(low.float().flatten(), model(x).flatten(), dim=0) > 0.99


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match=r"width 18 can't be shared by 2 heads.*multiples of 4"):
        transformer(18)
    with pytest.raises(
        ValueError, match=r"width 10 can't be shared by 2 heads.*multiples of 4 from"
    ):
        vit(10)
    with pytest.raises(ValueError, match=r"width 2 can't be shared by 1 heads.*from 4 on"):
        vit(2, num_heads=1)
    with pytest.raises(ValueError, match=r"12 x 12 pixels can't be cut into patches of 5 x 5"):
        ViT(16, image_size=12, patch_size=5, channels=1, num_classes=10)
    with pytest.raises(ValueError, match=r"\(3, 12, 16\), the model is made for \(3, 12, 12\)"):
        vit(16)(torch.zeros(1, 3, 12, 16))
    with pytest.raises(ValueError, match="depth is 0"):
        MLP(8, in_features=2, depth=0)
    with pytest.raises(ValueError, match=r"40 tokens in a sequence.*32"):
        transformer(16)(token_ids(length=40))
