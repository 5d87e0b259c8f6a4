"""Whether model, dataset and loss fit each other: found out before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flops_fit.datasets.batches import micro_batches, output_of
from flops_fit.errors import ConfigError
from flops_fit.training.family import materialized
from flops_fit.training.recipe import Recipe


def check_fit(recipe: Recipe, batch_size: int, hint: str = "") -> None:
    """One forward, loss and backward of the smallest model on one batch, before anything trains.

    Raises `ConfigError` with the shapes and `hint`, which says where they are configured.
    """
    family = recipe.family
    size = f"{family.spec.name}={family.smallest}"
    whole = next(recipe.source.training_batches(batch_size, seed=0))
    batch = next(micro_batches(whole, recipe.micro_batch_size))
    inputs, target = batch
    shapes = f"input {_shape(inputs)}, target {_shape(target)}"
    with torch.random.fork_rng(devices=[]):
        model = materialized(family.build(family.smallest), batch)
        try:
            prediction = output_of(model, inputs)
        except Exception as error:  # whatever a user's model raises for data it wasn't made for
            raise ConfigError(
                f"the model ({size}) can't take a batch of the dataset ({shapes}): {error}{hint}"
            ) from error
        try:
            loss = recipe.loss(prediction, target)
        except Exception as error:  # likewise a user's loss
            raise ConfigError(
                f"the loss can't compare the model's output {_shape(prediction)} with the "
                f"dataset's target {_shape(target)}: {error}{hint}"
            ) from error
    _check_loss(loss)


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor {_shape(loss)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(
            f"the loss returns {got}, expected one number: the mean over the batch, "
            "such as loss.mean() (reduction='mean')"
        )
    if not loss.requires_grad:
        raise ConfigError(
            "the loss doesn't depend on the model's parameters, so nothing can be trained: "
            "is the model's output detached, or are its parameters frozen?"
        )
    loss.backward()


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shape(item)}" for name, item in value.items())
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
