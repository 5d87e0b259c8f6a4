"""Runs of one size that advance together: one batched step for all of them.

Runs that differ in weights, rate and data alone compute the same operations on other numbers. Here
each operation is done for all of them at once, which takes little longer than for one of them as
long as a step is bound by starting operations and not by arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from flops_fit.datasets.batches import (
    Batch,
    Content,
    changed,
    num_samples,
    output_of,
    tensors_of,
)
from flops_fit.training.compiling import without_compiling
from flops_fit.training.evaluation import HeldOut, evaluate, measures_of, summary
from flops_fit.training.feed import device_data
from flops_fit.training.flat_parameters import MustTrainAlone, flat_parameters
from flops_fit.training.flat_program import Program, recorded
from flops_fit.training.recipe import Metric, Recipe
from flops_fit.training.state import TrainingState

CLIPPING_EPSILON = 1e-6
"""Added to the norm that the largest one is divided by, as in `torch.nn.utils.clip_grad_norm_`."""


class Stacked:
    """K runs, row k of every tensor being `states[k]`, which must be at one step and of one size.

    The rows live here while they train; `hand_back` copies one into its state, whose model,
    optimizer and checkpoint are then as if it had trained alone. Raises `MustTrainAlone`.
    """

    def __init__(self, states: Sequence[TrainingState], recipe: Recipe) -> None:
        self.states = tuple(states)
        self.recipe = recipe
        if recipe.precision == "fp16":
            raise MustTrainAlone("precision fp16 scales the gradients of each run by themselves")
        self._flats = flat_parameters(self.states)
        self._constants = _differing_constants([state.model for state in states])
        self._num_fixed = sum(len(flat.views) for flat in self._flats) + len(self._constants)
        self._programs: dict[tuple[Any, ...], Program] = {}
        self._norms = torch.zeros(len(states), device=recipe.device)  # (K,)
        self.read_states()

    def __len__(self) -> int:
        return len(self.states)

    def read_states(self) -> None:
        """Take weights and optimizers from the states: what was trained since is forgotten."""
        for flat in self._flats:
            flat.read(self.states)

    def hand_back(self, row: int) -> None:
        """Copy weights and optimizer into the state of a row, but for its groups' rates."""
        for flat in self._flats:
            flat.write(row, self.states[row])

    def kept(self, rows: Sequence[int]) -> Stacked:
        """These rows alone, as they are now, in this order."""
        for row in rows:
            self.hand_back(row)
        return Stacked([self.states[row] for row in rows], self.recipe)

    def prepare(self, batch: Batch) -> None:
        """Record the step for batches of these shapes, which else the first step does."""
        for part, _ in _parts(batch, self.recipe.micro_batch_size):
            self._program(part, self._arguments(part))

    def step(self, batch: Batch, rates: Tensor) -> Tensor:
        """One update of every run; returns the losses before it (K,).

        Tensors of the batch are (K, B, ...), on the device; `rates` (K,) are each run's configured
        rate times its schedule's factor, before any `lr_scale`; at a rate of 0 weights stay as they
        are. Nothing is read from the device, and all shapes are those of the batch.
        """
        losses: Tensor | None = None
        for part, share in _parts(batch, self.recipe.micro_batch_size):
            arguments = self._arguments(part)
            of_part, *gradients = self._program(part, arguments)(*arguments)
            for flat in self._flats:
                gradients = flat.take_gradients(gradients, share, is_first=losses is None)
            weighted = of_part if share == 1 else of_part * share
            losses = weighted if losses is None else losses + weighted
        assert losses is not None  # a batch has samples
        if self.recipe.clip_grad_norm is not None:
            self._clip(self.recipe.clip_grad_norm)
        for flat in self._flats:
            flat.update(rates)
        return losses

    def gradient_norms(self) -> Tensor:
        """The norm of each run's gradients at the last update, before clipping (K,)."""
        if self.recipe.clip_grad_norm is None:
            self._measure_norms()
        return self._norms

    def gradients(self, row: int) -> dict[str, Tensor]:
        """A run's gradients at the last update, after clipping, by its parameters' names."""
        return {
            place.name: place.view(flat.gradient[row])
            for flat in self._flats
            for place in flat.places
        }

    def _measure_norms(self) -> None:
        norms = [torch.linalg.vector_norm(flat.gradient, dim=1) for flat in self._flats]
        self._norms.copy_(norms[0] if len(norms) == 1 else torch.stack(norms).norm(dim=0))

    def _clip(self, largest: float) -> None:
        self._measure_norms()
        factors = (largest / (self._norms + CLIPPING_EPSILON)).clamp_(max=1.0)  # (K,)
        for flat in self._flats:
            flat.gradient.mul_(factors[:, None])

    def evaluate(self, batch_size: int, num_samples: int) -> list[HeldOut]:
        """What `flops_fit.training.evaluation.evaluate` gives for each run, all at once.

        One after the other where a metric can't be batched.
        """
        models = [state.model for state in self.states]
        models[0].eval()
        try:
            values, weights = self._held_out_values(batch_size, num_samples)
        except Exception:  # whatever a user's metric does that only plain tensors can
            for row in range(len(self)):
                self.hand_back(row)
            return [evaluate(model, self.recipe, batch_size, num_samples) for model in models]
        finally:
            models[0].train()
        rows = zip(*(of_measure.unbind(1) for of_measure in values), strict=True)
        names = measures_of(self.recipe)
        source = self.recipe.source
        return [summary(dict(zip(names, row, strict=True)), weights, source) for row in rows]

    def _held_out_values(self, batch_size: int, samples: int) -> tuple[list[Tensor], list[int]]:
        """Each measure on each batch (batches, K), and the batches' samples."""
        measured, weights = [], []
        measures = list(measures_of(self.recipe).values())
        data = device_data(self.recipe.source, self.recipe.device)
        for batch in data.held_out_batches(batch_size, samples):
            arguments = self._arguments(batch)
            with torch.no_grad():
                program = self._recorded(partial(self._measured, batch, measures), arguments)
                measured.append(program(*arguments))
            weights.append(num_samples(batch))
        by_measure = zip(*measured, strict=True)
        # Doubles only on the CPU: mps has none.
        return [torch.stack(of_measure).cpu().double() for of_measure in by_measure], weights

    def _program(self, batch: Batch, arguments: Sequence[Tensor]) -> Program:
        with torch.enable_grad():
            return self._recorded(partial(self._losses_and_gradients, batch), arguments)

    def _arguments(self, batch: Batch) -> list[Tensor]:
        parameters = [view for flat in self._flats for view in flat.views]
        contents = [tensor for content in batch for tensor in tensors_of(content)]
        return [*parameters, *self._constants.values(), *contents]

    def _recorded(self, function: Program, arguments: Sequence[Tensor]) -> Program:
        """The function as a program on tensors like these `_arguments`; recorded once."""
        shapes = tuple(tensor.shape for tensor in arguments[self._num_fixed :])
        key = (torch.is_grad_enabled(), shapes)
        if key not in self._programs:
            plain = without_compiling(self.states[0].model)
            with plain, _attention_with_batched_rule(self.recipe.device):
                self._programs[key] = recorded(function, arguments)
        return self._programs[key]

    def _losses_and_gradients(self, batch: Batch, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Of the `_arguments` of a batch like this: (K,), and (K, *shape) of each parameter."""
        parameters, constants, (inputs, target) = self._named(batch, arguments)
        trained = {name: value.detach().requires_grad_() for name, value in parameters.items()}

        def loss(values: dict[str, Tensor], inputs: Content, target: Content) -> Tensor:
            [value] = self._values_of([self.recipe.loss], values, inputs, target)
            return value

        losses = vmap(loss)({**trained, **constants}, inputs, target)  # (K,)
        ones = torch.ones(len(self), dtype=losses.dtype, device=losses.device)
        return losses.detach(), *torch.autograd.grad(losses, list(trained.values()), ones)

    def _measured(
        self, batch: Batch, measures: Sequence[Metric], *arguments: Tensor
    ) -> tuple[Tensor, ...]:
        """Each measure (K,) on a batch that all runs share."""
        parameters, constants, (inputs, target) = self._named(batch, arguments)

        def measure(values: dict[str, Tensor]) -> tuple[Tensor, ...]:
            return self._values_of(measures, values, inputs, target)

        of_runs: tuple[Tensor, ...] = vmap(measure)({**parameters, **constants})
        return of_runs

    def _named(
        self, batch: Batch, arguments: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Batch]:
        """Parameters, differing constants and the batch that these `_arguments` stand for."""
        values = iter(arguments)
        names = [place.name for flat in self._flats for place in flat.places]
        parameters = {name: next(values) for name in names}
        constants = {name: next(values) for name in self._constants}
        inputs, target = (_filled(content, values) for content in batch)
        return parameters, constants, (inputs, target)

    def _values_of(
        self,
        measures: Sequence[Metric],
        values: dict[str, Tensor],
        inputs: Content,
        target: Content,
    ) -> tuple[Tensor, ...]:
        """One run's measures, with these values in place of its model's."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.states[0].model, values, args, kwargs)

        with self.recipe.autocast():
            output = output_of(forward, inputs)
            return tuple(torch.as_tensor(m(output, target)).reshape(()) for m in measures)


def _attention_with_batched_rule(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU torch does its fused attention for one run after the other, but not its plain."""
    if device.type != "cpu":
        return nullcontext()
    plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return plain


def _parts(batch: Batch, size: int | None) -> Iterator[tuple[Batch, float]]:
    """The batch (K, B, ...) in parts of `size` samples of every run, each with its share."""
    total = tensors_of(batch[0])[0].shape[1]
    if size is None or size >= total:
        yield batch, 1.0
        return
    for start in range(0, total, size):
        end = min(start + size, total)
        part = changed(batch, lambda tensor, start=start, end=end: tensor[:, start:end])  # type: ignore[misc]
        yield part, (end - start) / total


def _filled(content: Content, values: Iterator[Tensor]) -> Content:
    """The next of these values in place of the content's own."""
    if isinstance(content, Mapping):
        return {name: next(values) for name in content}
    return next(values)


def _differing_constants(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Buffers and frozen parameters that are not the same in all models, (K, ...) each."""
    constants = [_constants(model) for model in models]
    return {
        name: torch.stack([of_model[name] for of_model in constants])
        for name, value in constants[0].items()
        if not all(torch.equal(value, of_model[name]) for of_model in constants)
    }


def _constants(model: nn.Module) -> dict[str, Tensor]:
    frozen = {n: p.detach() for n, p in model.named_parameters() if not p.requires_grad}
    return {**frozen, **dict(model.named_buffers())}
