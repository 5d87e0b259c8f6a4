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
    output_of,
    tensors_of,
)
from flops_fit.learning.losses import inputs_for
from flops_fit.training.compiling import without_compiling
from flops_fit.training.flat_parameters import MustTrainAlone, flat_parameters
from flops_fit.training.flat_program import Program, recorded
from flops_fit.training.leftovers import undisturbed
from flops_fit.training.portions import portion_of_loss
from flops_fit.training.recipe import Recipe
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
        self._parameters = {
            place.name: view
            for flat in self._flats
            for place, view in zip(flat.places, flat.views, strict=True)
        }
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

    def prepare(self, batch: Batch) -> None:
        """Record the step for batches of these shapes, which else the first step does."""
        for part, _ in self._parts(batch):
            self._program(part)

    def step(self, batch: Batch, rates: Tensor) -> Tensor:
        """One update of every run; returns the losses before it (K,).

        Tensors of the batch are (K, B, ...), on the device; `rates` (K,) are each run's configured
        rate times its schedule's factor, before any `lr_scale`; at a rate of 0 weights stay as they
        are. Nothing is read from the device, and all shapes are those of the batch.
        """
        losses: Tensor | None = None
        for part, share in self._parts(batch):
            of_part, *gradients = self._program(part)(*_tensors(part))
            for flat in self._flats:
                gradients = flat.take_gradients(gradients, share, is_first=losses is None)
            weighted = portion_of_loss(of_part, share)
            losses = weighted if losses is None else losses + weighted
        assert losses is not None  # a batch has samples
        if self.recipe.clip_grad_norm is not None:
            self._clip(self.recipe.clip_grad_norm)
        for flat in self._flats:
            flat.update(rates)
        return losses

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, float | Tensor]]:
        """The batch (K, B, ...) in the recipe's portions of every run, each with its share: one
        number, or where targets are counted one for each run (K,)."""
        size, total = self.recipe.micro_batch_size, tensors_of(batch[0])[0].shape[1]
        if size is None or size >= total:
            yield batch, 1.0
            return
        starts = range(0, total, size)
        parts = [
            changed(batch, lambda tensor, start=start: tensor[:, start : start + size])  # type: ignore[misc]
            for start in starts
        ]
        of_runs = [self._shares_of_run(row, parts) for row in range(len(self))]
        for part, shares in zip(parts, zip(*of_runs, strict=True), strict=True):
            is_one = all(isinstance(share, float) and share == shares[0] for share in shares)
            yield part, shares[0] if is_one else self._as_tensor(shares)

    def _shares_of_run(self, row: int, parts: Sequence[Batch]) -> list[float | Tensor]:
        of_run = [changed(part, lambda tensor: tensor[row]) for part in parts]
        return self.recipe.portions.shares(of_run)

    def _as_tensor(self, shares: Sequence[float | Tensor]) -> Tensor:
        device = self.recipe.device
        return torch.stack([torch.as_tensor(share, device=device) for share in shares]).float()

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

    def _program(self, batch: Batch) -> Program:
        """The step's losses and gradients as a program of such a batch's tensors; recorded once
        for its shapes."""
        tensors = _tensors(batch)
        key = tuple(tensor.shape for tensor in tensors)
        if key not in self._programs:
            standing = [*self._parameters.values(), *self._constants.values()]
            model, function = self.states[0].model, partial(self._losses_and_gradients, batch)
            attention = _attention_with_batched_rule(self.recipe.device)
            with torch.enable_grad(), without_compiling(model), undisturbed(model), attention:
                self._programs[key] = recorded(function, tensors, standing)
        return self._programs[key]

    def _losses_and_gradients(self, like: Batch, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Of a batch of these tensors: (K,), and (K, *shape) of each parameter."""
        trained = {n: value.detach().requires_grad_() for n, value in self._parameters.items()}
        values = {**trained, **self._constants}
        losses = vmap(self._loss_of)(values, *_filled(like, tensors))  # (K,)
        ones = torch.ones(len(self), dtype=losses.dtype, device=losses.device)
        return losses.detach(), *torch.autograd.grad(losses, list(trained.values()), ones)

    def _loss_of(self, values: dict[str, Tensor], inputs: Content, target: Content) -> Tensor:
        """One run's loss, with these values in place of its model's."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.states[0].model, values, args, kwargs)

        with self.recipe.autocast():
            output = output_of(forward, inputs_for(self.recipe.loss, inputs, target))
            return torch.as_tensor(self.recipe.loss(output, target)).reshape(())


def _attention_with_batched_rule(device: torch.device) -> AbstractContextManager[None]:
    """On a CPU torch does its fused attention for one run after the other, but not its plain."""
    if device.type != "cpu":
        return nullcontext()
    plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return plain


def _tensors(batch: Batch) -> list[Tensor]:
    return [tensor for content in batch for tensor in tensors_of(content)]


def _filled(like: Batch, tensors: Sequence[Tensor]) -> Batch:
    """These tensors in place of the batch's own."""
    values = iter(tensors)
    inputs, target = (
        {name: next(values) for name in content} if isinstance(content, Mapping) else next(values)
        for content in like
    )
    return inputs, target


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
