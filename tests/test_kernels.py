import json
import math
import time
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from small_study import Net, planned, small_sweep
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from flops_fit.errors import ConfigError
from flops_fit.models import Transformer, ViT
from flops_fit.models.cpu_kernels import block_attention, cpu_rms_norm
from flops_fit.models.transformer import causal_attention, rms_norm
from flops_fit.store.protocols import Unwatched
from flops_fit.training.kernel_choice import (
    Trial,
    fastest,
    kernels_of_study,
    processor,
    remember,
    remembered,
    tried_sizes,
)
from flops_fit.training.kernels import (
    EXACT_ERROR,
    KernelPlan,
    in_force,
    keep_freed_memory,
    plans_for,
    product_error,
)
from flops_fit.training.trainer import train

CPU = torch.device("cpu")
MKL_BLOCKS, MKL_FUSED = KernelPlan("default", "blocks"), KernelPlan("default", "fused")
ONEDNN_BLOCKS = KernelPlan("onednn", "blocks")


def normal(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()


def heads(length, seed, dtype=torch.float32):
    """(B, H, T, head_dim) in the memory layout that a projection of (B, T, width) leaves."""
    return normal(2, length, 3, 8, seed=seed, dtype=dtype).transpose(1, 2)


def gradients(output, inputs, seed=7):
    return torch.autograd.grad(output, inputs, normal(*output.shape, seed=seed).to(output.dtype))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200, 1000])
def test_attention_in_blocks_and_its_gradients_are_those_of_the_fused_kernel(length):
    q, k, v = (heads(length, seed) for seed in range(3))
    ours = block_attention(q, k, v, 0.3)
    torchs = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
    torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(gradients(ours, (q, k, v)), gradients(torchs, (q, k, v)))


def test_attention_in_blocks_is_in_bfloat16_under_autocast():
    q, k, v = (heads(200, seed) for seed in range(3))
    exact = block_attention(q, k, v, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        low = block_attention(q, k.bfloat16(), v, 0.3)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, atol=0.02, rtol=0.02)
    for ours, torchs in zip(gradients(low, (q, k, v)), gradients(exact, (q, k, v)), strict=True):
        assert F.cosine_similarity(ours.flatten(), torchs.flatten(), dim=0) > 0.999


def test_attention_is_counted_in_full_on_the_meta_device():
    batch, num_heads, length, head_dim = 2, 3, 200, 8
    q, k, v = torch.empty(3, batch, num_heads, length, head_dim, device="meta").requires_grad_()
    with FlopCounterMode(display=False) as counter:
        causal_attention(q, k, v, 1.0).sum().backward()
    assert counter.get_total_flops() == 12 * batch * num_heads * length**2 * head_dim


@pytest.mark.parametrize("shape", [(4, 16), (3, 7, 33), (2, 128, 512)])
def test_rms_norm_and_its_gradient_are_those_of_torch(shape):
    x = (3 * normal(*shape)).detach().requires_grad_()
    ours, torchs = cpu_rms_norm(x), F.rms_norm(x, (shape[-1],))
    torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(ours, x), gradients(torchs, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-4, 1e4])
def test_rms_norm_of_tiny_and_huge_rows_is_that_of_torch(size):
    x = (size * normal(5, 16)).detach().requires_grad_()
    ours, torchs = cpu_rms_norm(x), F.rms_norm(x, (16,))
    torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(gradients(ours, x), gradients(torchs, x))


def test_rms_norm_keeps_the_type_and_counts_no_flops():
    x = normal(4, 16)
    with torch.autocast("cpu", torch.bfloat16), FlopCounterMode(display=False) as counter:
        y = rms_norm(x)
        y.sum().backward()
    assert y.dtype == x.grad.dtype == torch.float32
    assert counter.get_total_flops() == 0
    assert rms_norm(x.bfloat16()).dtype == torch.bfloat16


def test_a_plan_is_in_force_until_its_block_ends():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with in_force(KernelPlan("onednn", "fused")):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        with in_force(KernelPlan("tf32", "fused")):
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_an_error_ends_the_plan_too():
    before = torch.backends.mkldnn.matmul.fp32_precision

    def fail():
        with in_force(KernelPlan("onednn", "fused")):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_tf32_is_for_cuda_and_leaves_the_cpu_exact():
    before = torch.backends.cuda.matmul.fp32_precision
    with in_force(KernelPlan("tf32", "fused")):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert product_error(KernelPlan("tf32")) == product_error(KernelPlan())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tf32_rounds_on_cuda():
    assert product_error(KernelPlan("tf32"), "cuda") > EXACT_ERROR
    assert product_error(KernelPlan(), "cuda") < EXACT_ERROR


