"""Batches: what goes into the model, what its output is compared with, and how both are moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Content = Tensor | Mapping[str, Tensor]
"""One tensor with a row for each sample, or several by name."""

Batch = tuple[Content, Content]
"""(input, target); where a dataset gives one thing, it stands for both."""


def output_of(model: nn.Module, inputs: Content) -> Any:
    """What the model makes of the input; named tensors are given to it by their names."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def num_samples(batch: Batch) -> int:
    return len(next(iter(tensors_of(batch[0]))))


def tensors_of(content: Content) -> list[Tensor]:
    return list(content.values()) if isinstance(content, Mapping) else [content]


def on_device(batch: Batch, device: torch.device | str) -> Batch:
    """The batch on `device`; a copy to a GPU goes on while other work is queued."""
    return changed(batch, lambda tensor: tensor.to(device, non_blocking=True))


def micro_batches(batch: Batch, size: int | None) -> Iterator[Batch]:
    """The batch in parts of `size` samples, the last one perhaps shorter; None: whole."""
    total = num_samples(batch)
    if size is None or size >= total:
        yield batch
        return
    for start in range(0, total, size):
        yield changed(batch, lambda tensor, start=start: tensor[start : start + size])  # type: ignore[misc]


def changed(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor changed; one that is input and target stays one."""
    inputs, target = batch
    new_inputs = _changed(inputs, change)
    return new_inputs, new_inputs if target is inputs else _changed(target, change)


def _changed(content: Content, change: Callable[[Tensor], Tensor]) -> Content:
    if isinstance(content, Mapping):
        return {name: change(tensor) for name, tensor in content.items()}
    return change(content)
