"""What a loss averages over, and whether a model's result depends on the portions of a batch.

Found by trying it, whole and in portions, on the smallest model and a few samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from flops_fit.datasets.batches import Batch, Content, loss_of_batch, micro_batches, num_samples
from flops_fit.laws import FORWARD_SHARE
from flops_fit.learning.losses import IGNORED, cross_entropy, mse
from flops_fit.training.family import LossFunction, ModelFamily, materialized
from flops_fit.training.leftovers import changed_tensor, kept_tensors
from flops_fit.training.memory import samples_to_try
from flops_fit.training.portions import (
    CountsTargets,
    Labels,
    Portions,
    Said,
    Samples,
    Weights,
    portion_of_loss,
)
from flops_fit.training.recipe import Recipe
from flops_fit.training.state import GeneratorStates, seeded

PROBED = 8
PORTION = 3
"""Samples that are tried whole and in portions, the last of which is shorter."""

PROBE_FLOPS = 1e10
"""Of all that is tried: a fraction of a second on one core."""

MOST_TRIES = 8
"""Of whole and portions: as many ways of averaging, and one in training."""

TOLERANCE = 1e-5
"""How far the loss of the whole and that from portions may be apart, relatively: rounding in fp32
is some 1e-7, an auxiliary loss of a hundredth of the whole differs by 1e-4."""

MOVED = 0.02
"""Standard deviation of what is added to the weights before: layers that start at zero would hide
what goes on behind them."""

DRAWN, FAR = 4, 1.5
"""Losses of a model that draws random numbers, and the ratio of their means that no draws make: a
sum over PROBED samples is 2.9 times that from portions."""

MARKS = (IGNORED, -1, 0)
"""Class indices that losses leave out, if any: torch's default, others' habit, padding."""


def portions_of(recipe: Recipe) -> Portions:
    """Found out on the first samples of a batch. Where that can't be, by what is known of the loss
    and of the model's layers."""
    family, loss = recipe.family, recipe.loss
    known = _known(loss)
    samples = _samples_to_try(recipe)
    batch = next(micro_batches(family.sample, samples)) if samples else family.sample
    layers = _batch_statistics(family)
    if samples < 2:
        return Portions(known or Samples(), layers)
    try:
        with seeded(0):
            return _tried(_Probe(family, loss, batch), known, layers)
    except Exception:  # whatever a user's code raises: the check of the whole study tells
        return Portions(known or Samples(), layers)


def _samples_to_try(recipe: Recipe) -> int:
    family = recipe.family
    samples = min(PROBED, num_samples(family.sample))
    counted = family.at(family.smallest).counted_flops_per_token
    if counted is not None:
        each = 2 * MOST_TRIES * FORWARD_SHARE * counted * family.tokens_per_sample
        samples = min(samples, int(PROBE_FLOPS / each))
    return samples_to_try(family.smallest, recipe, samples) if samples else 0


def _known(loss: LossFunction) -> Weights | None:
    """What losses of ours and of torch are the means of."""
    function: Any = loss
    given: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        function, given = function.func, {**function.keywords, **given}
    if isinstance(function, CountsTargets):
        return Said(function)
    if function is cross_entropy:
        return Labels(IGNORED)
    if function in (F.cross_entropy, F.nll_loss) and given.get("weight") is None:
        return Labels(given.get("ignore_index", IGNORED))
    if isinstance(function, nn.CrossEntropyLoss | nn.NLLLoss) and function.weight is None:
        return Labels(function.ignore_index)
    return Samples() if function in (mse, F.mse_loss, F.l1_loss) else None


def _batch_statistics(family: ModelFamily) -> str | None:
    model = family.example()
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return f"its {type(layers[0]).__name__} takes means over a portion" if layers else None


class _Probe:
    """A model whose losses are asked for, whole and in portions."""

    def __init__(self, family: ModelFamily, loss: LossFunction, batch: Batch) -> None:
        self.loss, self.batch = loss, batch
        self.model = materialized(family.build(family.smallest), batch)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.is_floating_point():
                    parameter.add_(torch.randn(parameter.shape).to(parameter), alpha=MOVED)

    def loss_of(self, batch: Batch) -> Tensor:
        inputs, target = batch
        with torch.no_grad():
            return loss_of_batch(self.loss, self.model, inputs, target)

    def agrees(self, weights: Weights, batch: Batch) -> bool:
        """Whether the losses of portions, so weighed, make that of the whole."""
        whole = float(self.loss_of(batch))
        from_parts = self.from_parts(weights, batch)
        return math.isfinite(whole) and math.isclose(whole, from_parts, rel_tol=TOLERANCE)

    def from_parts(self, weights: Weights, batch: Batch) -> float:
        parts = list(micro_batches(batch, min(PORTION, num_samples(batch) - 1)))
        shares = Portions(weights).shares(parts)
        losses = [
            portion_of_loss(self.loss_of(part).double(), share)
            for part, share in zip(parts, shares, strict=True)
            if share
        ]
        return float(torch.stack(losses).sum())


