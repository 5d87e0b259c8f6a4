"""What a model's code keeps from call to call, and how it is left as it was.

Many models keep what depends on the length of a text: tables of rotary embeddings, masks, the state
of a recurrent net. What was made while nothing trained must not be met by a training step.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

BUFFERS = "_buffers"

OF_TORCH = vars(nn.Module()).keys() - {BUFFERS}
"""Attributes of every module that are torch's own, and no business of the model's author."""

NOT_OF_USERS = frozenset(sys.stdlib_module_names) | {
    "antlr4", "filelock", "flops_fit", "hydra", "matplotlib", "mpmath", "numpy", "omegaconf",
    "pytest", "rich", "scipy", "sympy", "torch", "typing_extensions", "yaml",
} - {"__main__"}  # fmt: skip
"""Packages whose modules keep no tensors of a model's."""

DEEPEST = 3
"""Containers within each other that are looked into for tensors."""

Saved = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
"""Attributes, where they are kept; their values; the contents of those that are containers."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """After it the model has the attributes and buffers that it had before, whatever its forward
    kept inside; what was changed in place stays changed."""
    saved = [_saved(vars(module)) for module in model.modules()]
    try:
        yield
    finally:
        for attributes, values, contents in saved:
            _restore(attributes, values, contents)


def _saved(attributes: dict[str, Any]) -> Saved:
    values = {name: value for name, value in attributes.items() if name not in OF_TORCH}
    return attributes, values, {name: _copied(value) for name, value in values.items()}


def _copied(value: Any) -> Any:
    """What a container holds; None of anything else."""
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, list | set | deque) else None


def _restore(attributes: dict[str, Any], values: dict[str, Any], contents: dict[str, Any]) -> None:
    for name in attributes.keys() - values.keys() - OF_TORCH:
        del attributes[name]
    for name, value in values.items():
        attributes[name] = value
        if contents[name] is not None and not _are_same(_copied(value), contents[name]):
            value.clear()
            _fill(value, contents[name])


def _are_same(content: Any, other: Any) -> bool:
    """The same objects at the same places: equal tensors can't be asked for in one word."""
    if len(content) != len(other):
        return False
    if isinstance(content, dict):
        return all(name in other and value is other[name] for name, value in content.items())
    return all(a is b for a, b in zip(content, other, strict=True))


def _fill(container: Any, content: Any) -> None:
    if isinstance(container, dict | set):
        container.update(content)
    else:
        container.extend(content)


def kept_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that the modules keep beside parameters and buffers, and that no gradient goes
    through: what one step may hand to the next."""
    return {
        f"{prefix}.{name}".removeprefix(".") + (f"[{place}]" if place else ""): leaf
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in OF_TORCH and name != BUFFERS
        for place, leaf in enumerate(_tensors_in(value))
        if not leaf.requires_grad
    }


def _tensors_in(value: Any, depth: int = DEEPEST) -> list[Tensor]:
    """The tensor itself, or those in containers in containers; a dict's own way of giving its
    values is not asked, as one of transformers' would import every model that it knows."""
    if isinstance(value, Tensor):
        return [value]
    if depth == 0 or not isinstance(value, dict | list | tuple | set | deque):
        return []
    items = list(dict.values(value) if isinstance(value, dict) else value)
    return [tensor for item in items for tensor in _tensors_in(item, depth - 1)]


def changed_tensor(before: dict[str, Tensor], after: dict[str, Tensor]) -> str | None:
    """The name of a kept tensor that is another now; those that are new don't count."""
    for name, tensor in after.items():
        known = before.get(name)
        if known is None or known is tensor:
            continue
        if known.shape != tensor.shape or not torch.equal(known, tensor):
            return name
    return None


@contextmanager
def nothing_left() -> Iterator[None]:
    """For code that runs on tensors without numbers: what users' modules and classes keep of these,
    such as a table in a cache, is forgotten at the end. A real step that found it would fail."""
    before = [(owner, dict(vars(owner)), _sizes(owner)) for owner in _owners()]
    try:
        yield
    finally:
        for owner, values, sizes in before:
            _forget_hollow(owner, values)
            for cache, size in sizes:
                if cache.cache_info().currsize > size:
                    cache.cache_clear()


def _owners() -> Iterator[Any]:
    """Users' modules, the classes in them, and objects of these classes that stand there."""
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or name.partition(".")[0] in NOT_OF_USERS:
            continue
        if not _uses_torch(name, module):
            continue
        yield module
        for value in list(vars(module).values()):
            cls = value if inspect.isclass(value) else type(value)
            if cls.__module__ == name and isinstance(getattr(value, "__dict__", None), Mapping):
                yield value


_known_to_use: dict[str, bool] = {}
"""Name of a module -> whether it uses torch: to look at all of them takes 0.1 s."""


def _uses_torch(name: str, module: ModuleType) -> bool:
    """Whether one of its names is torch, or comes from there."""
    if name not in _known_to_use:
        values = [v for n, v in list(vars(module).items()) if not n.startswith("__")]
        is_of_torch = (_package_of(v) == "torch" for v in values)
        _known_to_use[name] = any(is_of_torch)
    return _known_to_use[name]


def _package_of(value: Any) -> str:
    named = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return named.partition(".")[0] if isinstance(named, str) else ""


def _forget_hollow(owner: Any, before: dict[str, Any]) -> None:
    now = vars(owner)
    hollow = [n for n, v in list(now.items()) if not n.startswith("__") and _holds_hollow(v)]
    if not hollow:
        return
    for name in hollow:
        if now[name] is before.get(name):
            _drop_hollow(now[name])
    for name, value in list(now.items()):
        if name in before and value is not before[name]:  # with it, what says what it was made for
            setattr(owner, name, before[name])
        elif name not in before and name in hollow:
            delattr(owner, name)


def _holds_hollow(value: Any) -> bool:
    return any(t.is_meta or isinstance(t, FakeTensor) for t in _tensors_in(value))


def _drop_hollow(container: Any) -> None:
    """Leave out the entries that hold tensors without numbers."""
    if isinstance(container, dict):
        kept: Any = {k: v for k, v in container.items() if not _holds_hollow(v)}
    else:
        kept = [v for v in container if not _holds_hollow(v)]
    if isinstance(container, dict | list | set | deque):
        container.clear()
        _fill(container, kept)


def _sizes(owner: Any) -> list[tuple[Any, int]]:
    """Its functions that remember their results, with how many they remember."""
    caches = [v for v in vars(owner).values() if isinstance(v, functools._lru_cache_wrapper)]
    return [(cache, cache.cache_info().currsize) for cache in caches]
