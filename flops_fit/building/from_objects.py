"""From Python objects, as `find_optimal` gets them, to what a study is made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import nn

from flops_fit.building.ingredients import Ingredients
from flops_fit.learning.schedules import Cosine, Schedule
from flops_fit.plan.rules import Rules
from flops_fit.signatures import (
    check_argument_names,
    first_name,
    qualified_name,
    source_hashes,
)
from flops_fit.training.family import LossFunction, ModelFactory, SizeSpec
from flops_fit.training.recipe import Metric


def model_factory(model_cls: ModelFactory, arguments: Mapping[str, Any]) -> ModelFactory:
    """The class with the arguments that all sizes share. Raises `ConfigError` for unknown ones."""
    check_argument_names(model_cls, arguments, qualified_name(model_cls))
    return functools.partial(model_cls, **arguments)


def ingredients(
    *,
    model_cls: ModelFactory,
    arguments: Mapping[str, Any],
    size: SizeSpec,
    dataset: Any,
    loss: LossFunction,
    optimizer_cls: Callable[..., torch.optim.Optimizer] | None,
    learning_rate: float,
    schedule: Schedule | None,
    metrics: Mapping[str, Metric] | None,
    rules: Rules,
) -> Ingredients:
    """The objects of a study with what ids know of them."""
    schedule, metrics = schedule or Cosine(), metrics or {}
    optimizer_cls = optimizer_cls or torch.optim.AdamW
    return Ingredients(
        factory=model_factory(model_cls, arguments),
        size=size,
        dataset=dataset,
        loss=loss,
        optimizer=functools.partial(optimizer_cls, lr=learning_rate),
        schedule=schedule,
        identity={
            "model": {"_target_": described(model_cls), **described(arguments)},
            "dataset": qualified_name(dataset),
            "loss": described(loss),
            "optimizer": {"_target_": described(optimizer_cls), "lr": learning_rate},
            "schedule": described(schedule),
            "metrics": described(metrics),
        },
        metrics=metrics,
        rules=rules,
        sources=source_hashes({qualified_name(part): part for part in (model_cls, loss)}),
    )


def described(value: Any) -> Any:
    """A value as JSON that stays the same from one process to the next.

    Numbers, text and collections as they are; functions and classes by name; modules and
    dataclasses by what they print.
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): described(item) for key, item in value.items()}
        case list() | tuple():
            return [described(item) for item in value]
        case functools.partial():
            return [described(value.func), described(value.args), described(value.keywords)]
        case nn.Module() | torch.dtype() | torch.device():
            return f"{qualified_name(value)} {value}"
    return repr(value) if is_dataclass(value) else first_name(qualified_name(value))
