"""Whether the parts of a study fit each other: found out before anything trains."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flops_fit.datasets.batches import Batch, changed, micro_batches, num_samples, output_of
from flops_fit.errors import ConfigError, UserError
from flops_fit.learning.losses import cross_entropy, inputs_for, mse
from flops_fit.plan.experiment import Experiment, SizeValue
from flops_fit.signatures import qualified_name
from flops_fit.training.dry_step import NEEDS_NUMBERS, no_numbers
from flops_fit.training.family import materialized
from flops_fit.training.leftovers import nothing_left
from flops_fit.training.memory import FEWEST_SAMPLES, samples_to_try
from flops_fit.training.recipe import Recipe, configured_rate, param_groups

PROGRESS_TRIED = (0.01, 0.5, 1.0)
"""Steps of a run, for which a schedule must know the factor on the learning rate."""

LONGEST_CHECKED_FLOPS = 1e11
"""Of the step that is tried, 2 seconds on one core of a CPU."""

Hints = Mapping[str, str]
"""Config group -> where it is configured, and with which values."""


def check_fit(
    recipe: Recipe, batch_size: int, hints: Hints | None = None, value: SizeValue | None = None
) -> None:
    """One forward, loss and backward of the smallest model on one batch, before anything trains; or
    of the one of `value`.

    And one optimizer, one value of each metric and a few of the schedule. Of a large model it is a
    part of the batch, and of one too large for this machine shapes and types alone, without
    metrics. Raises `ConfigError` with what was got, and `hints` on where it is configured.
    """
    hints = hints or {}
    value = recipe.family.smallest if value is None else value
    whole = next(recipe.source.training_batches(batch_size, seed=0))
    batch = next(micro_batches(whole, recipe.micro_batch_size))
    samples = samples_to_check(recipe, num_samples(batch), value)
    if samples == 0:
        _check_shapes(batch, recipe, hints, value)
    else:
        batch = next(micro_batches(batch, samples))
        with torch.random.fork_rng(devices=[]):
            model = materialized(recipe.family.build(value), batch)
            _check_model_and_loss(model, batch, recipe, _listed(hints, "model", "dataset"), value)
            _check_metrics(model, batch, recipe, hints)
            _check_optimizer(model, recipe, _listed(hints, "optimizer"))
    _check_schedule(recipe, _listed(hints, "schedule"))


def check_sizes(
    recipe: Recipe, experiments: Iterable[Experiment], hints: Hints | None = None
) -> None:
    """`check_fit` of those planned sizes that seem not to run on the data where the smallest does:
    whose widths can't be parted into heads, say, which shows in forward."""
    if recipe.family.at(recipe.family.smallest).counted_flops_per_token is None:
        return
    for experiment in {e.size.label: e for e in experiments}.values():
        if experiment.flops_per_token_counted is None:
            check_fit(recipe, experiment.batch_size, hints, experiment.size.value)


def samples_to_check(recipe: Recipe, samples: int, value: SizeValue) -> int:
    """So many samples, or as few of them as a CPU is soon done with and that take little memory; 0
    where even two are too much."""
    counted = recipe.family.at(value).counted_flops_per_token
    few = min(FEWEST_SAMPLES, samples)
    if counted is not None:
        each = counted * recipe.family.tokens_per_sample
        if few * each > LONGEST_CHECKED_FLOPS:
            return 0
        samples = max(few, min(samples, int(LONGEST_CHECKED_FLOPS / each)))
    return samples_to_try(value, recipe, samples)


