"""What modules carry from step to step in plain attributes, as a checkpoint can hold it.

The state of a recurrent net, a counter by which something is annealed: no parameter, no buffer, and
yet the next step depends on it.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flops_fit.errors import StudyError, StudyWarning
from flops_fit.training.leftovers import BUFFERS, DEEPEST, OF_TORCH

MOST_BYTES = 2**26
"""Of what is carried, or the model's own size where that is more: what layers keep to be looked at,
such as maps of attention, is no state and takes far more."""

PLAIN = (bool, int, float, str, type(None))

Content = dict[str, Any]
"""Name of a module and its attribute, `blocks.0.state` -> tensors, numbers, texts, nothing, and
lists, tuples and dicts of these."""


@dataclass(frozen=True)
class Carried:
    """The attributes of a model as they are now, to tell later which of them steps change."""

    model: nn.Module
    seen: Mapping[str, Any]

    @classmethod
    def now(cls, model: nn.Module) -> Carried:
        return cls(model, {name: _mark(value) for name, value in _attributes(model)})

    def changed(self) -> Content:
        """Those that differ, their tensors as copies on the CPU. What is too much is left out with
        a warning."""
        changed = {
            name: value for name, value in _attributes(self.model) if self._differs(name, value)
        }
        of_model = sum(p.numel() * p.element_size() for p in self.model.parameters())
        size = sum(t.numel() * t.element_size() for v in changed.values() for t in _leaves(v))
        if size > max(MOST_BYTES, of_model):
            warnings.warn(
                f"{', '.join(changed)}: attributes of the model with {size / 1e6:,.0f} MB that "
                "steps change, more than a checkpoint takes along: a run that is stopped begins "
                "them anew; register what the next step needs as buffers",
                StudyWarning,
                stacklevel=2,
            )
            return {}
        return {name: _on(value, torch.device("cpu")) for name, value in changed.items()}

    def restore(self, content: Any, device: torch.device) -> None:
        """Give the model what another had carried; tensors go to `device`, but for those that stand
        for others on the CPU. Raises `StudyError` for what no model of ours can have carried."""
        if not isinstance(content, dict):
            raise StudyError(f"what it carries is a {type(content).__name__}")
        modules = dict(self.model.named_modules())
        for name, value in content.items():
            path, _, attribute = name.rpartition(".")
            module = modules.get(path)
            if module is None or not _is_own(module, attribute) or not _is_plain(value):
                raise StudyError(f"{name}, which it carries, is nothing that the model has")
            now = vars(module).get(attribute)
            stays = any(leaf.is_cpu for leaf in _leaves(now)) if _is_plain(now) else False
            value = _on(value, torch.device("cpu") if stays else device)
            value = deque(value, now.maxlen) if isinstance(now, deque) else value
            module.__dict__[attribute] = value

    def _differs(self, name: str, value: Any) -> bool:
        return name not in self.seen or not _same_marks(self.seen[name], _mark(value))


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Of its modules those that a checkpoint can hold."""
    for path, module in model.named_modules():
        for attribute, value in list(vars(module).items()):
            if _is_own(module, attribute) and _is_plain(value):
                yield f"{path}.{attribute}".removeprefix("."), value


def _is_own(module: nn.Module, attribute: str) -> bool:
    """Whether it is the author's, and no method or the like in its class."""
    is_named = attribute.isidentifier() and not attribute.startswith("__")
    is_torchs = attribute in OF_TORCH or attribute == BUFFERS
    return is_named and not is_torchs and not callable(getattr(type(module), attribute, None))


def _is_plain(value: Any, depth: int = DEEPEST) -> bool:
    if isinstance(value, Tensor):
        return type(value) is Tensor and not value.requires_grad
    if type(value) in PLAIN:
        return True
    if depth == 0 or type(value) not in (list, tuple, dict, deque):
        return False
    if isinstance(value, dict):
        return all(type(k) in PLAIN and _is_plain(v, depth - 1) for k, v in value.items())
    return all(_is_plain(item, depth - 1) for item in value)


def _leaves(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict | deque):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)


def _on(value: Any, device: torch.device) -> Any:
    """The same with copies of its tensors there."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _on(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_on(item, device) for item in value)
    return [_on(item, device) for item in value] if isinstance(value, list | deque) else value


def _mark(value: Any) -> Any:
    """By which a value is known again. A tensor counts how often it was written into."""
    if isinstance(value, Tensor):
        return value, 0 if value.is_inference() else value._version
    if isinstance(value, dict):
        return [(key, _mark(item)) for key, item in value.items()]
    return [_mark(item) for item in value] if isinstance(value, list | tuple | deque) else value


def _same_marks(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same_marks, one, other))
    return type(one) is type(other) and (one == other or one != one)