def test_rounding_to_bfloat16_would_not_pass_for_exact():
    a, b = normal(2, 256, 256)
    rounded = (a.bfloat16().double() @ b.bfloat16().double()).detach()
    exact = (a.double() @ b.double()).detach()
    assert (rounded - exact).norm() / exact.norm() > 100 * EXACT_ERROR


def test_plans_for_fp32_are_exact_here_and_begin_with_the_default():
    plans = plans_for(CPU, "fp32")
    assert plans[0] == KernelPlan()
    assert all(product_error(plan) <= EXACT_ERROR for plan in plans)


def multiplying(monkeypatch, rounded):
    """From here on fp32 products are a processor's that rounds their factors like `rounded`."""
    exact = torch.Tensor.__matmul__

    def product(a, b):
        if a.dtype != torch.float32:
            return exact(a, b)
        return exact(rounded(a).double(), rounded(b).double()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)


def to_bf16_where_allowed(factor):
    may_round = torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    return factor.bfloat16() if may_round else factor


def test_a_plan_that_rounds_is_not_offered(monkeypatch):
    multiplying(monkeypatch, to_bf16_where_allowed)
    assert product_error(ONEDNN_BLOCKS) > EXACT_ERROR > product_error(KernelPlan())
    assert plans_for(CPU, "fp32") == (MKL_BLOCKS, MKL_FUSED)


def test_onednn_is_offered_where_it_does_not_round(monkeypatch):
    multiplying(monkeypatch, lambda factor: factor)
    assert plans_for(CPU, "fp32") == (MKL_BLOCKS, MKL_FUSED, ONEDNN_BLOCKS)


def test_who_lets_torch_round_everywhere_still_has_plans(monkeypatch):
    multiplying(monkeypatch, torch.Tensor.bfloat16)
    assert product_error(KernelPlan()) > EXACT_ERROR
    assert plans_for(CPU, "fp32")[0] == KernelPlan()


@pytest.mark.parametrize("plan", [MKL_BLOCKS, MKL_FUSED, ONEDNN_BLOCKS, KernelPlan("tf32")])
def test_plans_survive_json(plan):
    assert KernelPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_there_is_nothing_to_choose_but_on_a_cpu():
    assert plans_for(torch.device("cuda"), "fp32") == (MKL_FUSED,)
    assert MKL_BLOCKS in plans_for(CPU, "bf16")
    assert ONEDNN_BLOCKS not in plans_for(CPU, "bf16")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"matmul": "mkl"}, r"matmul is 'mkl': use one of default, onednn, tf32"),
        ({"attention": "flash"}, r"attention is 'flash': use one of blocks, fused"),
        ({"speed": 2}, r"no plan of kernels.*speed"),
        (["onednn"], r"\['onednn'\] is no plan of kernels"),
    ],
)
def test_unknown_kernels_are_refused(data, error):
    with pytest.raises(ConfigError, match=error):
        KernelPlan.from_json(data)


def losses_of_transformer(plan):
    """Of three steps; the first two leave the layers' zero weights behind."""
    torch.manual_seed(0)
    model = Transformer(16, vocab_size=64, context_length=100)
    model.use_attention_kernel(plan.attention)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(64, (4, 100), generator=torch.Generator().manual_seed(0))
    losses = []
    with in_force(plan):
        for _ in range(4):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize("plan", [MKL_FUSED, ONEDNN_BLOCKS])
def test_a_transformer_learns_the_same_with_every_exact_plan(plan):
    if product_error(plan) > EXACT_ERROR:
        pytest.skip(f"{plan} rounds fp32 products on {processor()}: it is not offered there")
    assert losses_of_transformer(plan) == pytest.approx(losses_of_transformer(MKL_BLOCKS), rel=1e-5)


