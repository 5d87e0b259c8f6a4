"""Settings as law.json records them: what a fit was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

PACKAGE = __name__.partition(".")[0]


def recorded(value: object) -> Any:
    """Any value as plain ones: a dataclass as `recorded_settings`, what is no value by its repr."""
    if is_dataclass(value) and not isinstance(value, type):
        return recorded_settings(value)
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): recorded(entry) for key, entry in value.items()}
        case list() | tuple():
            return [recorded(entry) for entry in value]
    return repr(value)


def recorded_settings(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain values: its class under "type", then its fields."""
    entries = {f.name: recorded(getattr(settings, f.name)) for f in fields(settings)}
    return {"type": _name_of(type(settings)), **entries}


def _name_of(kind: type) -> str:
    """Ours by its name alone, wherever it stands; a user's with its module."""
    ours = kind.__module__.startswith(f"{PACKAGE}.")
    return kind.__name__ if ours else f"{kind.__module__}.{kind.__qualname__}"
