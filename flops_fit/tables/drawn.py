"""Tables drawn with lines: Markdown as issues show it, and what terminals print."""

from __future__ import annotations

import re
from pathlib import Path

from flops_fit.fitting.errors import FitError

BOX = str.maketrans(dict.fromkeys("│┃║┆╎¦", "|") | dict.fromkeys("─━═┄╌", "-"))
"""Characters that draw boxes, as those of Markdown."""

RULE = re.compile(r"[\s>|+:=\-┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┣┫┳┻╋┡┩╇╒╕╘╛╞╡╤╧╪╔╗╚╝╠╣╦╩╬]+")
"""A line that only parts a table's rows."""

DASHES = 3
"""Of a rule, at least."""

PIPE = re.compile(r"(?<!\\)\|")


def is_drawn(text: str) -> bool:
    """Whether cells are parted by | and rows by a rule somewhere."""
    lines = text.translate(BOX).splitlines()
    ruled = any(is_rule(line) for line in lines)
    return ruled and any("|" in line and not is_rule(line) for line in lines)


def drawn_table(path: Path, text: str) -> list[list[str]]:
    """The cells, header first. Several tables of one header are one; text around them is not read.

    Raises `FitError` for tables of several headers.
    """
    tables: list[list[list[str]]] = [[]]
    for line in (*text.translate(BOX).splitlines(), ""):
        if is_rule(line):
            continue
        if "|" in line:
            tables[-1].append(_cells(line))
        elif tables[-1]:
            tables.append([])
    tables = [table for table in tables if len(table) > 1]
    if not tables:
        raise FitError(f"{path} has a header and no rows", "give a table with one run per row")
    headers = {tuple(table[0]) for table in tables}
    if len(headers) > 1:
        raise FitError(
            f"{path} holds {len(tables)} tables with different headers",
            "give each in a file of its own: runs=[one.md,other.md]",
        )
    return [tables[0][0], *(line for table in tables for line in table[1:])]


def is_rule(line: str) -> bool:
    """Of dashes or equal signs, which say nothing."""
    return line.count("-") + line.count("=") >= DASHES and bool(RULE.fullmatch(line))


def _cells(line: str) -> list[str]:
    """What stands between the pipes, without those at both ends, marks of emphasis and of code."""
    line = re.sub(r"(?<!\\)\|\s*$", "", re.sub(r"^[\s>]*\|", "", line))
    return [_plain(cell.replace("\\|", "|").strip()) for cell in PIPE.split(line)]


def _plain(cell: str) -> str:
    """`code`, **bold** and [text](link) as their text."""
    cell = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)
    while (found := re.fullmatch(r"(`+|\*{1,3}|__|~~|<b>)(.+?)(\1|</b>)", cell)) is not None:
        cell = found[2].strip()
    return cell.replace("&nbsp;", " ").strip()


LATEX_ROW = re.compile(r"^(.*(?<!\\)&.*?)\\\\(?:\[[^\]]*\])?\s*(?:\\[a-z]+rule.*)?$", re.MULTILINE)
"""Cells parted by & up to a double backslash."""

LATEX_WORDS = re.compile(r"\\(?:textbf|textit|emph|underline|mathbf|text|mathrm|bf|num)\b\s*")


def is_latex(text: str) -> bool:
    return bool(LATEX_ROW.search(text)) and "\\begin{tab" in text


def latex_table(text: str) -> list[list[str]]:
    """The cells of all rows, without what makes them bold and without rules."""
    rows = [re.split(r"(?<!\\)&", found[1]) for found in LATEX_ROW.finditer(text)]
    return [[_of_latex(cell) for cell in row] for row in rows]


def _of_latex(cell: str) -> str:
    cell = re.sub(r"\\[a-z]+rule(?:\([^)]*\))?(?:\{[^}]*\})?", "", LATEX_WORDS.sub("", cell))
    return re.sub(r"\\([%&#_$])", r"\1", re.sub(r"(?<!\^)\{([^{}]*)\}|\$", r"\1", cell)).strip()
