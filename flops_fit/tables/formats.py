"""A file as a table of text: CSV, JSON, Markdown, Parquet, Excel; packed or not."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from flops_fit.fitting.errors import FitError
from flops_fit.tables.cells import FILE, Cells, Row, quantity
from flops_fit.tables.drawn import drawn_table, is_drawn, is_latex, is_rule, latex_table
from flops_fit.tables.files import names_beside
from flops_fit.tables.objects import are_columns, flat, json_records

LOOKED_AT = 400
"""Bytes that tell how a file is written."""

DELIMITERS = (",", ";", "\t", "|")

LARGEST = 2**30
"""Bytes of a table, unpacked: beyond it is no table of runs."""

EXTRA = "install it with pip install 'flops-fit[tables]', or save the table as CSV"

MOST_ACROSS = 2
"""Cells of a line up to which runs are no columns: a file of names and values is one run."""

OLD_EXCEL = b"\xd0\xcf\x11\xe0"
PARQUET = b"PAR1"
ZIP = b"PK\x03\x04"

Lines = list[list[str]]


def read_cells(files: Sequence[Path]) -> Cells:
    """All rows of the files under the headers of any, and of which file each is.

    Raises `FitError` where one is no table that can be read.
    """
    tables = [_table(path) for path in files]
    found = dict.fromkeys(header for table in tables for header in table.headers)
    twice = dict.fromkeys(
        h for table in tables for h in table.headers if table.headers.count(h) > 1
    )
    headers = (*found, *twice) if FILE in found else (*found, *twice, FILE)
    names = names_beside(files)
    rows: list[Row] = []
    for name, table in zip(names, tables, strict=True):
        rows += table.rows if FILE in found else [{**row, FILE: name} for row in table.rows]
    name = str(files[0]) if len(files) == 1 else f"{len(files)} files ({', '.join(names[:3])}..)"
    return Cells(name, headers, rows, [place for table in tables for place in table.places])


def _table(path: Path) -> Cells:
    data = _unpacked(path, _bytes(path))
    if data.startswith(PARQUET):
        return _of_records(path, _parquet(path, data))
    if data.startswith(ZIP):
        return _of_lines(path, _excel(path, data))
    if data.startswith(OLD_EXCEL):
        raise FitError(f"{path} is a file of an old Excel", "save it as .xlsx or CSV")
    text = _text(path, data).lstrip("\ufeff")
    if not text.strip():
        raise FitError(f"{path} is empty", "give a table with a header and one run per row")
    if text.lstrip()[0] in "{[":
        return _of_records(path, json_records(path, text))
    if is_latex(text):
        return _of_lines(path, latex_table(text))
    return _of_lines(path, drawn_table(path, text) if is_drawn(text) else _delimited(path, text))


def _bytes(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise FitError(f"{path} is larger than 1 GiB", "give a table with one run per row")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FitError(f"{path} does not exist", "give the path of a CSV or JSON file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FitError(f"{path} can't be read ({reason})", "check the path") from error


def _zstd(stream: IO[bytes]) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise FitError("a .zst file needs pyarrow", EXTRA) from error
    return pyarrow.CompressedInputStream(stream, "zstd")


UNPACKERS: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstd,
}
"""How what is packed begins, and what unpacks it."""


def _unpacked(path: Path, data: bytes) -> bytes:
    """The bytes of the table itself, whatever the file's ending says."""
    unpack = next((u for mark, u in UNPACKERS.items() if data.startswith(mark)), None)
    try:
        if unpack is not None:
            return _within_limit(path, unpack(io.BytesIO(data)))
        if data.startswith(ZIP) and not _is_workbook(data):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [
                    info.filename
                    for info in archive.infolist()
                    if not info.is_dir() and not info.filename.startswith("__MACOSX/")
                ]
                if len(names) != 1:
                    raise FitError(f"{path} holds {len(names)} files", "give the table itself")
                with archive.open(names[0]) as member:
                    return _within_limit(path, member)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, ValueError,
            RuntimeError, NotImplementedError) as error:  # fmt: skip
        if isinstance(error, FitError):
            raise
        raise FitError(f"{path} can't be unpacked ({error})", "pack it again") from error
    return data


def _within_limit(path: Path, stream: Any) -> bytes:
    data: bytes = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise FitError(f"{path} is larger than 1 GiB, unpacked", "give one run per row")
    return data


def _is_workbook(data: bytes) -> bool:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return "[Content_Types].xml" in archive.namelist()