class FusedCalls(TorchFunctionMode):
    """Counts the calls of torch's fused attention."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("attention", "calls"), [("blocks", 0), ("fused", 2)])
@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (Transformer(16, vocab_size=8, context_length=8), torch.zeros(1, 8, dtype=torch.long)),
        (ViT(16, image_size=8, patch_size=4, channels=1, num_classes=3), torch.zeros(1, 1, 8, 8)),
    ],
    ids=["transformer", "vit"],
)
def test_models_attend_as_they_are_told(model, batch, attention, calls):
    model.use_attention_kernel(attention)
    with FusedCalls() as fused:
        model(batch)
    assert fused.count == calls


class ToldNet(Net):
    told: ClassVar[list[str]] = []

    def use_attention_kernel(self, name):
        ToldNet.told.append(name)


@pytest.mark.parametrize("attention", ["blocks", "fused"])
def test_a_run_tells_its_model_the_attention_of_the_study(tmp_path, attention):
    plan, recipe = planned(tmp_path, factory=ToldNet, kernels=KernelPlan(attention=attention))
    ToldNet.told.clear()
    train(plan.experiments[0], recipe, tmp_path, Unwatched())
    assert ToldNet.told == [attention]


def trial(num_steps, seconds, loss=lambda plan: 1.0):
    """Steps that work as long, and lose as much, as is said for their plan."""

    def start(plan):
        def step():
            end = time.process_time() + seconds[plan]
            while time.process_time() < end:
                pass
            return loss(plan)

        return step

    return Trial(start, num_steps)


SHORT, LONG = 0.001, 0.01


def test_the_plan_that_is_faster_for_most_steps_wins(monkeypatch):
    monkeypatch.setattr("flops_fit.training.kernel_choice.TRIAL_SECONDS", 0)
    plans = [MKL_BLOCKS, MKL_FUSED]
    small = {MKL_BLOCKS: LONG, MKL_FUSED: SHORT}
    large = {MKL_BLOCKS: SHORT, MKL_FUSED: LONG}
    assert fastest(plans, [trial(10, small), trial(1, large)], 1e-4) == MKL_FUSED
    assert fastest(plans, [trial(1, small), trial(10, large)], 1e-4) == MKL_BLOCKS


@pytest.mark.parametrize("loss", [1.001, math.nan])
def test_a_plan_with_another_loss_is_out_however_fast(monkeypatch, loss):
    monkeypatch.setattr("flops_fit.training.kernel_choice.TRIAL_SECONDS", 0)
    seconds = {MKL_BLOCKS: LONG, MKL_FUSED: SHORT}
    wrong = trial(1, seconds, lambda plan: loss if plan == MKL_FUSED else 1.0)
    assert fastest([MKL_BLOCKS, MKL_FUSED], [wrong], 1e-4) == MKL_BLOCKS


def test_tried_sizes_stand_for_all_planned_steps(tmp_path):
    plan, _ = planned(tmp_path, sweep=small_sweep(sizes=(4, 6, 8, 12, 16)))
    tried = tried_sizes(plan.experiments)
    assert [e.size.value for e, _ in tried] == [4, 8, 16]
    assert sum(steps for _, steps in tried) == sum(e.num_steps for e in plan.experiments)


def test_a_study_remembers_its_kernels_and_tries_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr("flops_fit.training.kernel_choice.TRIAL_SECONDS", 0)
    plan, recipe = planned(tmp_path)
    cache = tmp_path / "cache" / "kernels.json"
    chosen = kernels_of_study(plan.experiments, recipe, cache)
    assert chosen in plans_for(CPU, "fp32")
    (key,) = json.loads(cache.read_text())
    for known in plans_for(CPU, "fp32"):
        remember(key, known, cache)
        assert kernels_of_study(plan.experiments, recipe, cache) == known
    kernels_of_study(plan.experiments[:1], recipe, cache)
    assert len(json.loads(cache.read_text())) == 2


class FailingNet(Net):
    def forward(self, x):
        if x.device.type == "cpu" and self.training and torch.is_grad_enabled() and len(x) == 16:
            raise OSError("no such weights")
        return super().forward(x)


def test_a_model_that_fails_leaves_the_first_plan_and_remembers_nothing(tmp_path, monkeypatch):
    plan, recipe = planned(tmp_path)
    monkeypatch.setattr(Net, "forward", FailingNet.forward)
    cache = tmp_path / "kernels.json"
    assert kernels_of_study(plan.experiments, recipe, cache) == plans_for(CPU, "fp32")[0]
    assert not cache.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"key": 3}', '{"key": {"matmul": "cutlass"}}'])
def test_a_corrupt_cache_is_as_good_as_none(tmp_path, text):
    cache = tmp_path / "kernels.json"
    cache.write_text(text)
    assert remembered("key", cache) is None
    remember("key", ONEDNN_BLOCKS, cache)
    assert remembered("key", cache) == ONEDNN_BLOCKS


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    remember("key", MKL_FUSED, tmp_path / "file" / "kernels.json")
    assert remembered("key", tmp_path / "file" / "kernels.json") is None


def test_the_processor_has_a_name_with_what_torch_uses_of_it():
    assert processor().endswith(torch.backends.cpu.get_cpu_capability())
    assert len(processor().split()) > 1


@pytest.mark.skipif(torch.version.cuda is not None, reason="page faults of the CUDA runtime")
def test_freed_memory_is_kept_for_the_next_tensors():
    import resource

    keep_freed_memory()

    def page_faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.zeros(2**22)  # 16 MiB: 4,096 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    page_faults()
    assert page_faults() < 4096
