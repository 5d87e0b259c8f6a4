"""What a user's callables are called, and whether they take what they are to be given."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from flops_fit.errors import ConfigError


def check_argument_names(
    target: Callable[..., Any], names: Iterable[str], who: str, purpose: str = ""
) -> None:
    """Raises `ConfigError` for a name that the target doesn't take.

    In it the target is called `who`, and `purpose` says what the names are for.
    """
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some callables written in C
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in names:
        if name not in parameters:
            raise ConfigError(
                f"{who} takes no argument {name!r}{purpose}: {did_you_mean(name, parameters)}"
                f"It takes {', '.join(parameters)}"
            )


def check_numbers(target: Callable[..., Any], given: Mapping[str, Any], names: str) -> None:
    """Raises `ConfigError` where text is given for an argument that takes a number alone; in it
    the argument is called by `names` and its own."""
    for name, value in given.items():
        if isinstance(value, str) and takes_number(target, name):
            unquoted = "; leave out the quotes" if value[:1].isdigit() else ""
            raise ConfigError(
                f"{names}.{name} is the text {value!r}: {qualified_name(target)} takes a number "
                f"here{unquoted}"
            )


def takes_number(target: Callable[..., Any], name: str) -> bool:
    """Whether an argument is annotated as a number, or a tensor in its place, and nothing else."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        hint = get_type_hints(function).get(name)
    except Exception:  # of names that are there for type checkers alone
        return False
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = [getattr(kind, "__name__", "") for kind in kinds]
    return bool({"int", "float"} & {*words}) and {*words} <= {"int", "float", "Tensor", "NoneType"}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name nearest to this one as a question; empty where none is near."""
    close = nearest(name, known)
    return f"did you mean {close!r}? " if close else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one may stand for, none of two letters: many are like it."""
    telling = [other for other in known if len(other) > 2]
    return next(iter(difflib.get_close_matches(name, telling, n=1)), None)


MOVED = {
    "flops_fit.losses": "flops_fit.learning.losses",
    "flops_fit.metrics": "flops_fit.learning.metrics",
    "flops_fit.optimizers": "flops_fit.learning.optimizers",
    "flops_fit.schedules": "flops_fit.learning.schedules",
    "flops_fit.rules": "flops_fit.plan.rules",
}
"""Modules that configs name and where they stand today. Ids and stored plans know the first names,
which stay valid."""


def current_name(name: str) -> str:
    """Where the class or function of this name, perhaps an earlier one, stands today."""
    module, dot, rest = name.rpartition(".")
    return f"{MOVED.get(module, module)}{dot}{rest}"


def first_name(name: str) -> str:
    """The name under which ids know a class or function: the one it had first."""
    module, dot, rest = name.rpartition(".")
    first = {now: before for before, now in MOVED.items()}
    return f"{first.get(module, module)}{dot}{rest}"


def with_targets(value: Any, renamed: Callable[[str], str]) -> Any:
    """The config node with every `_target_` in it under another name."""
    match value:
        case Mapping():
            node = {key: with_targets(item, renamed) for key, item in value.items()}
            target = value.get("_target_")
            return {**node, "_target_": renamed(target)} if isinstance(target, str) else node
        case list() | tuple():
            return [with_targets(item, renamed) for item in value]
    return value


def qualified_name(value: Any) -> str:
    """Module and name of a class or function, or of the class of any other value."""
    named = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def source_hashes(parts: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """Name -> twelve hex digits of the source code, where a class or function has any."""
    hashes = {name: _source_hash(part) for name, part in parts.items()}
    return {name: code for name, code in hashes.items() if code is not None}


def _source_hash(value: Callable[..., Any]) -> str | None:
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):  # built in, or typed at a prompt
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:12]
