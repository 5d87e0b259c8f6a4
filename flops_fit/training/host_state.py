"""What Python code may change from step to step: a step that is recorded once would not."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from flops_fit.training.leftovers import changed_tensor, kept_tensors
from flops_fit.training.state import GeneratorStates

Told = int | str
"""A number or a text, a container by its length."""


@dataclass(frozen=True)
class HostState:
    """Random numbers drawn on the host, and numbers that models and loss keep: as attributes, in
    closures, or as globals that their own functions name; and tensors that the models keep."""

    draws: GeneratorStates
    told: dict[str, Told]
    kept: dict[str, Tensor]

    @classmethod
    def of(cls, models: Iterable[nn.Module], loss: Callable[..., Any]) -> HostState:
        told, kept = dict(_of_callable(loss)), {}
        for model in models:
            kept.update(kept_tensors(model))
            for name, module in model.named_modules():
                told.update(_of_module(name, module))
        return cls(GeneratorStates.now(), told, kept)

    def change_to(self, later: HostState) -> str | None:
        """What has changed, a clause for a person; None where nothing has."""
        drawn = self.draws.host_difference(later.draws)
        if drawn is not None:
            return f"it draws random numbers of {drawn} on the host in each step"
        changed = [name for name, value in later.told.items() if self.told.get(name) != value]
        if changed:
            return f"each step changes {changed[0]} on the host"
        state = changed_tensor(self.kept, later.kept)
        return state and f"each step hands {state} to the next one"


def _of_module(name: str, module: nn.Module) -> Iterator[tuple[str, Told]]:
    prefix = f"{name}." if name else ""
    for attribute, value in _told(vars(module)):
        yield f"{prefix}{attribute}", value
    if not type(module).__module__.startswith("torch."):
        yield from _of_function(type(module).forward)


def _of_callable(called: Any) -> Iterator[tuple[str, Told]]:
    if isinstance(called, partial):
        yield from _of_callable(called.func)
    elif inspect.isfunction(called) or inspect.ismethod(called):
        yield from _of_function(called)
        yield from _told(vars(getattr(called, "__self__", called)))
    elif isinstance(called, nn.Module):
        yield from _of_module("loss", called)
    elif hasattr(called, "__dict__"):
        yield from _told(vars(called))
        yield from _of_function(vars(type(called)).get("__call__"))


def _of_function(function: Any) -> Iterator[tuple[str, Told]]:
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(function, "__code__", None)
    if code is None:
        return
    try:
        closed = inspect.getclosurevars(getattr(function, "__func__", function))
    except (TypeError, ValueError):  # such as a closure over what isn't there yet
        return
    yield from _told({**closed.globals, **closed.nonlocals})


def _told(values: dict[str, Any]) -> Iterator[tuple[str, Told]]:
    for name, value in values.items():
        if isinstance(value, bool | int | str):
            yield name, value
        elif isinstance(value, float):
            yield name, repr(value)  # so that nan is itself
        elif isinstance(value, list | tuple | dict | set | deque):
            yield name, len(value)
