"""The loss on held-out data, and whatever else is measured of predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from flops_fit.datasets.batches import Batch, num_samples, output_of
from flops_fit.datasets.source import CountsBytes, Source
from flops_fit.files import finite
from flops_fit.learning.losses import inputs_for
from flops_fit.training.compiling import without_compiling
from flops_fit.training.feed import device_data
from flops_fit.training.leftovers import undisturbed
from flops_fit.training.portions import Portions
from flops_fit.training.ranks import Ranks
from flops_fit.training.recipe import Metric, Recipe

LOSS = "loss"


@dataclass(frozen=True)
class HeldOut:
    """Means over the held-out samples, or their labels that count; the loss's standard error from
    the spread of batches."""

    loss: float
    stderr: float | None
    num_samples: int
    metrics: Mapping[str, float]


def evaluate(model: nn.Module, recipe: Recipe, batch_size: int, num_samples: int) -> HeldOut:
    """On the first `num_samples` held-out samples, the same for every run.

    Leaves the model in training mode, with what its forward keeps, and the random numbers where
    they were.
    """
    model.eval()
    # No inference mode: a table that a forward makes here and keeps may be trained with later.
    with torch.random.fork_rng(), torch.no_grad(), undisturbed(model), without_compiling(model):
        values, batches = _batch_values(model, recipe, batch_size, num_samples)
    model.train()
    return summary(values, batches, recipe.source)


@dataclass
class Batches:
    """What is known of the held-out batches: their samples, and how many of what the loss is the
    mean of."""

    samples: list[int] = field(default_factory=list)
    weights: list[Tensor | int] = field(default_factory=list)

    def add(self, batch: Batch, portions: Portions) -> None:
        self.samples.append(num_samples(batch))
        self.weights.append(portions.weight(batch[1]))

    @property
    def shares(self) -> Tensor:
        """Of each batch in the mean over all (batches,); by samples where no target counts."""
        weights = torch.tensor([int(w) for w in self.weights], dtype=torch.double)
        if not weights.any():
            weights = torch.tensor(self.samples, dtype=torch.double)
        return weights / weights.sum()


def summary(values: Mapping[str, Tensor], batches: Batches, source: Source) -> HeldOut:
    """Of the loss and the metrics on each of the batches, (batches,)."""
    share = batches.shares
    values = {name: of.where(share > 0, 0.0) for name, of in values.items()}  # means of nothing
    means = {name: (share * of_batches).sum() for name, of_batches in values.items()}
    loss = means.pop(LOSS)
    return HeldOut(
        loss=float(loss),
        stderr=_standard_error(values[LOSS], share, loss),
        num_samples=sum(batches.samples),
        metrics={
            **{name: float(mean) for name, mean in means.items()},
            **bits_per_byte(float(loss), source),
        },
    )


def _batch_values(
    model: nn.Module, recipe: Recipe, batch_size: int, samples: int
) -> tuple[dict[str, Tensor], Batches]:
    """Name of loss or metric -> its value on each batch (batches,), and what the batches hold.

    The processes of a run share the batches out, and have all values in the end.
    """
    measures, ranks = measures_of(recipe), recipe.ranks
    values: dict[str, list[Tensor]] = {name: [] for name in measures}
    batches, own = Batches(), []
    data = device_data(recipe.source, recipe.device)
    for number, (inputs, target) in enumerate(data.held_out_batches(batch_size, samples)):
        batches.add((inputs, target), recipe.portions)
        if number % ranks.count != ranks.rank:
            continue
        own.append(number)
        with recipe.autocast():
            output = output_of(model, inputs_for(recipe.loss, inputs, target))
            for name, measure in measures.items():
                values[name].append(torch.as_tensor(measure(output, target)).reshape(()))
    count = len(batches.samples)
    if ranks.shards and len(own) < -(-count // ranks.count):
        with recipe.autocast():  # the others have one more, and need this one's part of the model
            output_of(model, inputs_for(recipe.loss, inputs, target))
    return {name: _of_all(of, own, count, ranks) for name, of in values.items()}, batches


def _of_all(values: Sequence[Tensor], own: Sequence[int], count: int, ranks: Ranks) -> Tensor:
    """Values of all batches (batches,) from those of this process's `own`."""
    # Doubles only on the CPU: mps has none.
    mine = torch.stack(list(values)).cpu().double() if values else torch.zeros(0).double()
    if ranks.is_alone:
        return mine
    found = torch.zeros(count, dtype=torch.double)
    found[list(own)] = mine
    ranks.add(found)
    return found


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
