"""Config nodes with a `_target_`, checked and built. Only here is `instantiate` called."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from flops_fit.errors import ConfigError, UserError
from flops_fit.files import shipped_configs
from flops_fit.settings.sweep import Node
from flops_fit.signatures import (
    check_argument_names,
    check_numbers,
    current_name,
    did_you_mean,
    with_targets,
)

SIZE, FLOPS = "size", "flops"
"""Keys of a model's YAML that are for us, not for its constructor."""


TARGET = re.compile(r"_target_: ([\w.]+)")

HARMLESS = re.compile(
    r"torch\.nn\.functional\.(\w+_loss|cross_entropy|binary_cross_entropy\w*|kl_div)"
    r"|torch\.nn\.[A-Z]\w*Loss|torch\.optim\.[A-Z]\w*"
)
"""Losses and optimizers of torch, which do nothing but compute."""

Origins = Mapping[str, str]
"""Config group -> the file that was chosen for it, for error messages."""


@dataclass(frozen=True)
class Part:
    """One config group with a `_target_`; `origin` is the file it was read from."""

    group: str
    node: Node
    origin: str

    def __post_init__(self) -> None:
        if not isinstance(self.node, Mapping) or not self.node.get("_target_"):
            raise ConfigError(
                f"{self.origin}: {self.group} has no `_target_`: name a class or function, such as "
                f"`_target_: my_package.My{self.group.title()}`"
            )

    @property
    def target(self) -> str:
        return str(self.node["_target_"])

    @property
    def arguments(self) -> dict[str, Any]:
        """What the config gives to the target."""
        ours = (SIZE, FLOPS) if self.group == "model" else ()
        return {k: v for k, v in self.node.items() if k not in ours and not _is_hydra_key(k)}

    def callable(self) -> Callable[..., Any]:
        """The class or function itself. Raises `ConfigError` where it can't be imported."""
        try:
            target = get_object(current_name(self.target))
        except Exception as error:  # whatever importing a user's module raises
            cause = error.__cause__ or error
            raise ConfigError(
                f"{self.origin}: can't import {self.group}._target_ {self.target!r}: {cause}"
            ) from error
        return target  # type: ignore[no-any-return]

    def check_arguments(self) -> None:
        """Every configured argument must be one that the target takes."""
        target = self.callable()
        check_argument_names(target, self.arguments, f"{self.origin}: {self.target}")
        check_numbers(target, self.arguments, f"{self.origin}: {self.group}")

    def build(self) -> Any:
        """The object, or for `_partial_: true` a callable with the configured arguments set."""
        self.check_arguments()
        if self.node.get("_partial_"):
            return self.partial()
        return self.instantiate({})

    def partial(self) -> Callable[..., Any]:
        """The target itself, without the check of names that Hydra's own makes at every call."""
        target = self.callable()
        arguments = self._instantiated(self.arguments)
        return functools.partial(target, **arguments) if arguments else target

    def instantiate(self, size: Mapping[str, Any]) -> Any:
        """The object with `size` added to the configured arguments; `config.width` is the `width`
        of the argument `config`."""
        return self._instantiated({"_target_": self.target, **with_values(self.arguments, size)})

    def _instantiated(self, node: Node) -> Any:
        try:
            return instantiate(with_targets(node, current_name), _convert_="all")
        except InstantiationException as error:
            cause = error.__cause__ or error
            if isinstance(cause, UserError):
                raise cause from error
            raise ConfigError(
                f"{self.origin}: {self.group} {self.target} can't be built: "
                f"{type(cause).__name__}: {cause}"
            ) from error


def foreign_targets(node: Any) -> Iterator[str]:
    """The `_target_`s at any depth that are neither of the shipped configs nor `HARMLESS`."""
    match node:
        case Mapping():
            target = node.get("_target_")
            if target is not None and not _is_known(current_name(str(target))):
                yield str(target)
            for item in node.values():
                yield from foreign_targets(item)
        case list() | tuple():
            for item in node:
                yield from foreign_targets(item)


def _is_known(target: str) -> bool:
    return target in shipped_targets() or HARMLESS.fullmatch(target) is not None


@functools.cache
def shipped_targets() -> frozenset[str]:
    """What a file may name and have built: all targets of the shipped configs but those that run
    a command or write where they are told to."""
    others = ("trainer", "logger", "executor")
    folders = (f for f in shipped_configs().iterdir() if f.name not in others)
    texts = (path.read_text(encoding="utf-8") for f in folders for path in f.glob("*.yaml"))
    return frozenset(name for text in texts for name in TARGET.findall(text))


def with_values(node: Node, values: Mapping[str, Any]) -> dict[str, Any]:
    """The node with values at names such as `width` or `config.width`."""
    changed = dict(node)
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        changed[head] = with_values(changed.get(head) or {}, {rest: value}) if dot else value
    return changed


def _is_hydra_key(name: str) -> bool:
    return name.startswith("_") and name.endswith("_")


def chosen(group: str, option: str) -> Any:
    """What a shipped option of a config group is, such as loss=mse, built.

    Raises `ConfigError` where there is no such option.
    """
    folder = shipped_configs() / group
    path = folder / f"{option}.yaml"
    if not path.exists():
        options = sorted(file.stem for file in folder.glob("*.yaml"))
        guess = did_you_mean(option, options)
        raise ConfigError(f"there is no {group} {option!r}: {guess}There are {', '.join(options)}")
    node = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(node, Mapping)
    return Part(group, {str(key): value for key, value in node.items()}, str(path)).build()
