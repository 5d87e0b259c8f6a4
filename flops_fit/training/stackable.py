"""Whether runs can be stacked: found out by one batched step beside the same steps alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch, on_device, output_of, stacked
from flops_fit.learning.losses import inputs_for
from flops_fit.plan.experiment import Experiment
from flops_fit.training.flat_parameters import MustTrainAlone
from flops_fit.training.host_state import HostState
from flops_fit.training.recipe import Recipe
from flops_fit.training.stacked import Stacked
from flops_fit.training.state import GeneratorStates, TrainingState, seeded

TRIED_RUNS = 2

MOVED = 0.02
"""Standard deviation of what is added to the weights before the trial: layers that start at zero
would hide what goes wrong behind them."""

TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2}
"""Precision -> how far losses and gradients of the trial may be from those alone, relatively."""

ROUNDING_SHARE = 0.1
"""Of the norm of all gradients, added to that of each parameter's: what should be zero, such as
that of a key's bias in attention, consists of rounding errors of the others."""

NO_BATCHED_RULE = r"[Bb]atching rule (?:not implemented )?for (\S+)\. "
"""What torch says, as a warning, of an operation that it does for one run after the other, and as
an error of one that it can't do so either."""

REASONS = (
    ("randomness", "it draws random numbers as it trains"),
    ("autograd.Function", "it has a torch.autograd.Function without a rule for vmap"),
    (".item()", "what it computes depends on values of tensors"),
    ("data-dependent", "what it computes depends on values of tensors"),
)
"""Part of an error of torch's -> what it means."""


def why_alone(recipe: Recipe, experiments: Sequence[Experiment]) -> str | None:
    """Why these runs can't be `Stacked`, a clause for a person; None where they can.

    They should be of one size and batch size; the first two are tried on their first batches.
    """
    shapes = {(str(e.size.value), e.batch_size) for e in experiments}
    if len(shapes) > 1:
        return "they are of different sizes or batch sizes"
    first = experiments[0]
    others = [*experiments[1:], replace(first, seed=first.seed + 1)]
    try:
        with recipe.kernels_in_force(), _no_fallbacks():
            _try(recipe, [first, *others[: TRIED_RUNS - 1]])
    except MustTrainAlone as reason:
        return str(reason)
    except Exception as error:  # whatever torch, or a user's code under it, doesn't take
        return _meaning(error)
    return None


def _try(recipe: Recipe, experiments: Sequence[Experiment]) -> None:
    """Raises `MustTrainAlone`, or whatever keeps a batched step from being done."""
    recipe = replace(recipe, clip_grad_norm=None, micro_batch_size=None)
    states, streams = [], []
    for experiment in experiments:
        with seeded(experiment.seed):
            states.append(_moved(TrainingState.start(experiment, recipe)))
        streams.append(recipe.source.training_batches(experiment.batch_size, experiment.order_seed))
    recorded_on, compared_on = (
        [on_device(next(stream), recipe.device) for stream in streams] for _ in range(2)
    )
    alone = [_alone(state, batch, recipe) for state, batch in zip(states, compared_on, strict=True)]
    together = Stacked(states, recipe)
    standing = torch.zeros(len(states), device=recipe.device)
    together.step(stacked(recorded_on), standing)
    together.read_states()
    losses = together.step(stacked(compared_on), standing)
    tolerance = TOLERANCE[recipe.precision]
    for row, (loss, gradients) in enumerate(alone):
        _check("loss", losses[row], loss, tolerance * float(loss.norm()))
        whole = float(torch.nn.utils.get_total_norm(gradients.values()))
        for name, gradient in together.gradients(row).items():
            scale = float(gradients[name].norm()) + ROUNDING_SHARE * whole
            _check(f"gradient of {name}", gradient, gradients[name], tolerance * scale)


def _moved(state: TrainingState) -> TrainingState:
    with torch.no_grad():
        for parameter in state.model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                parameter.add_(torch.randn(parameter.shape).to(parameter), alpha=MOVED)
    return state


def _alone(state: TrainingState, batch: Batch, recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a run by itself."""
    model = state.model
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with seeded(0):
        before_drawing = GeneratorStates.now()
        inputs, target = batch
        with recipe.autocast():
            given = inputs_for(recipe.loss, inputs, target)
            loss = recipe.loss(output_of(model, given), target)
        if before_drawing.differs_from(GeneratorStates.now()):
            raise MustTrainAlone("it draws random numbers as it trains, such as dropout's")
        before_again = HostState.of([model], recipe.loss)
        with torch.no_grad(), recipe.autocast():  # what is made once only is there by now
            output_of(model, given)
        if reason := before_again.change_to(HostState.of([model], recipe.loss)):
            raise MustTrainAlone(reason)
    loss.backward()
    for name, buffer in model.named_buffers():
        if name not in before or not torch.equal(buffer, before[name]):
            raise MustTrainAlone(f"its buffer {name} changes as it trains")
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                raise MustTrainAlone(f"the loss doesn't depend on its parameter {name}")
            gradients[name] = parameter.grad
    return loss.detach(), gradients


def _check(what: str, together: Tensor, alone: Tensor, allowed: float) -> None:
    """Raises `MustTrainAlone` where the norm of their difference is more than allowed."""
    difference = float((together - alone).norm())
    if not difference <= allowed:
        raise MustTrainAlone(
            f"together its {what} differs from that alone by {difference:.2g}, more than "
            f"{allowed:.2g}"
        )


@contextmanager
def _no_fallbacks() -> Iterator[None]:
    """Operations that torch would do for one run after the other are errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{NO_BATCHED_RULE}")
        yield


def _meaning(error: Exception) -> str:
    said = str(error)
    if unbatched := re.search(NO_BATCHED_RULE, said):
        return f"torch has no batched rule for {unbatched[1]}"
    known = next((meaning for part, meaning in REASONS if part in said), None)
    first_line = (said.splitlines() or [""])[0]
    return known or f"its step can't be done for several at once: {first_line}"
