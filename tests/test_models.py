import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from flops_fit.learning.losses import cross_entropy
from flops_fit.learning.optimizers import Muon
from flops_fit.models import GPT, MLP, Transformer, ViT
from flops_fit.models import transformer as transformer_module
from flops_fit.models.transformer import causal_attention, rms_norm, rotary_angles, rotation_by
from flops_fit.models.vit import full_attention, grid_rotation, patches

VOCAB_SIZE, CONTEXT_LENGTH = 64, 32
IMAGE_SIZE, PATCH_SIZE, CHANNELS, NUM_CLASSES = 12, 4, 3, 10


def transformer(width, **arguments):
    return Transformer(width, VOCAB_SIZE, CONTEXT_LENGTH, **arguments)


def vit(width, **arguments):
    return ViT(width, IMAGE_SIZE, PATCH_SIZE, CHANNELS, NUM_CLASSES, **arguments)


def gpt(depth, **arguments):
    return GPT(depth, VOCAB_SIZE, CONTEXT_LENGTH, width_per_layer=8, head_dim=8, **arguments)


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
    "gpt": gpt(2),
    "gpt, swiglu": gpt(2, mlp="swiglu"),
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


@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
@pytest.mark.parametrize(("depth", "head_dim"), [(1, 64), (3, 64), (4, 128)])
def test_one_dial_sets_the_shape_of_a_gpt(depth, head_dim, mlp):
    model = GPT(depth, 64, 32, head_dim=head_dim, mlp=mlp)
    width = 64 * depth
    assert (len(model.blocks), model.width, model.head.in_features) == (depth, width, width)
    assert {block.num_heads for block in model.blocks} == {width // head_dim}
    assert model.cos.shape == (32, 1, 1, head_dim // 2)
    in_matrices = 12 * depth * width**2
    assert model.num_params() == pytest.approx(in_matrices + 64 * width, rel=0.1)
    if mlp == "relu2" or depth == 3:  # 8/3 x 192 is a multiple of 64
        assert model.num_params() == in_matrices + 64 * width


def test_a_gpt_may_keep_its_width():
    shapes = {GPT(depth, 64, 32, head_dim=8, width=48).width for depth in (1, 2, 7)}
    assert shapes == {48}


def test_layers_of_a_gpt_add_less_the_more_there_are():
    """In a stream too large to be changed by it, a layer adds 1 / sqrt(depth) of the same."""
    generator = torch.Generator().manual_seed(0)
    x = 1e6 * torch.randn(2, 5, 16, generator=generator, dtype=torch.double)
    added = []
    for depth in (2, 4, 8):
        model = randomized(GPT(depth, 64, 5, head_dim=8, width=16)).double()
        added.append(model.blocks[0](x, (model.cos, model.sin)) - x)
    assert added[0].abs().max() > 1
    torch.testing.assert_close(added[0], 2**0.5 * added[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(added[1], 2**0.5 * added[2], rtol=1e-3, atol=1e-3)


def test_heads_of_a_gpt_attend_alike_however_large_queries_and_keys_are():
    model, x = randomized(gpt(2)), token_ids()
    before = model(x)
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight[: 2 * block.qkv.in_features] *= 100
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)


def test_a_gpt_starts_at_uniform_predictions_and_never_looks_ahead():
    x = token_ids()
    assert cross_entropy(gpt(2)(x), x).item() == pytest.approx(math.log(VOCAB_SIZE))
    model, later = randomized(gpt(2, mlp="swiglu")), x.clone()
    later[:, 20:] = (later[:, 20:] + 1) % VOCAB_SIZE
    torch.testing.assert_close(model(x)[:, :20], model(later)[:, :20])


def test_swiglu_is_the_definition():
    block = randomized(gpt(2, mlp="swiglu")).blocks[0]
    hidden = block.down.in_features
    assert hidden == 64
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    gate, value = x @ block.up.weight[:hidden].T, x @ block.up.weight[hidden:].T
    expected = (gate * torch.sigmoid(gate) * value) @ block.down.weight.T
    torch.testing.assert_close(block.down(block.activation(block.up(x))), expected)


@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
@pytest.mark.parametrize(
    "optimizer", [partial(torch.optim.AdamW, lr=3e-3), Muon], ids=["adamw", "muon"]
)
def test_a_gpt_learns_what_follows_what(optimizer, mlp):
    """Ids that count up: from the one before, the next is known."""
    torch.manual_seed(0)
    model = gpt(2, mlp=mlp)
    optimizer = optimizer(model.param_groups())
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_scale"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        starts = torch.randint(VOCAB_SIZE, (8, 1), generator=generator)
        x = (starts + torch.arange(CONTEXT_LENGTH + 1)) % VOCAB_SIZE
        loss = cross_entropy(model(x[:, :-1]), x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < math.log(VOCAB_SIZE) / 2


def test_impossible_gpts_are_refused():
    with pytest.raises(ValueError, match=r"width 192 of depth 3 can't be cut into heads of 128"):
        GPT(3, 64, 32, head_dim=128)
    with pytest.raises(ValueError, match="head_dim is 7"):
        GPT(3, 64, 32, head_dim=7)
    with pytest.raises(ValueError, match="mlp is 'gelu': use relu2 or swiglu"):
        GPT(3, 64, 32, mlp="gelu")
    with pytest.raises(ValueError, match="depth is 0"):
        GPT(0, 64, 32)


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


def changed(model, seed):
    """A copy with other weights."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return other


STACKABLE = {
    "transformer": (transformer(16), token_ids()),
    "transformer, fused attention": (transformer(16), token_ids()),
    "vit": (vit(16), images()),
    "gpt": (gpt(2, mlp="swiglu"), token_ids()),
    "mlp": (MLP(24, in_features=8), images()[:, 0, 0, :8]),
}
STACKABLE["transformer, fused attention"][0].use_attention_kernel("fused")


@pytest.mark.parametrize(("model", "inputs"), STACKABLE.values(), ids=STACKABLE)
def test_stacked_models_compute_what_each_does_alone(model, inputs):
    models = [changed(model, seed) for seed in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)

    def loss_of(parameters, buffers):
        output = torch.func.functional_call(model, (parameters, buffers), (inputs,))
        return output.square().mean()

    losses = torch.func.vmap(loss_of)(parameters, buffers)  # (3,)
    gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
    inside, _ = torch.func.vmap(torch.func.grad_and_value(loss_of))(parameters, buffers)
    for i, alone in enumerate(models):
        loss = alone(inputs).square().mean()
        torch.testing.assert_close(losses[i], loss, rtol=1e-5, atol=0)
        expected = torch.autograd.grad(loss, list(alone.parameters()))
        for (name, stacked), own, ours in zip(inside.items(), expected, gradients, strict=True):
            scale = own.abs().max().item()
            torch.testing.assert_close(ours[i], own, rtol=1e-5, atol=1e-5 * scale, msg=name)
            torch.testing.assert_close(stacked[i], own, rtol=1e-5, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("head_dim", [4, 24, 64])
@pytest.mark.parametrize("length", [1, 7, 65, 200])
def test_rotary_tables_are_the_same_numbers_for_shorter_sequences(length, head_dim):
    model = Transformer(2 * head_dim, VOCAB_SIZE, 200)
    cos, sin = rotation_by(rotary_angles(length, head_dim, torch.device("cpu")))
    assert torch.equal(model.cos[:length], cos)
    assert torch.equal(model.sin[:length], sin)


def test_rotary_tables_are_no_part_of_a_checkpoint():
    model = transformer(16)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    with torch.device("meta"):
        assert {buffer.device.type for buffer in transformer(16).buffers()} == {"meta"}


@pytest.mark.parametrize(
    ("model", "inputs"), [STACKABLE["transformer"], STACKABLE["vit"], STACKABLE["gpt"]]
)
def test_regions_are_all_that_repeats(model, inputs):
    ran = []
    model = copy.deepcopy(model)
    for region in model.regions():
        region.register_forward_hook(lambda module, _, __: ran.append(module))
    model(inputs)
    assert ran == list(model.regions())
    parameters = {p for region in model.regions() for p in region.parameters()}
    assert parameters == set(model.matrices())


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: transformer(32), token_ids()),
        (lambda: vit(32), images()),
        (lambda: gpt(4), token_ids()),
        (lambda: gpt(4, mlp="swiglu"), token_ids()),
    ],
    ids=["transformer", "vit", "gpt", "gpt, swiglu"],
)
def test_the_stream_stays_in_bfloat16_where_a_gpu_would_keep_it_so(monkeypatch, build, inputs):
    """As on CUDA: there is none in these tests, so the CPU stands for it."""
    monkeypatch.setattr(
        transformer_module, "in_bf16_on_cuda", lambda x: torch.is_autocast_enabled("cpu")
    )
    model = changed(build(), 0)
    types = set()
    for module in (*model.blocks, *(child for b in model.blocks for child in b.children())):
        module.register_forward_hook(lambda _, args, y: types.update({args[0].dtype, y.dtype}))
    exact = model(inputs)
    assert types == {torch.float32}
    types.clear()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(inputs)
    assert types == {torch.bfloat16}
    assert low.dtype == torch.bfloat16
    assert F.cosine_similarity(low.float().flatten(), exact.flatten(), dim=0) > 0.999
    low.float().square().mean().backward()
    in_bf16 = [p.grad for p in model.parameters()]
    gradients = torch.autograd.grad(exact.square().mean(), list(model.parameters()))
    for ours, own in zip(in_bf16, gradients, strict=True):
        assert F.cosine_similarity(ours.flatten(), own.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rms_norm_written_out_is_that_of_torch(dtype):
    x = (3 * torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(0))).to(dtype)
    written_out = torch.func.vmap(rms_norm)(x)
    assert written_out.dtype == dtype
    torch.testing.assert_close(written_out, F.rms_norm(x, (32,)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["transformer", "vit", "gpt"])
def test_a_whole_step_can_be_captured_on_cuda(name):
    model, inputs = STACKABLE[name]
    model, inputs = changed(model, 0).cuda(), inputs.cuda()

    def step():
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = model(inputs).square().mean()
        return loss, torch.autograd.grad(loss, list(model.parameters()))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = [step() for _ in range(3)][-1]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.testing.assert_close(captured, expected)
