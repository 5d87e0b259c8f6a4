"""Parameters of many runs in one tensor, a row a run, and the optimizer that updates it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from flops_fit.signatures import qualified_name
from flops_fit.training.state import TrainingState

LINEAR_IN_RATE: tuple[type[Optimizer], ...] = (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.Adamax,
    torch.optim.AdamW,
    torch.optim.RAdam,
    torch.optim.RMSprop,
    torch.optim.SGD,
)
"""Optimizers whose update of a number is the rate times something that depends on that number, its
gradient and its state alone, a state that the rate doesn't enter."""

ALIGNMENT = 4
"""Parameters begin at multiples of so many numbers, 16 bytes of fp32: CUDA's fast kernels for
products load so much at once."""

ROW = 64
"""Rows have multiples of so many numbers. A CPU works on 16 or 32 at once, in one or two threads,
and what is left over at the end of a tensor is rounded in another way; so no row has its end there,
and comes out the same whichever it is of however many."""


class MustTrainAlone(Exception):
    """Runs can't be stacked; the message is the reason, a clause for a person."""


@dataclass(frozen=True)
class Place:
    """Where a parameter stands: its columns in the flat tensor, its group in the optimizer."""

    name: str
    shape: torch.Size
    start: int
    group: int

    @property
    def end(self) -> int:
        return self.start + self.shape.numel()

    def view(self, flat: Tensor) -> Tensor:
        """(K, columns) -> (K, *shape); of one row (columns,) -> (*shape)."""
        return flat[..., self.start : self.end].view(*flat.shape[:-1], *self.shape)


class FlatParameters:
    """Parameters of K runs that share type and optimizer settings: K rows, all in one tensor.

    The optimizer runs at rate 1; each row then goes its own rate's share of that way, which is
    what it would have gone alone (`LINEAR_IN_RATE`).
    """

    def __init__(self, places: Sequence[Place], states: Sequence[TrainingState]) -> None:
        self.places = tuple(places)
        first = states[0]
        model, group = dict(first.model.named_parameters()), places[0].group
        like = model[places[0].name]
        columns = _aligned(places[-1].end, ROW)
        self.values = torch.zeros(len(states), columns, dtype=like.dtype, device=like.device)
        self.views = [place.view(self.values) for place in places]
        self.gradient = torch.zeros_like(self.values)
        self._before = torch.zeros_like(self.values)
        self._scales = self._scales_of(first)  # (1, columns)
        self._is_scaled = bool((self._scales != 1).any())
        starts = [*(place.start for place in places[1:]), columns]
        self._gaps = [
            self.values.new_zeros(len(states), start - place.end)
            for place, start in zip(places, starts, strict=True)
        ]
        self._optimizer = _at_rate_one(first.optimizer, group, self.values)
        self.values.grad = self.gradient
        self._optimizer.step()  # so that its state is there, of which only the numbers change
        if like.is_cuda and not all(tensor.is_cuda for _, tensor in _tensors(self._state)):
            raise MustTrainAlone("their optimizer counts steps on the CPU")

    def _scales_of(self, state: TrainingState) -> Tensor:
        """Each column's rate over the run's configured rate."""
        scales = torch.zeros_like(self.values[:1])
        for place in self.places:
            scales[:, place.start : place.end] = state.peak_lrs[place.group] / state.learning_rate
        return scales

    @property
    def _state(self) -> dict[str, Any]:
        """The optimizer's: tensors like the values, counts of steps; nothing where it has none."""
        state: dict[str, Any] = self._optimizer.state.get(self.values, {})
        return state

    def read(self, states: Sequence[TrainingState]) -> None:
        """Weights and optimizer state of each row from its run's; no state yet counts as zeros."""
        mine = self._state
        with torch.no_grad():
            for row, state in enumerate(states):
                parameters = dict(state.model.named_parameters())
                for place in self.places:
                    parameter = parameters[place.name]
                    place.view(self.values[row]).copy_(parameter)
                    theirs = state.optimizer.state.get(parameter, {})
                    for key, flat in _tensors(mine):
                        to = flat if flat.ndim == 0 else place.view(flat[row])
                        to.copy_(theirs[key]) if key in theirs else to.zero_()

    def write(self, row: int, state: TrainingState) -> None:
        """The row's weights and optimizer state into its run's."""
        parameters = dict(state.model.named_parameters())
        mine = self._state
        with torch.no_grad():
            for place in self.places:
                parameter = parameters[place.name]
                parameter.copy_(place.view(self.values[row]))
                if not mine:
                    continue
                group = state.optimizer.param_groups[place.group]
                counts_on_device = group.get("capturable") or group.get("fused")
                theirs = dict(mine)
                for key, flat in _tensors(mine):
                    if flat.ndim:
                        theirs[key] = place.view(flat[row]).clone()
                    else:  # a count of steps
                        theirs[key] = flat.clone() if counts_on_device else flat.cpu().clone()
                state.optimizer.state[parameter] = theirs

    def take_gradients(
        self, gradients: Sequence[Tensor], share: float | Tensor, is_first: bool
    ) -> Sequence[Tensor]:
        """`share` of the first of these, (K, *shape) each, becomes or is added to the gradient:
        one for all rows, or (K,).

        Returns those that are left for others.
        """
        mine, others = gradients[: len(self.places)], gradients[len(self.places) :]
        pieces: list[Tensor] = []
        for of_parameter, gap in zip(mine, self._gaps, strict=True):
            pieces.append(of_parameter.reshape(len(gap), -1))
            if gap.shape[1]:
                pieces.append(gap)
        if isinstance(share, Tensor):
            part = torch.cat(pieces, dim=1) * share.to(self.gradient.dtype)[:, None]
            if is_first:
                self.gradient.copy_(part)
            else:
                self.gradient.add_(part)
        elif is_first:
            torch.cat(pieces, dim=1, out=self.gradient)
            if share < 1:
                self.gradient.mul_(share)
        else:
            self.gradient.add_(torch.cat(pieces, dim=1), alpha=share)
        return others

    def update(self, rates: Tensor) -> None:
        """One step of every row at its own rate, (K,)."""
        steps = rates[:, None].to(self.values.dtype)  # (K, 1)
        if self._is_scaled:
            steps = steps * self._scales  # (K, columns)
        self._before.copy_(self.values)
        self._optimizer.step()
        torch.lerp(self._before, self.values, steps, out=self.values)