def _check_shapes(batch: Batch, recipe: Recipe, hints: Hints, value: SizeValue) -> None:
    """Model, loss and optimizer as far as that can be without numbers."""
    with nothing_left(), no_numbers("cpu", "fp32"):
        fake = changed(batch, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        try:
            model = recipe.family.build(value)
            _check_model_and_loss(model, fake, recipe, _listed(hints, "model", "dataset"), value)
        except NEEDS_NUMBERS:
            return
        except ConfigError as error:
            if isinstance(error.__cause__, NEEDS_NUMBERS):
                return
            raise
        _check_optimizer(model, recipe, _listed(hints, "optimizer"))


def _check_model_and_loss(
    model: nn.Module, batch: Batch, recipe: Recipe, hint: str, value: SizeValue
) -> None:
    inputs, target = batch
    name = recipe.family.spec.name
    try:
        prediction = output_of(model, inputs_for(recipe.loss, inputs, target))
    except Exception as error:  # whatever a user's model raises for data it wasn't made for
        raise ConfigError(
            f"the model ({name}={value}) can't take a batch of the dataset "
            f"(input {_shape(inputs)}, target {_shape(target)}): {error}{_names(inputs)}{hint}"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")
            loss = recipe.loss(prediction, target)
    except Exception as error:  # likewise a user's loss
        raise ConfigError(
            f"the loss can't compare the model's output {_shape(prediction)} with the "
            f"dataset's target {_shape(target)}: {error}{_advice(recipe, prediction, target)}{hint}"
        ) from error
    _check_loss(loss)


def _names(inputs: Any) -> str:
    """How forward is called, where that isn't by one input of the usual type."""
    if not isinstance(inputs, Mapping):
        if inputs.dtype == torch.float64:
            return "; float64 is what numpy makes: give float32, .astype('float32')"
        return ""
    return f"; forward is given these by name, forward({', '.join(f'{n}=..' for n in inputs)})"


def _advice(recipe: Recipe, prediction: Any, target: Any) -> str:
    """What may be meant by targets that are compared as numbers and are none, and by outputs that
    hold more than a loss can take."""
    is_class = isinstance(target, Tensor) and not target.is_floating_point()
    if recipe.loss is mse and is_class:
        return "; these targets are whole numbers: if they are classes, set loss=cross_entropy"
    if not isinstance(prediction, Tensor) and recipe.loss in (mse, cross_entropy):
        return (
            "; this loss takes a tensor: take it out of the model's output in a loss of yours "
            "(lambda output, target: ..), or say loss=own if the model makes its loss itself"
        )
    classes_last = isinstance(prediction, Tensor) and prediction.shape[:-1] == target.shape
    if is_class and classes_last and target.ndim > 1:
        return "; torch's losses have the classes in the second dimension, loss=cross_entropy last"
    return ""


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ConfigError(
            f"the loss returns {_got(loss)}, expected one number: the mean over the batch, "
            "such as loss.mean() (reduction='mean')"
        )
    if not loss.requires_grad:
        raise ConfigError(
            "the loss doesn't depend on the model's parameters, so nothing can be trained: "
            "is the model's output detached, or are its parameters frozen?"
        )
    loss.backward()


def _check_metrics(model: nn.Module, batch: Batch, recipe: Recipe, hints: Hints) -> None:
    """Each on one batch, as on the held-out data."""
    if not recipe.metrics:
        return
    inputs, target = batch
    model.eval()
    with torch.no_grad():
        prediction = output_of(model, inputs_for(recipe.loss, inputs, target))
        for name, metric in recipe.metrics.items():
            hint = _listed(hints, f"metrics.{name}")
            try:
                value = metric(prediction, target)
            except Exception as error:  # likewise a user's metric
                raise ConfigError(
                    f"metric {name} can't compare the model's output {_shape(prediction)} with "
                    f"the dataset's target {_shape(target)}: {error}{hint}"
                ) from error
            try:
                torch.as_tensor(value).reshape(())
            except (TypeError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"metric {name} returns {_got(value)}, expected one number: the mean over the "
                    f"batch{hint}"
                ) from error
    model.train()


def _check_optimizer(model: nn.Module, recipe: Recipe, hint: str) -> None:
    name = _called(recipe.optimizer)
    try:
        optimizer = recipe.optimizer(param_groups(model))
    except UserError:
        raise
    except Exception as error:  # whatever a user's optimizer raises for values it can't take
        raise ConfigError(
            f"the optimizer {name} can't be built for the model's parameters: "
            f"{type(error).__name__}: {error}{hint}"
        ) from error
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"the optimizer {name} gives {_got(optimizer)}, expected a torch.optim.Optimizer{hint}"
        )
    try:
        rate = configured_rate(optimizer, None)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the optimizer {name} has no learning rate `lr` in its first group of parameters, "
            f"which schedules and rules could set{hint}"
        ) from error
    if not 0 < rate < math.inf:
        raise ConfigError(
            f"the optimizer {name} has the learning rate {rate:g}: it must be finite and above "
            f"0{hint}"
        )


def _check_schedule(recipe: Recipe, hint: str) -> None:
    for progress in PROGRESS_TRIED:
        asked = f"the schedule gives the learning rate after {progress:.0%} of a run"
        try:
            factor = recipe.schedule(progress)
            is_number = math.isfinite(factor)
        except Exception as error:  # likewise a user's schedule
            raise ConfigError(
                f"{asked} no factor that is a number: {type(error).__name__}: {error}{hint}"
            ) from error
        if not is_number:
            raise ConfigError(f"{asked} the factor {factor}: it must be a finite number{hint}")


def _called(factory: Any) -> str:
    """A class or function by name, with the arguments that are set."""
    if not isinstance(factory, functools.partial):
        return qualified_name(factory)
    given = [*map(repr, factory.args), *(f"{k}={v!r}" for k, v in factory.keywords.items())]
    return f"{qualified_name(factory.func)}({', '.join(given)})"


def _listed(hints: Hints, *groups: str) -> str:
    """The hints on these groups, a line each, to end a message with."""
    return "".join(f"\n  {hints[group]}" for group in groups if group in hints)


def _got(value: Any) -> str:
    return f"a tensor {_shape(value)}" if isinstance(value, Tensor) else type(value).__name__


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shape(item)}" for name, item in value.items())
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