def _parquet(path: Path, data: bytes) -> list[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise FitError(f"{path}: a Parquet file needs pyarrow", EXTRA) from error
    try:
        records: list[Any] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise FitError(f"{path} is no readable Parquet file ({error})", "write it again") from error
    return records


def _excel(path: Path, data: bytes) -> Lines:
    """The lines of the one sheet that holds any."""
    try:
        import openpyxl  # noqa: F401
    except ImportError as error:
        raise FitError(f"{path}: an Excel file needs openpyxl", EXTRA) from error
    try:
        sheets = {name: _as_text(lines) for name, lines in _sheets(data, as_values=True).items()}
        if any("" in line for lines in sheets.values() for line in lines):
            formulas = _sheets(data, as_values=False)
            sheets = {name: _filled(lines, formulas[name]) for name, lines in sheets.items()}
    except Exception as error:  # of a damaged book anything of zipfile, xml and openpyxl's own
        raise FitError(f"{path} is no readable Excel file ({error})", "save it again") from error
    filled = {name: lines for name, lines in sheets.items() if any(map(any, lines))}
    if len(filled) != 1:
        raise FitError(
            f"{path} has {len(filled)} sheets with cells ({', '.join(filled)})",
            "give a file with one sheet, or save the one that counts as CSV",
        )
    return next(iter(filled.values()))


def _sheets(data: bytes, *, as_values: bool) -> dict[str, list[list[Any]]]:
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=as_values)
    return {sheet.title: [list(line) for line in sheet.values] for sheet in book.worksheets}


def _as_text(lines: Sequence[Sequence[Any]]) -> Lines:
    return [["" if cell is None else str(cell) for cell in line] for line in lines]


def _filled(lines: Lines, formulas: Sequence[Sequence[Any]]) -> Lines:
    """With the formula itself where nobody saved its value."""
    return [
        [cell or str(formula or "") for cell, formula in zip(line, of_line, strict=False)]
        for line, of_line in zip(lines, formulas, strict=False)
    ]


def _text(path: Path, data: bytes) -> str:
    encoding = _encoding(data)
    if encoding == "utf-8-sig" and b"\0" in data:
        raise FitError(f"{path} holds binary data", "give a table as CSV or JSON lines")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise FitError(f"{path} is not UTF-8 text ({error.reason})", "save it as UTF-8") from error
    if text[:LOOKED_AT].lstrip().startswith("<"):
        raise FitError(f"{path} is HTML or XML", "save the table in it as CSV")
    return text


