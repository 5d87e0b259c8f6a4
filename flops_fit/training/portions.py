"""How the losses of a batch's portions make the loss of the whole batch.

A loss is a mean, over samples or over the targets that count: those that are not ignored. A part's
share in the whole is so many of them over those of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch, Content, num_samples, tensors_of


@runtime_checkable
class CountsTargets(Protocol):
    """A loss that says itself how many targets it is the mean of."""

    def num_targets(self, target: Any) -> Tensor | int: ...


class Weights(Protocol):
    """What a loss is the mean of."""

    def __call__(self, target: Content) -> Tensor | int:
        """How many of them are in a batch with this target."""


@dataclass(frozen=True)
class Samples:
    """Every sample counts the same."""

    def __call__(self, target: Content) -> int:
        return len(tensors_of(target)[0])


@dataclass(frozen=True)
class Labels:
    """Class indices other than `ignored`; without the first of each row where the model moves them
    by one itself, or the last."""

    ignored: int
    without_first: bool = False
    without_last: bool = False

    def __call__(self, target: Content) -> Tensor:
        assert isinstance(target, Tensor)
        return (self.of(target) != self.ignored).sum()

    def of(self, target: Tensor) -> Tensor:
        if self.without_first:
            return target[..., 1:]
        return target[..., :-1] if self.without_last else target


@dataclass(frozen=True)
class Said:
    """As the loss says itself."""

    loss: CountsTargets

    def __call__(self, target: Content) -> Tensor | int:
        return self.loss.num_targets(target)


@dataclass(frozen=True)
class Portions:
    """What the loss is the mean of; `depends` says why the result depends on the portions that are
    computed at once, a clause for a person, None where it doesn't."""

    weights: Weights = field(default_factory=Samples)
    depends: str | None = None

    def weight(self, target: Content) -> Tensor | int:
        """Of a batch: a number where it is at hand, on a GPU a tensor that nobody waits for."""
        count = self.weights(target)
        if isinstance(count, Tensor) and count.device.type != "cuda":
            return int(count)
        return count

    def shares(self, parts: Sequence[Batch]) -> list[float | Tensor]:
        """Of each part in the loss of all of them. By samples where no target counts: then the
        loss is the mean of nothing, in portions as in the whole."""
        samples = [num_samples(part) for part in parts]
        by_samples: list[float | Tensor] = [n / sum(samples) for n in samples]
        if len(parts) == 1 or isinstance(self.weights, Samples):
            return by_samples
        weights = [self.weight(target) for _, target in parts]
        total = sum(weights)
        if not isinstance(total, Tensor):
            return [w / total for w in weights if total] or by_samples
        return [
            torch.where(total > 0, w / total.clamp(min=1), n)
            for w, n in zip(weights, by_samples, strict=True)
        ]


def portion_of_loss(loss: Tensor, share: float | Tensor) -> Tensor:
    """The part's share of its loss; 0 of one that is the mean of no targets."""
    if isinstance(share, Tensor):
        return torch.where(share > 0, loss * share.to(loss.dtype), torch.zeros_like(loss))
    return loss * share if share < 1 else loss
