"""Models stacked by torch.func.vmap, computed by the same kernels as each alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch
from torch._C._functorch import TransformType


class Transforms(NamedTuple):
    """Which of torch.func's transforms are at work around a call, in eager mode."""

    any: bool
    only_vmap: bool


NO_TRANSFORMS = Transforms(any=False, only_vmap=False)


def transforms() -> Transforms:
    """None in code that torch.compile traces, where kernels are its own."""
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return NO_TRANSFORMS
    kinds = {level.key() for level in _functorch.get_interpreter_stack() or ()}
    return Transforms(any=True, only_vmap=kinds == {TransformType.Vmap})


def computed_together(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` of tensors whose first dimension is a batch, under vmap: of all models' batches
    as a single one.

    For kernels that vmap doesn't know: it would call those of torch once a model, with a warning,
    and refuse autograd functions.
    """
    y: Tensor = _ComputedTogether.apply(function, *tensors)
    return y


class _ComputedTogether(torch.autograd.Function):
    """Only its way under vmap is ever taken: gradients go through what `function` does there."""

    @staticmethod
    def forward(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        raise NotImplementedError("torch.func.grad inside of vmap, for which there are other ways")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        function: Callable[..., Tensor],
        *tensors: Tensor,
    ) -> tuple[Tensor, int]:
        stacked = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]  # (models, B, ...) each
        y = function(*(tensor.flatten(0, 1) for tensor in stacked))
        return y.unflatten(0, (info.batch_size, -1)), 0