def _encoding(data: bytes) -> str:
    """UTF-16 by its mark, or by every second byte being 0, as in Latin letters and figures."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    first, second = data[:LOOKED_AT:2], data[1:LOOKED_AT:2]
    if second and not any(second) and all(first):
        return "utf-16-le"
    return "utf-16-be" if second and not any(first) and all(second) else "utf-8-sig"


def _delimited(path: Path, text: str) -> Lines:
    text = _without_comments(text.lstrip("\r\n"))
    lines = [line for line in text.splitlines() if line.strip() and not is_rule(line)]
    first = next((line for line in lines if any(d in line for d in DELIMITERS)), None)
    if first is None:
        return _parted_by_blanks(path, lines)
    delimiter = max(DELIMITERS, key=first.count)
    limit = csv.field_size_limit(max(len(text), 1))  # exports hold whole configs in a cell
    try:
        cells = list(filter(None, csv.reader(io.StringIO(text, newline=None), delimiter=delimiter)))
    except csv.Error as error:
        raise FitError(
            f"{path} is not a table that can be read ({error})", "check its quotes"
        ) from error
    finally:
        csv.field_size_limit(limit)
    cells = [[_as_written(cell) for cell in line] for line in cells]
    if delimiter == "," and any(map(IN_MILLIONS.fullmatch, chain.from_iterable(cells))):
        return cells
    return _with_decimal_points(cells, is_sure=delimiter != ",")


def _without_comments(text: str) -> str:
    """Without lines of `#` before the table. A last one that has as many parts is its header."""
    lines = text.splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    if not 0 < count < len(lines):
        return text
    header, first = lines[count - 1].lstrip("# "), lines[count]
    parts = [len(re.split(r"[,;\t|]|\s+", line.strip())) for line in (header, first)]
    kept = [header] if parts[0] == parts[1] > 1 else []
    return "\n".join([*kept, *lines[count:]])


def _parted_by_blanks(path: Path, lines: Sequence[str]) -> Lines:
    """Columns that only blanks part: two or more where names hold single ones."""
    for blanks in (r"\s+", r"\s{2,}|\t"):
        cells = [re.split(blanks, line.strip()) for line in lines]
        lengths = {len(line) for line in cells[1:]}
        if lengths == {len(cells[0]) + 1}:  # rows have names, as R and pandas print them
            return _without_quotes([["", *cells[0]], *cells[1:]])
        if len(lengths | {len(cells[0])}) == 1:
            return _without_quotes(cells)
    raise FitError(f"{path} has no columns that can be told apart", "part them with commas")


def _without_quotes(lines: Lines) -> Lines:
    return [[re.sub(r'^"(.*)"$', r"\1", cell) for cell in line] for line in lines]


DEFUSED = re.compile(r"'(?=['=+\-@\t\r])")
"""The mark by which spreadsheets take a cell for text that would be run, as our runs.csv has it."""


def _as_written(cell: str) -> str:
    return DEFUSED.sub("", cell, count=1) if DEFUSED.match(cell) else cell


POINTED = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?\s*[A-Za-z]*")
"""A number with a decimal point, or one point that parts thousands."""

IN_THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?\s*[A-Za-z]*")
"""A number with points for thousands: 1.234.567,8; 1.234 may be another."""

SURELY_IN_THOUSANDS = re.compile(r"[+-]?\d{1,3}((\.\d{3}){2,}|(\.\d{3})+,\d+)(?!\d)")

DECIMAL_COMMA = re.compile(r"\s*([+-]?\d+),(\d+)(?![\d,.])(.*)", re.DOTALL)

NO_GROUP = re.compile(r"[+-]?(\d+,(\d{1,2}|\d{4,})|0,\d+)(?!\d)")
"""A comma that parts no thousands."""


IN_MILLIONS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3}){2,}\s*")
"""1,234,567."""


def _with_decimal_points(lines: Lines, *, is_sure: bool) -> Lines:
    """3,14 as 3.14 where no cell has a decimal point, and 1.234.567,8 as 1234567.8 where commas are
    those of decimals; which some cell must show unless it `is_sure` without points."""
    cells = [cell.strip() for line in lines[1:] for cell in line]
    pointed = [cell for cell in cells if POINTED.fullmatch(cell) or IN_THOUSANDS.fullmatch(cell)]
    if pointed or not is_sure:
        are_decimal = any(map(NO_GROUP.match, cells)) or any(map(SURELY_IN_THOUSANDS.match, cells))
        if not are_decimal or not all(map(IN_THOUSANDS.fullmatch, pointed)):
            return lines
        lines = [
            [c.replace(".", "") if IN_THOUSANDS.fullmatch(c.strip()) else c for c in line]
            for line in lines
        ]
    return [[DECIMAL_COMMA.sub(r"\1.\2\3", cell) for cell in line] for line in lines]


def _of_lines(path: Path, lines: Lines) -> Cells:
    """The first line as headers over the others, or the first two; titles above are passed over."""
    full = [sum(bool(cell.strip()) for cell in line) for line in lines]
    start = next((i for i, count in enumerate(full) if count > 1), 0)
    if not lines:
        raise FitError(f"{path} is empty", "give a table with a header and one run per row")
    if _lie_across(lines[start:]):
        lines, start = [list(line) for line in zip(*lines[start:], strict=False)], 0
    headers = tuple(cell.strip() for cell in lines[start])
    if start + 1 < len(lines) and (joined := _of_two_lines(headers, lines[start + 1])):
        headers, start = joined, start + 1
    rows: list[Row] = []
    places = []
    number = 0
    for line in lines[start + 1 :]:
        if not any(cell.strip() for cell in line):
            continue
        number += 1
        if any(cell.strip() for cell in line[len(headers) :]):
            raise FitError(
                f"{path}, row {number} has {len(line)} cells under {len(headers)} headers",
                "quote cells that hold the delimiter, and give every column a header",
            )
        rows.append(dict(zip(headers, line, strict=False)))
        places.append(f"{path}, row {number}")
    return Cells(str(path), headers, rows, places)


def _lie_across(lines: Lines) -> bool:
    """Whether runs are columns: the first cells of lines are what headers should be, and the first
    line has none of it."""
    if len({*map(len, lines)}) != 1 or len(lines[0]) <= MOST_ACROSS:
        return False
    return are_columns([line[0] for line in lines]) and not are_columns(lines[0])


BRACKETED = re.compile(r"[(\[].*[)\]]")


def _of_two_lines(upper: Sequence[str], lower: Sequence[str]) -> tuple[str, ...] | None:
    """The headers where a second line goes on with them: names under those of groups, as merged
    cells have them, or units in brackets. None where it is a line of data."""
    lower = [cell.strip() for cell in lower]
    lower += [""] * (len(upper) - len(lower))
    upper = [*upper, *[""] * (len(lower) - len(upper))]
    if any(quantity(cell) is not None for cell in lower) or not any(lower):
        return None
    if all(BRACKETED.fullmatch(cell) for cell in lower if cell):
        return tuple(f"{above} {below}".strip() for above, below in zip(upper, lower, strict=True))
    pairs = list(zip(upper, lower, strict=True))
    are_groups = len({*upper}) < len(upper) or sum(map(bool, lower)) > sum(map(bool, upper))
    if not are_groups or not all(map(any, pairs)) or len({*pairs}) < len(pairs):
        return None
    group, joined = "", []
    for above, below in pairs:
        group = above or group
        name = f"{group} {below}" if lower.count(below) > 1 else below
        joined.append(name or above)
    return tuple(joined)


def _of_records(path: Path, records: Sequence[Any]) -> Cells:
    if not all(isinstance(record, dict) for record in records):
        raise FitError(f"{path} holds JSON that is no object", "write one object per run")
    try:
        rows: list[Row] = [flat(record) for record in records]
    except RecursionError as error:
        raise FitError(f"{path} is nested too deeply", "write plain numbers") from error
    headers = tuple(dict.fromkeys(name for row in rows for name in row))
    return Cells(str(path), headers, rows, [f"{path}, row {i}" for i in range(1, len(rows) + 1)])
