import math

import numpy as np
import pytest
import torch

from flops_fit.learning.losses import cross_entropy, mse


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