def flat_parameters(states: Sequence[TrainingState]) -> list[FlatParameters]:
    """All trained parameters of these runs. Raises `MustTrainAlone`."""
    _check_alike(states)
    optimizer = states[0].optimizer
    if type(optimizer) not in LINEAR_IN_RATE:
        raise MustTrainAlone(
            f"{qualified_name(type(optimizer))} is none of the optimizers that several runs can "
            f"share: {', '.join(sorted(known.__name__ for known in LINEAR_IN_RATE))}"
        )
    places: list[tuple[Any, list[Place]]] = []  # type and settings -> its parameters
    for name, parameter, group in _trained(states[0]):
        if parameter.dtype not in (torch.float32, torch.float64):
            raise MustTrainAlone(f"parameter {name} is {parameter.dtype}, not of full precision")
        key = parameter.dtype, _settings(optimizer, optimizer.param_groups[group])
        alike = next((found for other, found in places if other == key), None)
        if alike is None:
            alike = []
            places.append((key, alike))
        start = _aligned(alike[-1].end) if alike else 0
        alike.append(Place(name, parameter.shape, start, group))
    return [FlatParameters(found, states) for _, found in places]


def _trained(state: TrainingState) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Parameters that get gradients, with the number of their group."""
    groups = {
        parameter: number
        for number, group in enumerate(state.optimizer.param_groups)
        for parameter in group["params"]
    }
    for name, parameter in state.model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter not in groups:
            raise MustTrainAlone(f"parameter {name} is in none of the optimizer's groups")
        yield name, parameter, groups[parameter]


def _check_alike(states: Sequence[TrainingState]) -> None:
    steps = sorted({state.step for state in states})
    if len(steps) > 1:
        raise MustTrainAlone(f"they are at different steps: {', '.join(map(str, steps))}")
    shapes, scales = zip(*map(_shapes_and_scales, states), strict=True)
    if any(other != shapes[0] for other in shapes):
        raise MustTrainAlone("their parameters have different shapes")
    if not all(_are_close(other, scales[0]) for other in scales):
        raise MustTrainAlone("the rates of their groups of parameters are in different ratios")


def _shapes_and_scales(state: TrainingState) -> tuple[list[Any], list[float]]:
    shapes = [(name, p.shape, p.dtype) for name, p in state.model.named_parameters()]
    return shapes, [peak / state.learning_rate for peak in state.peak_lrs]


def _are_close(some: Sequence[float], others: Sequence[float]) -> bool:
    return len(some) == len(others) and all(map(math.isclose, some, others))


def _settings(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """What the optimizer's class must be given to treat parameters as this group."""
    names = inspect.signature(type(optimizer)).parameters.keys() - {"params", "lr"}
    settings = {name: group[name] for name in names if name in group}
    if settings.get("dampening"):
        raise MustTrainAlone("the first step of SGD with dampening is unlike the others")
    return settings


def _at_rate_one(optimizer: Optimizer, group: int, values: Tensor) -> Optimizer:
    """One like it, for these values alone."""
    settings = _settings(optimizer, optimizer.param_groups[group])
    if "capturable" in settings and values.is_cuda:
        settings["capturable"] = True
    kind: Any = type(optimizer)
    rebuilt: Optimizer = kind([values], lr=1.0, **settings)
    return rebuilt


def _tensors(state: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    return ((key, value) for key, value in state.items() if isinstance(value, Tensor))


def _aligned(column: int, to: int = ALIGNMENT) -> int:
    return -(-column // to) * to
