"""Which models are given their labels: those that make their loss themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from flops_fit.datasets.batches import (
    TARGET_NAMES,
    Batch,
    Content,
    loss_of_batch,
    micro_batches,
)
from flops_fit.learning.losses import IGNORED, TOKEN_IDS, WithLabels, own
from flops_fit.training.family import (
    BYTES_PER_PARAM,
    LossFunction,
    ModelFamily,
    materialized,
    num_params_total,
)
from flops_fit.training.memory import UNKNOWN_SHARE, free_main_memory
from flops_fit.training.state import seeded

TRIED_SAMPLES = 2

ANY_NAMES = ("labels", *(name for name in TARGET_NAMES if name != "labels"))
"""As transformers has it first, for a forward that takes any names."""


def with_labels(family: ModelFamily, loss: LossFunction) -> LossFunction:
    """The loss with the labels given to the model, where `own` is asked for or the loss can do
    nothing without, and the model's forward names them; else the loss itself."""
    ways = _ways(family, loss)
    if not ways:
        return loss
    given, is_own = ways[0], _function_of(loss) is own
    if _is_too_large(family):
        return given if is_own else loss
    batch = next(micro_batches(family.sample, TRIED_SAMPLES))
    if not is_own and _works(family, loss, batch):
        return loss
    working = next((way for way in ways if _works(family, way, batch)), None)
    if working is None:
        return given if is_own else loss
    given = working
    if _is_shifted(batch) and _shifts(family, given, batch):
        return replace(given, moved_back=True)
    return given


def _is_too_large(family: ModelFamily) -> bool:
    """For being built here to try it."""
    return BYTES_PER_PARAM * num_params_total(family.example()) > UNKNOWN_SHARE * free_main_memory()


def _function_of(loss: Any) -> Any:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def _ways(family: ModelFamily, loss: LossFunction) -> list[WithLabels]:
    """Under which names forward may be given labels: the first of ours that it names, or any of
    them where it takes whatever there is. None where it has them from the dataset."""
    parameters = _parameters_of_forward(family.example())
    names = [n for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named = [name for name in TARGET_NAMES if name in names][:1]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    inputs = family.sample[0]
    if not named and takes_any and isinstance(inputs, Mapping):
        return [WithLabels(loss, input_name="", label_name=name) for name in ANY_NAMES]
    if not named or names[0] == named[0] or (isinstance(inputs, Mapping) and named[0] in inputs):
        return []
    return [WithLabels(loss, input_name=names[0], label_name=named[0])]


def _parameters_of_forward(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Without self; none of what has no Python code any more."""
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return {}


def _works(family: ModelFamily, loss: LossFunction, batch: Batch) -> bool:
    """Whether there is a loss of this batch."""
    try:
        with seeded(0):
            model = materialized(family.build(family.smallest), batch)
            return isinstance(loss_of_batch(loss, model, *batch), Tensor)
    except Exception:  # whatever a model or a loss raises that lacks labels
        return False


def _is_shifted(batch: Batch) -> bool:
    """Whether the targets are the token after each input, as far as they count."""
    tokens, target = _tokens(batch[0]), batch[1]
    if tokens is None or not isinstance(target, Tensor) or tokens.shape != target.shape:
        return False
    ahead, aimed_at = tokens[:, 1:], target[:, :-1]
    counts = aimed_at != IGNORED
    is_next = (ahead == aimed_at)[counts].all()
    return bool(counts.any() and is_next) and not bool((tokens == target)[target != IGNORED].all())


def _tokens(inputs: Content) -> Tensor | None:
    tokens = inputs.get(TOKEN_IDS) if isinstance(inputs, Mapping) else inputs
    return tokens if tokens is not None and tokens.ndim == 2 and tokens.shape[1] > 1 else None


def _shifts(family: ModelFamily, loss: WithLabels, batch: Batch) -> bool:
    """Whether the model compares its outputs with the label after each: then the first label of a
    row counts for nothing, and the last for something."""
    inputs, target = batch
    assert isinstance(target, Tensor)
    with seeded(0), torch.no_grad():
        model = materialized(family.build(family.smallest), batch).eval()
        others = (target + 1) % (target.max() + 1)
        first, last = target.clone(), target.clone()
        first[:, 0], last[:, -1] = others[:, 0], others[:, -1]
        losses = [float(loss_of_batch(loss, model, inputs, t)) for t in (target, first, last)]
    return losses[0] == losses[1] != losses[2]
