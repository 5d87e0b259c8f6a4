"""The loss on held-out data, and whatever else is measured of predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flops_fit.datasets.batches import num_samples, output_of
from flops_fit.datasets.source import CountsBytes, Source
from flops_fit.files import finite
from flops_fit.training.compiling import without_compiling
from flops_fit.training.feed import device_data
from flops_fit.training.recipe import Metric, Recipe

LOSS = "loss"


@dataclass(frozen=True)
class HeldOut:
    """Means over the held-out samples; the loss's standard error from the spread of batches."""

    loss: float
    stderr: float | None
    num_samples: int
    metrics: Mapping[str, float]


def evaluate(model: nn.Module, recipe: Recipe, batch_size: int, num_samples: int) -> HeldOut:
    """On the first `num_samples` held-out samples, the same for every run.

    Leaves the model in training mode and the random numbers where they were.
    """
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode(), without_compiling(model):
        values, weights = _batch_values(model, recipe, batch_size, num_samples)
    model.train()
    return summary(values, weights, recipe.source)


def summary(values: Mapping[str, Tensor], weights: Sequence[int], source: Source) -> HeldOut:
    """Of the loss and the metrics on each batch, (batches,), and the batches' samples."""
    share = torch.tensor(weights, dtype=torch.double) / sum(weights)  # (batches,)
    means = {name: (share * of_batches).sum() for name, of_batches in values.items()}
    loss = means.pop(LOSS)
    return HeldOut(
        loss=float(loss),
        stderr=_standard_error(values[LOSS], share, loss),
        num_samples=sum(weights),
        metrics={
            **{name: float(mean) for name, mean in means.items()},
            **bits_per_byte(float(loss), source),
        },
    )


def _batch_values(
    model: nn.Module, recipe: Recipe, batch_size: int, samples: int
) -> tuple[dict[str, Tensor], list[int]]:
    """Name of loss or metric -> its value on each batch (batches,), and the batches' samples."""
    measures = measures_of(recipe)
    values: dict[str, list[Tensor]] = {name: [] for name in measures}
    weights = []
    data = device_data(recipe.source, recipe.device)
    for inputs, target in data.held_out_batches(batch_size, samples):
        with recipe.autocast():
            output = output_of(model, inputs)
            for name, measure in measures.items():
                values[name].append(torch.as_tensor(measure(output, target)).reshape(()))
        weights.append(num_samples((inputs, target)))
    # Doubles only on the CPU: mps has none.
    return {name: torch.stack(of).cpu().double() for name, of in values.items()}, weights


def measures_of(recipe: Recipe) -> dict[str, Metric]:
    """The loss and the metrics by name."""
    return {LOSS: recipe.loss, **recipe.metrics}


def _standard_error(values: Tensor, share: Tensor, mean: Tensor) -> float | None:
    """The standard error of a mean with weights `share`; None for a single batch."""
    if len(values) < 2:
        return None
    variance = (share * (values - mean) ** 2).sum() / (1 - (share**2).sum())
    return finite(float((variance * (share**2).sum()).sqrt()))


def bits_per_byte(loss: float, source: Source) -> dict[str, float]:
    """The loss in nats per token in another unit, for text that knows its bytes; else nothing."""
    if not isinstance(source, CountsBytes) or source.bytes_per_token is None:
        return {}
    return {"bits_per_byte": loss / math.log(2) / source.bytes_per_token}
