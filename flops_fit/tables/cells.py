"""The cells of a table as text under their headers, and the numbers that such text stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
"""What a letter behind a count multiplies it by, as people write them: 125M, 1.3B."""

MISSING = frozenset({"", "-", "–", "—", "na", "n/a", "#n/a", "none", "null", "?"})
"""What stands in a cell that holds nothing, in whatever case."""

FILE = "file"
"""The column that says of which file a row is."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Cells:
    """Rows of text by header. `name` is the file, or the files; `places` say where each row is."""

    name: str
    headers: tuple[str, ...]
    rows: Sequence[Row]
    places: Sequence[str]

    def column(self, header: str) -> list[str]:
        """The cells under a header, without blanks around them; empty where there is nothing."""
        return [content(row.get(header, "")) for row in self.rows]


def content(cell: str) -> str:
    """The cell without blanks around it; empty where what it holds says that it holds nothing."""
    text = cell.strip()
    return "" if text.casefold() in MISSING else text


SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")

TIMES = r"(?:[x×*·]|\\times|\\cdot)"

POWER = re.compile(
    rf"(?:(?P<factor>[+-]?\d+\.?\d*)\s*{TIMES}\s*)?10\s*"
    r"(?:(?:\^|\*\*)\s*\{?\s*(?P<raised>[+-]?\d+)\s*\}?|(?P<high>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+))"
)
"""2.1x10^9, 10**9, \\times 10^{9}, 10⁹."""

THOUSANDS = re.compile(
    r"[+-]?\d{1,3}(?P<mark>[,'’_\u00a0\u202f\u2009 ])\d{3}(?:(?P=mark)\d{3})*(?!\d)"
)

PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

NO_FIGURES = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)

SCATTER = re.compile(r"\s*(?:±|\+/-|\\pm).*$")
"""How far a number may be off, written behind it."""


@dataclass(frozen=True)
class Quantity:
    """A number as it is written, and the text behind it: 1.4 and "B tokens"."""

    number: float
    unit: str


def quantity(cell: str) -> Quantity | None:
    """The number that a cell begins with: 1.5e9, "1,234,567", 2.1x10^9, ~70M; None where none."""
    text = SCATTER.sub("", cell.strip().replace("−", "-").replace("$", "")).lstrip("~≈ ")
    if NO_FIGURES.fullmatch(text):
        return Quantity(float(text), "")
    if power := POWER.match(text):
        exponent = power["raised"] or power["high"].translate(SUPERSCRIPTS)
        figures, rest = f"{power['factor'] or 1}e{exponent}", text[power.end() :]
    elif grouped := THOUSANDS.match(text):
        whole = re.sub(r"[^\d+-]", "", grouped[0])
        fraction = re.match(r"\.\d*", text[grouped.end() :])
        figures = whole + (fraction[0] if fraction else "")
        rest = text[grouped.end() + (len(fraction[0]) if fraction else 0) :]
    elif plain := PLAIN.match(text):
        figures, rest = plain[0], text[plain.end() :]
    else:
        return None
    try:
        return Quantity(float(figures), rest.strip().strip("*†‡").rstrip(".").strip())
    except ValueError:
        return None


def number_in(cell: str) -> float | None:
    """The number of a cell such as 1.5e9, "1,234,567" or 125M; None for any other text."""
    found = quantity(cell)
    if found is None:
        return None
    scale = 1.0 if not found.unit else SUFFIXES.get(found.unit.casefold())
    return None if scale is None else found.number * scale
