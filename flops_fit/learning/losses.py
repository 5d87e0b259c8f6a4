"""Losses: (prediction, target) -> one number, the mean over everything predicted.

Shapes are checked, because torch would broadcast (B, 1) against (B,) to (B, B) and train on
nonsense without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
"""A target that counts for nothing, as for `F.cross_entropy`."""

CHUNK_LOGITS = 2**25
"""Logits that are in memory as fp32 at once: 128 MiB, enough to keep a GPU busy."""


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of two tensors of one shape."""
    if prediction.shape != target.shape:
        raise ValueError(
            f"mse of a prediction {tuple(prediction.shape)} and a target {tuple(target.shape)}: "
            "the shapes must be equal; reshape the dataset's target or the model's output"
        )
    return F.mse_loss(prediction, target)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean nats per token of class indices `target` (...) under `logits` (..., num_classes).

    Targets of IGNORED are left out. Sums are in fp32. Logits of lower precision on a GPU are never
    in memory as fp32 all at once; torch's own loss would put 4 more bytes there for each of them
    going forward and 6 going back.
    """
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
    rows, indices = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    if logits.dtype not in (torch.bfloat16, torch.float16) or logits.is_cpu:
        return F.cross_entropy(rows, indices)
    if torch.compiler.is_compiling() or rows.numel() <= CHUNK_LOGITS or _is_transformed():
        return F.cross_entropy(rows.float(), indices)
    return chunked_cross_entropy(rows, indices)


def _is_transformed() -> bool:
    """Whether vmap or another of torch.func's transforms is at work."""
    return torch._C._are_functorch_transforms_active()


def chunked_cross_entropy(
    logits: Tensor, target: Tensor, chunk_logits: int = CHUNK_LOGITS
) -> Tensor:
    """`F.cross_entropy` of rows (N, num_classes) of any precision and N indices, in fp32.

    At most about `chunk_logits` of the logits, and one row at least, are in memory as fp32 at once.
    For eager mode: torch.compile gets there by itself, and would unroll the chunks.
    """
    rows = max(1, chunk_logits // logits.shape[-1])
    loss: Tensor = _ChunkedCrossEntropy.apply(logits, target, rows)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Nothing is kept for the backward pass but the logits themselves: their softmax is made anew,
    which costs one more read of them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, rows: int) -> Tensor:
        sums = [
            F.nll_loss(
                F.log_softmax(part, -1, dtype=torch.float32),
                indices,
                ignore_index=IGNORED,
                reduction="sum",
            )
            for part, indices in _chunks(rows, logits, target)
        ]
        count = (target != IGNORED).sum()
        ctx.save_for_backward(logits, target, count)
        ctx.rows = rows
        return torch.stack(sums).sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, count = ctx.saved_tensors
        ignored = (target == IGNORED)[:, None]  # (N, 1)
        scale = ~ignored * (gradient / count.clamp(min=1))  # (N, 1)
        indices = target[:, None].masked_fill(ignored, 0)  # (N, 1)
        result = torch.empty_like(logits)
        for out, part, index, of_rows in _chunks(ctx.rows, result, logits, indices, scale):
            p = torch.softmax(part, -1, dtype=torch.float32)
            p.scatter_add_(1, index, torch.full_like(of_rows, -1.0))
            torch.mul(p, of_rows, out=out)
        return result, None, None


def _chunks(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """So many rows of each, one part after the other."""
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


TOKEN_IDS, ATTENTION_MASK = "input_ids", "attention_mask"
"""Of several named rows of integers those that are tokens, and beside them 0 where they are
padding."""


def own(output: Any, target: Any) -> Tensor:
    """The loss that the model has made itself.

    Of an object with `.loss`, of a dict with "loss", of a tuple the only part that is one number,
    or the output itself if it is one. The model is given its labels where its `forward` names them,
    see `WithLabels`. Raises `ValueError` where there is no such loss.
    """
    found = _loss_in(output)
    if found is None:
        raise ValueError(
            f"no loss in the model's output ({_told(output)}): give an object with .loss, a dict "
            'with "loss", or a tuple with one part that is a single number; its forward must have '
            "made it from the labels"
        )
    return found


def _loss_in(output: Any) -> Tensor | None:
    if isinstance(output, Mapping):
        return output.get("loss")
    if isinstance(output, tuple | list):
        numbers = [part for part in output if _is_number(part)]
        return numbers[0] if len(numbers) == 1 else None
    return output if _is_number(output) else getattr(output, "loss", None)


def _is_number(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim == 0 and part.is_floating_point()


def _told(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return ", ".join(f"{name}: {_told(part)}" for name, part in output.items())
    if isinstance(output, tuple | list):
        return f"({', '.join(map(_told, output))})"
    return type(output).__name__


@dataclass(frozen=True)
class WithLabels:
    """A loss of a model whose forward is given the labels beside its input, under this name.

    `input_name` is what an input without a name is called there. `moved_back`: the model compares
    each output with the label after it, and the data's targets are the tokens after each input
    already; so it is given them one place later, and the last one is not asked for.
    """

    loss: Callable[[Any, Any], Tensor]
    input_name: str
    label_name: str
    moved_back: bool = False

    def __call__(self, output: Any, target: Any) -> Tensor:
        return self.loss(output, target)

    def inputs(self, inputs: Any, target: Any) -> dict[str, Any]:
        """What forward is given."""
        named = dict(inputs) if isinstance(inputs, Mapping) else {self.input_name: inputs}
        return {**named, self.label_name: self.labels(target)}

    def labels(self, target: Any) -> Any:
        if isinstance(target, Mapping):
            target = _labels_of(target, self.label_name)
        if not self.moved_back:
            return target
        return torch.cat([torch.full_like(target[..., :1], IGNORED), target[..., :-1]], dim=-1)


def _labels_of(target: Mapping[str, Any], name: str) -> Any:
    """Of named tensors those of this name, else the tokens without padding."""
    if name in target or TOKEN_IDS not in target:
        return target.get(name, target)
    tokens = target[TOKEN_IDS]
    if ATTENTION_MASK not in target:
        return tokens
    return tokens.masked_fill(target[ATTENTION_MASK] == 0, IGNORED)


def inputs_for(loss: Any, inputs: Any, target: Any) -> Any:
    """What the model is given: the input, and the labels where the loss wants it so."""
    return loss.inputs(inputs, target) if isinstance(loss, WithLabels) else inputs
