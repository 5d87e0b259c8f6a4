"""Losses: (prediction, target) -> one number, the mean over everything predicted.

Shapes are checked, because torch would broadcast (B, 1) against (B,) to (B, B) and train on
nonsense without a word.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of two tensors of one shape."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"mse of a prediction {tuple(prediction.shape)} and a target {tuple(target.shape)}: "
            "the shapes must be equal; reshape the dataset's target or the model's output"
        )
    return F.mse_loss(prediction, target)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean nats per token of class indices `target` (...) under `logits` (..., num_classes)."""
    if logits.shape[:-1] != target.shape:
        raise ValueError(
            f"cross_entropy of logits {tuple(logits.shape)} and a target {tuple(target.shape)}: "
            "logits must have the target's shape and one more dimension, the classes, at the end"
        )
    if target.is_floating_point():
        raise TypeError(
            f"cross_entropy needs class indices, the target is {target.dtype}: "
            "give int64 indices, or use mse for real numbers"
        )
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))
