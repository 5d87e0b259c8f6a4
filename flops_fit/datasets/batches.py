"""Batches: what goes into the model, what its output is compared with, and how both are moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flops_fit.errors import ConfigError
from flops_fit.learning.losses import ATTENTION_MASK, IGNORED, TOKEN_IDS, inputs_for
from flops_fit.signatures import qualified_name

Content = Tensor | Mapping[str, Tensor]
"""One tensor with a row for each sample, or several by name."""

Batch = tuple[Content, Content]
"""(input, target); where a dataset gives one thing, it stands for both."""

TARGET_NAMES = ("target", "targets", "label", "labels", "y")
"""Of named tensors in one dict the first of these is the target."""

LENGTHS = ("lengths", "length", "seq_lens")
"""How many of each row of tokens are no padding, under one of these names."""

NOT_TOKENS = (ATTENTION_MASK, "token_type_ids", "position_ids", "segment_ids")
"""Rows of integers that say something of tokens."""

WHAT_A_SAMPLE_MAY_BE = "a tensor, a pair (input, target), or a dict of tensors by name"


def as_batch(collated: Any) -> Batch:
    """Input and target of what a collate function gave.

    A pair is (input, target). Of a dict the first of TARGET_NAMES is the target and the rest is
    the input. A tensor, or a dict without any of these names, stands for both.
    Raises `ConfigError` for other forms.
    """
    if isinstance(collated, Mapping):
        return _named_batch(collated)
    if isinstance(collated, Tensor):
        return collated, collated
    if isinstance(collated, str) or not isinstance(collated, Sequence):
        raise ConfigError(
            f"a batch is {qualified_name(collated)}: samples must be {WHAT_A_SAMPLE_MAY_BE}"
        )
    if len(collated) == 1:
        return as_batch(collated[0])
    if len(collated) != 2:
        raise ConfigError(
            f"a sample has {len(collated)} parts: samples must be {WHAT_A_SAMPLE_MAY_BE}"
        )
    return _content(collated[0]), _content(collated[1])


def _named_batch(collated: Mapping[str, Any]) -> Batch:
    named = _content(collated)
    target = next((name for name in TARGET_NAMES if name in collated), None)
    if target is None:
        return named, named
    inputs = {name: tensor for name, tensor in collated.items() if name != target}
    if not inputs:
        raise ConfigError(f"a sample has nothing but {target!r}: give the model's input beside it")
    return inputs, collated[target]


def _content(collated: Any) -> Content:
    """Raises `ConfigError` unless there are tensors and nothing else."""
    if isinstance(collated, Tensor):
        return collated
    if not isinstance(collated, Mapping):
        raise ConfigError(
            f"a part of a batch is {qualified_name(collated)}: "
            f"samples must be {WHAT_A_SAMPLE_MAY_BE}"
        )
    others = {k: type(v).__name__ for k, v in collated.items() if not isinstance(v, Tensor)}
    if others or not collated:
        listed = ", ".join(f"{name!r} ({kind})" for name, kind in others.items())
        raise ConfigError(
            f"entries of a sample are no tensors: {listed or 'there are none'}; "
            "leave them out of the dataset, or turn them into tensors or numbers (those of a "
            "Hugging Face Dataset by dataset.with_format('torch'))"
        )
    return dict(collated)


def token_rows(batch: Batch) -> Tensor | None:
    """The rows of token ids of the input (B, T); None where it has none.

    Of named inputs TOKEN_IDS is asked first, then the others in their order.
    """
    inputs = batch[0]
    if isinstance(inputs, Mapping):
        others = [t for n, t in inputs.items() if n not in (TOKEN_IDS, *NOT_TOKENS)]
        tensors = [*(inputs[name] for name in (TOKEN_IDS,) if name in inputs), *others]
    else:
        tensors = [inputs]
    return next((t for t in tensors if _are_ids(t)), None)


def told_tokens(batch: Batch, pad_id: int | None) -> Tensor | None:
    """Tokens of each row that are no padding (B,), where the batch tells: by an ATTENTION_MASK, by
    LENGTHS, by the id of padding at the ends of rows, or by targets of IGNORED beside one id that
    fills an end of a row. None where it doesn't."""
    rows, (inputs, target) = token_rows(batch), batch
    if rows is None:
        return None
    named = inputs if isinstance(inputs, Mapping) else {}
    mask = named.get(ATTENTION_MASK)
    if mask is not None and mask.shape == rows.shape:
        return (mask != 0).sum(1)
    for name in LENGTHS:
        if name in named and named[name].shape == rows.shape[:1]:
            return named[name].clamp(1, rows.shape[1])
    if pad_id is not None:
        return rows.shape[1] - ends_of(rows, rows == pad_id)
    if not isinstance(target, Tensor) or target.shape != rows.shape or target is rows:
        return None
    unlabelled = target == IGNORED
    if not unlabelled.any():
        return None
    return rows.shape[1] - torch.maximum(
        _last_run(rows, unlabelled), _last_run(rows.flip(1), unlabelled.flip(1))
    )


