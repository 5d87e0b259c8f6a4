"""One optimizer update."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from flops_fit.datasets.batches import Batch, on_device
from flops_fit.training.portions import portion_of_loss
from flops_fit.training.recipe import Recipe
from flops_fit.training.replicas_and_shards import whole
from flops_fit.training.state import TrainingState


def train_step(batch: Batch, lr_factor: float, recipe: Recipe, state: TrainingState) -> None:
    """Advance the state by one update on `batch`, at `lr_factor` of the peak learning rates."""
    for group, peak in zip(state.optimizer.param_groups, state.peak_lrs, strict=True):
        group["lr"] = peak * lr_factor
    state.losses[state.step] = update(batch, recipe, state)
    state.step += 1


def update(batch: Batch, recipe: Recipe, state: TrainingState) -> Tensor:
    """One update at the rates that the optimizer's groups have; returns the batch's loss.

    Nothing of it waits for the device, so that a CUDA graph can hold all of it.
    """
    for parameter in state.parameters:  # zero_grad() takes 15 us, 4% of a small model's step
        parameter.grad = None
    loss = _accumulate_gradients(batch, recipe, state)
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    if recipe.clip_grad_norm is not None:
        state.clipped_norm = nn.utils.clip_grad_norm_(state.parameters, recipe.clip_grad_norm)
    if state.scaler is None:
        state.optimizer.step()
    else:
        state.scaler.step(state.optimizer)
        state.scaler.update()
    return loss


def _accumulate_gradients(batch: Batch, recipe: Recipe, state: TrainingState) -> Tensor:
    """Add the gradients of the batch's mean loss, part by part; returns that loss.

    Of several processes each adds those of its own rows, and returns what these are of the loss;
    with the last part all have the sum of all gradients.
    """
    sum_of_parts: Tensor | None = None
    parts = recipe.ranks.own_parts(batch, recipe.micro_batch_size, recipe.portions)
    for left, (part, share) in zip(reversed(range(len(parts))), parts, strict=True):
        inputs, target = on_device(part, recipe.device)
        with nullcontext() if state.replica is None or left == 0 else state.replica.no_sync():
            with recipe.autocast():
                loss = portion_of_loss(state.loss_of(inputs, target), share)
            (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        detached = loss.detach().reshape(())
        sum_of_parts = detached if sum_of_parts is None else sum_of_parts + detached
    assert sum_of_parts is not None  # a batch has samples
    return sum_of_parts


def gradient_norm(state: TrainingState) -> Tensor:
    """The norm of the last update's gradients, before clipping."""
    if state.clipped_norm is not None:
        return whole(state.clipped_norm)
    gradients = [p.grad for p in state.parameters if p.grad is not None]
    norm: Tensor = torch.nn.utils.get_total_norm(gradients)
    return whole(norm)
