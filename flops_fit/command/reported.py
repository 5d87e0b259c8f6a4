"""What a command says of its training in the file that it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class NotReported(ValueError):
    """The file or a number in it isn't there."""


@dataclass(frozen=True)
class Report:
    """A JSON object, or JSON lines, of which the last one with a key counts."""

    path: Path
    entries: tuple[Mapping[str, Any], ...]  # in the order of the file

    @classmethod
    def read(cls, path: Path) -> Report:
        """Raises `NotReported` where there is no such file, or something else in it."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise NotReported(f"the command ended well but wrote no {path}") from None
        try:
            entries = _json_values(text)
        except ValueError as error:
            raise NotReported(f"{path} is neither JSON nor JSON lines ({error})") from error
        return cls(path, tuple(entry for entry in entries if isinstance(entry, Mapping)))

    def number(self, key: str) -> float:
        """The number under the key; NaN and infinity are numbers. `a.b` may be a key inside `a`.

        Raises `NotReported`.
        """
        for entry in reversed(self.entries):
            try:
                value = _look_up(entry, key)
            except KeyError:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise NotReported(f"{self.path} says {key} is {json.dumps(value)}: not a number")
            return float(value)
        known = ", ".join(self.entries[-1]) if self.entries else "none"
        raise NotReported(f"{self.path} has no {key}: the keys in its last entry are {known}")


def _json_values(text: str) -> list[Any]:
    """The whole text as one value, else each line."""
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def _look_up(entry: Mapping[str, Any], key: str) -> Any:
    """Raises `KeyError`."""
    if key in entry:
        return entry[key]
    outer, dot, inner = key.partition(".")
    if not dot or not isinstance(entry.get(outer), Mapping):
        raise KeyError(key)
    return _look_up(entry[outer], inner)
