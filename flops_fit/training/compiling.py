"""When torch.compile wins back what it takes, and what of a training step it compiles."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from flops_fit.datasets.batches import Content, loss_of_batch, output_of
from flops_fit.learning.losses import inputs_for
from flops_fit.plan.experiment import Experiment, Size
from flops_fit.training.recipe import Recipe
from flops_fit.training.replicas_and_shards import LossOf, listed_blocks

COMPILING_SECONDS = 20.0
"""What compiling takes, and warming up what was compiled: 10 to 25 s were measured on an H100."""

WORTH = 3.0
"""Times what compiling takes must be saved at least by what has been compiled."""

TINY_STEP_FLOPS = 1e9
"""A captured step of less gains nothing by being compiled: it waits for memory, not for Python."""

SAVED_PER_STEP = 5e-4
SAVED_PER_FLOP = 3e-15
"""Seconds that compiling takes off a captured step of a transformer on an H100, to a factor of two
from 0.2 million to 124 million parameters."""


@runtime_checkable
class HasRegions(Protocol):
    """A model made of modules that compute alike: each is compiled in place, so that the program
    is made once and not once a layer."""

    def regions(self) -> Iterable[nn.Module]: ...


def compiles(recipe: Recipe, experiment: Experiment) -> bool:
    """Whether the run is long enough to win back what compiling takes here.

    A function of the run and the kind of device, so that a resumed run computes as it began.
    """
    if recipe.compile_above == "auto" and not _has_triton():
        return False
    return is_worth_compiling(experiment, recipe.compile_above, recipe.device.type)


def is_worth_compiling(
    experiment: Experiment, compile_above: float | Literal["auto"] | None, device: str
) -> bool:
    """The same on a `device` of this type that has what torch.compile needs."""
    if compile_above is None:
        return False
    if compile_above != "auto":
        return experiment.flops >= compile_above
    flops = experiment.flops_per_step
    saved = experiment.num_steps * (SAVED_PER_STEP + SAVED_PER_FLOP * flops)
    return device == "cuda" and flops > TINY_STEP_FLOPS and saved > WORTH * COMPILING_SECONDS


def loss_of_model(model: nn.Module, recipe: Recipe, experiment: Experiment) -> LossOf:
    """What the training steps call; changes the model's regions where they are compiled."""
    loss = recipe.loss
    if not compiles(recipe, experiment):
        return partial(loss_of_batch, loss, model)
    _forget_other_sizes(experiment.size)
    if recipe.device.type == "cpu":
        forward: Callable[..., Any] = torch.compile(model, dynamic=False)
        return partial(loss_of_batch, loss, forward)
    if isinstance(model, HasRegions):
        for region in model.regions():
            region.compile(dynamic=False)
        of_output: Callable[..., Tensor] = torch.compile(loss, dynamic=False)
        return lambda inputs, target: of_output(
            output_of(model, inputs_for(loss, inputs, target)), target
        )

    def whole(inputs: Content, target: Content) -> Tensor:
        return loss_of_batch(loss, model, inputs, target)

    compiled: LossOf = torch.compile(whole, dynamic=False)
    return compiled


def regions_of(model: nn.Module) -> list[nn.Module]:
    """The modules that hold most of the work: as the model says, else those in lists."""
    return list(model.regions()) if isinstance(model, HasRegions) else listed_blocks(model)


def without_compiling(model: nn.Module) -> AbstractContextManager[Any]:
    """For evaluation, whose other shapes would each be compiled anew."""
    return (
        torch.compiler.set_stance("force_eager") if isinstance(model, HasRegions) else nullcontext()
    )


_compiled_size: list[Size] = []


def _forget_other_sizes(size: Size) -> None:
    """torch keeps a few programs of one piece of code and gives up on more: those of another size
    make room. Its cache on disk, of kernels and graphs, stays."""
    if _compiled_size != [size]:
        torch.compiler.reset()
        _compiled_size[:] = [size]


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
