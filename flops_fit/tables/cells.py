"""The cells of a CSV or JSON-lines file as text under their headers, whoever wrote it."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flops_fit.fitting.errors import FitError

DELIMITERS = (",", ";", "\t", "|")

SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
"""What a letter behind a count multiplies it by, as people write them: 125M, 1.3B."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Cells:
    """Rows of text by header. `decimal_comma` where 3,14 means 3.14."""

    path: Path
    headers: tuple[str, ...]
    rows: list[Row]
    decimal_comma: bool


def read_cells(path: Path) -> Cells:
    """Raises `FitError` where the file is no table that can be read."""
    text = _text(path).lstrip("\ufeff")
    if not text.strip():
        raise FitError(f"{path} is empty", "give a table with a header and one run per row")
    if text.lstrip()[0] in "{[":
        return _json_table(path, text)
    return _csv_table(path, text)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise FitError(f"{path} does not exist", "give the path of a CSV or JSON file") from error
    except OSError as error:
        raise FitError(f"{path} can't be read ({error.strerror})", "check the path") from error
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise FitError(f"{path} is not UTF-8 text ({error.reason})", "save it as UTF-8") from error
    if "\0" in text:
        raise FitError(f"{path} holds binary data", "give a table as CSV or JSON lines")
    return text


def _csv_table(path: Path, text: str) -> Cells:
    first_line = text.lstrip("\r\n").splitlines()[0]
    delimiter = max(DELIMITERS, key=first_line.count)
    limit = csv.field_size_limit(len(text))  # exports hold whole configs in a cell
    try:
        lines = list(filter(None, csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)))
    except csv.Error as error:
        raise FitError(
            f"{path} is not a table that can be read ({error})", "check its quotes"
        ) from error
    finally:
        csv.field_size_limit(limit)
    headers = tuple(cell.strip() for cell in lines[0])
    rows: list[Row] = [dict(zip(headers, cells, strict=False)) for cells in lines[1:]]
    return Cells(path, headers, rows, decimal_comma=delimiter != ",")


def _json_table(path: Path, text: str) -> Cells:
    """One object per line, or one list of objects; inner objects become dotted names."""
    try:
        if text.lstrip().startswith("["):
            entries = json.loads(text)
        else:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        raise FitError(
            f"{path} is not readable JSON ({error})", "write one object per line"
        ) from error
    if not all(isinstance(entry, dict) for entry in entries):
        raise FitError(f"{path} holds JSON that is no object", "write one object per run")
    rows: list[Row] = [_flat(entry) for entry in entries]
    headers = tuple(dict.fromkeys(name for row in rows for name in row))
    return Cells(path, headers, rows, decimal_comma=False)


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    cells: dict[str, str] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            cells |= _flat(value, f"{prefix}{key}.")
        else:
            cells[f"{prefix}{key}"] = "" if value is None else str(value)
    return cells


def number_in(cell: str, *, decimal_comma: bool) -> float | None:
    """The number of a cell such as 1.5e9, "1,234,567", 125M or, with `decimal_comma`, 3,14."""
    if decimal_comma:
        cell = re.sub(r"^([+-]?\d+),(\d+)$", r"\1.\2", cell)
    elif re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", cell):
        cell = cell.replace(",", "")
    scale = SUFFIXES.get(cell[-1:].lower(), 1.0)
    try:
        return float(cell if scale == 1.0 else cell[:-1]) * scale
    except ValueError:
        return None