def _tried(probe: _Probe, known: Weights | None, layers: str | None) -> Portions:
    probe.model.eval()
    before = GeneratorStates.now()
    probe.loss_of(probe.batch)
    if before.differs_from(GeneratorStates.now()):  # no two losses are comparable
        mean_of = known or Samples()
        return Portions(mean_of, layers or _size_dependence(probe, mean_of))
    weights = known or _found(probe)
    if weights is None:
        return Portions(Samples(), layers or _UNCLEAR)
    return Portions(weights, _dependence(probe, weights, layers))


_UNCLEAR = (
    "the loss of a batch is no mean over its samples or labels (give the loss a method "
    "`num_targets(target)` if it is one over something else)"
)


def _size_dependence(probe: _Probe, weights: Weights) -> str | None:
    """Of losses that differ each time: whether those from portions are far from the whole's, as
    those of sums are."""
    whole, parts = (
        sum(losses) / DRAWN
        for losses in (
            [float(probe.loss_of(probe.batch)) for _ in range(DRAWN)],
            [probe.from_parts(weights, probe.batch) for _ in range(DRAWN)],
        )
    )
    if not math.isfinite(whole) or 1 / FAR < parts / whole < FAR:
        return None
    return (
        f"its loss on {num_samples(probe.batch)} samples is about {whole:.3g}, and {parts:.3g} "
        f"from portions of {PORTION}: is it a sum?"
    )


def _found(probe: _Probe) -> Weights | None:
    """What an unknown loss is the mean of."""
    for weights in _candidates(probe.batch[1]):
        try:
            if probe.agrees(weights, _with_some_ignored(probe.batch, weights)):
                return weights
        except Exception:  # such as an index of a class that there isn't
            continue
    return Samples() if probe.agrees(Samples(), probe.batch) else None


def _candidates(target: Content) -> Iterator[Labels]:
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        return
    if target.dtype == torch.bool or target.ndim == 0:
        return
    yield from map(Labels, MARKS)
    if target.ndim > 1 and target.shape[-1] > 1:
        yield Labels(IGNORED, without_first=True)
        yield Labels(IGNORED, without_last=True)


def _with_some_ignored(batch: Batch, weights: Labels) -> Batch:
    """More of them in some rows than in others, and at least one target that counts in each
    portion."""
    inputs, target = batch
    assert isinstance(target, Tensor)
    share = torch.linspace(0.1, 0.9, len(target))
    drawn = torch.rand(target.shape, generator=torch.Generator().manual_seed(0))
    marked = drawn < share.reshape(-1, *[1] * (target.ndim - 1))
    if target.ndim == 1:
        marked = torch.arange(len(target)) % PORTION == PORTION - 1
        marked[-1] = False
    else:
        marked[:, 1 : 1 + target.shape[1] // 4] = False
    given = target.masked_fill(marked, weights.ignored)
    return inputs, given


def _dependence(probe: _Probe, weights: Weights, layers: str | None) -> str | None:
    """Why portions give another result in training than the whole; None where they don't."""
    probe.model.train()
    with _without_dropout(probe.model):
        before = GeneratorStates.now()
        whole = float(probe.loss_of(probe.batch))
        if before.differs_from(GeneratorStates.now()) or not math.isfinite(whole):
            return layers
        kept = kept_tensors(probe.model)
        probe.loss_of(probe.batch)
        if state := changed_tensor(kept, kept_tensors(probe.model)):
            return f"it hands {state} from one portion to the next"
        try:
            from_parts = probe.from_parts(weights, probe.batch)
        except Exception as error:
            return layers or f"it can't take a portion of a batch ({error})"
    if math.isclose(whole, from_parts, rel_tol=TOLERANCE):
        return None
    return layers or (
        f"its loss on {num_samples(probe.batch)} samples is {whole:.5g}, and {from_parts:.5g} from "
        f"portions of {PORTION}"
    )


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """For a model that is thrown away: nothing is dropped, whatever torch's layers would."""
    for module in model.modules():
        for name in ("p", "dropout"):
            value = vars(module).get(name)
            if type(module).__module__.startswith("torch.") and isinstance(value, float):
                vars(module)[name] = 0.0
    with _NothingDropped():
        yield


_DROPPED: tuple[Callable[..., Any], ...] = (
    F.dropout,
    F.alpha_dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.feature_alpha_dropout,
)


class _NothingDropped(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPPED:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            args = (*args[:4], *(0.0 for _ in args[4:5]), *args[5:])
            kwargs.pop("dropout_p", None)
        return func(*args, **kwargs)
