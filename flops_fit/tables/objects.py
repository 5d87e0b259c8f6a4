"""JSON as records: one object for each run, whatever shape the file has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flops_fit.files import whole_number
from flops_fit.fitting.errors import FitError
from flops_fit.tables.columns import column_names


def json_records(path: Path, text: str) -> list[Any]:
    """Objects one after the other, one list of objects or of lists, or one object of columns or
    runs."""
    try:
        first, *others = _values(text)
        if others:
            return [first, *others]
        if isinstance(first, list):
            return _under_names(first) if first and isinstance(first[0], list) else first
        return _records_in(first)
    except json.JSONDecodeError as error:
        raise FitError(
            f"{path} is not readable JSON ({error})", "write one object per line"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise FitError(
            f"{path} is no table that can be read ({reason})", "write one plain object per run"
        ) from error


def _values(text: str) -> list[Any]:
    """Everything that stands in the text, parted by blanks or lines."""
    decoder = json.JSONDecoder(parse_int=whole_number)
    values: list[Any] = []
    at = _past_blanks(text, 0)
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        values.append(value)
        at = _past_blanks(text, end)
    return values


def _past_blanks(text: str, at: int) -> int:
    found = re.compile(r"\s*").match(text, at)
    return found.end() if found else at


def _records_in(whole: Mapping[str, Any]) -> list[Any]:
    """The runs of one object: in a list of it, in columns of one length, by their names, or the
    object itself."""
    values = list(whole.values())
    listed = [value for value in values if isinstance(value, list)]
    split = [whole.get(key) for key in ("columns", "data")]  # as pandas splits a frame
    if isinstance(split[0], list) and isinstance(split[1], list) and all(map(_is_list, split[1])):
        return _under_names([split[0], *split[1]])
    tables = [value for value in listed if value and all(isinstance(v, dict) for v in value)]
    if len(tables) == 1:
        return tables[0]
    if listed and len(listed) == len(values) and len({len(value) for value in listed}) == 1:
        return [dict(zip(whole, cells, strict=True)) for cells in zip(*listed, strict=True)]
    if not values or not all(isinstance(value, dict) and value for value in values):
        return [whole]
    if len(values) == 1 and (inside := _records_in(values[0])) != values:
        return inside
    keys = list(values[0])
    if all(list(v) == keys for v in values) and (
        all(key.isdigit() for key in keys) or are_columns(whole)
    ):
        return [{name: column[key] for name, column in whole.items()} for key in keys]
    if all(map(are_columns, values)):
        return [{"name": name, **run} for name, run in whole.items()]
    return [whole]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def are_columns(names: Iterable[str]) -> bool:
    """Whether these are names under which everything that a table needs is found."""
    try:
        return bool(column_names(list(names), {}, ""))
    except FitError:
        return False


def _under_names(rows: Sequence[Any]) -> list[Any]:
    """Lists of which the first has the names, as records."""
    if all(map(_is_list, rows)) and all(isinstance(name, str) for name in rows[0]):
        return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    return list(rows)


def flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Inner objects become dotted names."""
    cells: dict[str, str] = {}
    for key, value in entry.items():
        name = _printable(f"{prefix}{key}")
        if isinstance(value, Mapping):
            cells |= flat(value, f"{name}.")
        else:
            cells[name] = "" if value is None else _printable(str(value))
    return cells


def _printable(text: str) -> str:
    """The text without halves of characters, which no file could hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