def ends_of(rows: Tensor, marked: Tensor) -> Tensor:
    """How many are marked at the start and the end of each row without a gap (B,), less than T."""
    most = rows.shape[1] - 1
    ends = sum(m.long().cumprod(1).sum(1) for m in (marked, marked.flip(1)))
    assert isinstance(ends, Tensor)
    return ends.clamp(max=most)


def _last_run(rows: Tensor, marked: Tensor) -> Tensor:
    """How many ids at the end of each row are the same and marked (B,), of two or more."""
    same = (rows == rows[:, -1:]) & marked
    run = same.flip(1).long().cumprod(1).sum(1)
    return torch.where(run > 1, run, 0).clamp(max=rows.shape[1] - 1)


def _are_ids(tensor: Tensor) -> bool:
    is_integer = not (tensor.is_floating_point() or tensor.is_complex())
    return tensor.ndim == 2 and is_integer and tensor.dtype != torch.bool


def output_of(model: Callable[..., Any], inputs: Content) -> Any:
    """What the model makes of the input; named tensors are given to it by their names."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def loss_of_batch(
    loss: Callable[[Any, Any], Tensor], model: Callable[..., Any], inputs: Content, target: Content
) -> Tensor:
    """The loss of what the model makes of a batch, with its labels where the loss wants it so."""
    return loss(output_of(model, inputs_for(loss, inputs, target)), target)


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


def stacked(batches: Sequence[Batch]) -> Batch:
    """The batches, all of one shape, as one of K times as many: (K, B, ...) each tensor."""
    return joined_at(0, batches)


def joined_at(place: int, batches: Sequence[Batch]) -> Batch:
    """The batches, all of one shape, with a new dimension for their number at this place."""
    return _joined_by(partial(torch.stack, dim=place), batches)


def joined(batches: Sequence[Batch]) -> Batch:
    """All samples of the batches as one."""
    return _joined_by(torch.cat, batches)


def _joined_by(join: Callable[[list[Tensor]], Tensor], batches: Sequence[Batch]) -> Batch:
    inputs, targets = zip(*batches, strict=True)
    whole = _joined(inputs, join)
    return whole, whole if targets[0] is inputs[0] else _joined(targets, join)


def _joined(contents: Sequence[Content], join: Callable[[list[Tensor]], Tensor]) -> Content:
    if isinstance(contents[0], Mapping):
        return {name: join([c[name] for c in contents]) for name in contents[0]}  # type: ignore[index]
    return join(list(contents))  # type: ignore[arg-type]


def _changed(content: Content, change: Callable[[Tensor], Tensor]) -> Content:
    if isinstance(content, Mapping):
        return {name: change(tensor) for name, tensor in content.items()}
    return change(content)
