"""What may be measured of predictions beside the loss: (prediction, target) -> one number."""

from __future__ import annotations

from torch import Tensor


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Share of class indices `target` (...) that are the likeliest of `logits` (..., classes)."""
    return (logits.argmax(-1) == target).float().mean()


def error_rate(logits: Tensor, target: Tensor) -> Tensor:
    """1 - accuracy: what falls with compute, and so can be fitted."""
    return 1 - accuracy(logits, target)
