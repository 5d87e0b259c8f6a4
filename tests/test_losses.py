import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from flops_fit.learning.losses import IGNORED, chunked_cross_entropy, cross_entropy, mse


def test_mse_is_the_mean_of_squared_differences():
    prediction, target = torch.tensor([[1.0], [4.0]]), torch.tensor([[3.0], [4.0]])
    assert mse(prediction, target).item() == 2.0


def test_mse_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"\(64, 1\).*\(64,\).*must be equal"):
        mse(torch.zeros(64, 1), torch.zeros(64))


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_cross_entropy_is_the_mean_surprise_in_nats(shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 7, generator=generator)
    target = torch.randint(7, shape, generator=generator)
    rows, indices = logits.double().numpy().reshape(-1, 7), target.numpy().reshape(-1)
    probabilities = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(len(rows)), indices]).mean()
    assert cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_uniform_predictions_is_the_log_of_the_vocabulary():
    loss = cross_entropy(torch.zeros(2, 3, 256), torch.zeros(2, 3, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(256))


def test_cross_entropy_says_which_shapes_do_not_fit():
    with pytest.raises(ValueError, match=r"logits \(2, 5, 3\) and a target \(2, 3\)"):
        cross_entropy(torch.zeros(2, 5, 3), torch.zeros(2, 3, dtype=torch.long))


def test_cross_entropy_refuses_targets_that_are_no_indices():
    with pytest.raises(TypeError, match=r"torch\.float32.*int64"):
        cross_entropy(torch.zeros(2, 3), torch.zeros(2))


def rows_of_logits(dtype, num_rows=50, classes=33):
    """Logits with likely and hopeless targets among them, some of which don't count."""
    generator = torch.Generator().manual_seed(0)
    logits = (6 * torch.randn(num_rows, classes, generator=generator)).to(dtype)
    target = torch.randint(classes, (num_rows,), generator=generator)
    target[::7] = IGNORED
    return logits.requires_grad_(), target


@pytest.mark.parametrize("chunk_logits", [1, 33 * 8, 33 * 50, 2**25])
@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float32, 2e-6)]
)
def test_chunked_cross_entropy_and_its_gradient_are_those_of_doubles(dtype, rounding, chunk_logits):
    """The loss to fp32's precision, the gradient to that of its own type: it's rounded once."""
    logits, target = rows_of_logits(dtype)
    loss = chunked_cross_entropy(logits, target, chunk_logits)
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    exact = logits.detach().double().requires_grad_()
    exact_loss = F.cross_entropy(exact, target)
    (exact_gradient,) = torch.autograd.grad(3 * exact_loss, exact)
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-6)
    smallest = torch.finfo(dtype).smallest_normal if dtype == torch.float16 else 1e-8
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=rounding, atol=smallest)


def test_chunked_cross_entropy_never_has_all_logits_in_memory_as_fp32():
    class Largest(TorchDispatchMode):
        fp32 = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
                self.fp32 = max(self.fp32, out.numel())
            return out

    logits, target = rows_of_logits(torch.bfloat16)
    with Largest() as largest:
        chunked_cross_entropy(logits, target, chunk_logits=33 * 10).backward()
    assert largest.fp32 == 33 * 10


def test_targets_that_are_ignored_leave_the_mean_and_the_logits_alone():
    logits, target = rows_of_logits(torch.float32)
    counted = target != IGNORED
    assert 0 < counted.sum() < len(target)
    expected = F.cross_entropy(logits[counted], target[counted])
    for loss in (cross_entropy(logits, target), chunked_cross_entropy(logits, target, 100)):
        torch.testing.assert_close(loss, expected)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient.abs().sum(1) > 0).equal(counted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_low_precision_logits_of_many_tokens_are_chunked_on_cuda_and_can_be_captured():
    logits = torch.randn(1024, 50304, device="cuda", dtype=torch.bfloat16).requires_grad_()
    target = torch.randint(50304, (1024,), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        expected = F.cross_entropy(logits, target)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = cross_entropy(logits, target)
        loss.backward()
    torch.testing.assert_close(loss, expected)
    assert torch.cuda.max_memory_allocated() - before < 4 * logits.numel() + 2**28
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (gradient,) = torch.autograd.grad(cross_entropy(logits, target), logits)
    graph.replay()
    torch.testing.assert_close(gradient, logits.grad)
