"""Whether a callable takes the arguments it is to be given, found out before it is called."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from flops_fit.errors import ConfigError


def check_argument_names(target: Callable[..., Any], names: Iterable[str], who: str) -> None:
    """Raises `ConfigError`, in which `who` is the target, for a name that it doesn't take."""
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some callables written in C
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in names:
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"{who} takes no argument {name!r}: {guess}It takes {', '.join(parameters)}"
            )
