"""What a command says of its training in the file that it writes, or in lines of its log."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL_LINES, TAIL_CHARS = 3, 300
"""Of a log, shown where nothing in it matches."""


COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What terminals are told between letters."""


class NotReported(ValueError):
    """The file or a number in it isn't there."""


@dataclass(frozen=True)
class Report:
    """JSON objects, or matches of a pattern in a log, of which the last one with a key counts."""

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

    @classmethod
    def matched(cls, path: Path, text: str, pattern: re.Pattern[str], loss_key: str) -> Report:
        """Each match in the text of `path` as an entry: its named groups, or `loss_key` for its
        only one. A loss that is no number any more where the pattern expects one ends the list.

        Raises `NotReported` where nothing matches, and for a group that is no number.
        """
        text = COLOURS.sub("", text)
        matches = list(pattern.finditer(text))
        if not matches:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            said = " / ".join(lines[-TAIL_LINES:])[-TAIL_CHARS:]
            ends = f"ends with: {said}" if said else "is empty"
            raise NotReported(f"nothing in {path} matches '{pattern.pattern}': it {ends}")
        entries = [
            {name: _number(path, name, value) for name, value in _groups(found, loss_key).items()}
            for found in matches
        ]
        if spoilt := _no_number_after(matches[-1], text, loss_key):
            entries.append({loss_key: float(spoilt)})
        return cls(path, tuple(entries))

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


def _groups(found: re.Match[str], loss_key: str) -> dict[str, str]:
    named = found.groupdict() or {loss_key: found[1]}
    return {name: value for name, value in named.items() if value is not None}


def _number(path: Path, name: str, text: str) -> float:
    """A comma or bracket may follow the number."""
    try:
        return float(text.strip().rstrip(".,;:)]}"))
    except ValueError:
        raise NotReported(
            f"{path} says {name} is {text!r}: not a number, let loss_pattern end before the rest"
        ) from None


def _no_number_after(last: re.Match[str], text: str, loss_key: str) -> str | None:
    """What stands in place of the loss behind the same words further down: nan or an infinity.

    A pattern of digits alone would pass over these, and a diverged run for one that went well.
    """
    place = last.start(loss_key if last.groupdict() else 1)
    words = re.search(r"[^\d\n]*$", text[last.start() : place])
    if not words or not words[0].strip():
        return None
    found = re.search(rf"{re.escape(words[0])}\s*([-+]?(?:nan|inf))", text[last.end() :], re.I)
    return found[1] if found else None
