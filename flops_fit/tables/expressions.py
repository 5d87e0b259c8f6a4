"""Expressions over the columns of a table: `log(perplexity)`, `sweep = base and not step > 0`.

One grammar for columns that are computed and for conditions on rows. Columns are named as the
table names them, in backquotes where that could mean something else. Nothing is ever executed but
what stands here.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from flops_fit.fitting.errors import FitError
from flops_fit.signatures import did_you_mean
from flops_fit.tables.cells import Cells, Row, content, number_in
from flops_fit.tables.columns import listed
from flops_fit.tables.values import (
    BINARY,
    COMPARISONS,
    DATE,
    FUNCTIONS,
    OF_TEXT,
    SEVERAL,
    Node,
    Value,
    compares,
    computed,
    contains,
    same,
    searched,
)

KEYWORDS = ("and", "or", "not", "contains", "in")

CALLED = frozenset({*FUNCTIONS, "regex"})

LONGEST = 2000
"""Characters of an expression: more nest deeper than a reader of expressions goes."""

FIGURES = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[kKmMbBgGtT]?(?![\w.])")

HOW = (
    "write COLUMN SIGN VALUE with one of =, !=, >=, <=, >, <, contains, in [a, b]; join with and, "
    "or, not and parentheses, such as 'where=config = base and not (step < 100 or lr in [1, 3])'"
)

HOW_TO_COMPUTE = (
    "compute with columns, numbers, + - * / **, log, log2, log10, exp, sqrt, abs, min, max and "
    "regex(column, pattern)"
)


class UnknownColumn(FitError):
    """A name in an expression that the table does not have."""

    def __init__(self, name: str, cells: Cells) -> None:
        super().__init__(
            f"there is no column {name!r} in {cells.name}",
            f"{did_you_mean(name, cells.headers)}its columns are {listed(cells.headers)}",
        )
        self.name = name


def value_of(text: str, cells: Cells, names: Sequence[str]) -> Callable[[Row], Value]:
    """The value of an expression at a row of the table, a number or a text; None for nothing.

    `names` are the columns in which `regex(pattern)` looks. Raises `FitError` where the text is no
    expression; so does what is returned, for a row whose cells it can't be computed of.
    """
    try:
        node = _parsed(text, cells, names)
    except UnknownColumn:
        raise
    except FitError as error:
        raise FitError(
            error.reason, HOW_TO_COMPUTE if error.next_step == HOW else error.next_step
        ) from error
    if isinstance(node, Condition):
        raise FitError(f"{text} is a condition", HOW_TO_COMPUTE)
    return node


def conditions_of(text: str, cells: Cells, names: Sequence[str]) -> list[Condition]:
    """The conditions that `and` joins in a text, each with its own words. Raises `FitError`."""
    node = _parsed(text, cells, names)
    if not isinstance(node, Condition):
        raise FitError(f"where holds {text!r}", HOW)
    return list(node.parts or (node,))


@dataclass(frozen=True)
class Condition:
    """What is true or false of a row. `parts` are the conditions that `and` joins in it."""

    text: str
    holds: Callable[[Row], bool]
    parts: tuple[Condition, ...] = ()

    def __call__(self, row: Row) -> bool:
        return self.holds(row)


def _parsed(text: str, cells: Cells, names: Sequence[str]) -> Node | Condition:
    if len(text) > LONGEST:
        raise FitError(f"an expression has {len(text)} characters", f"write at most {LONGEST}")
    reader = _Reader(text, cells, names)
    try:
        node = reader.any_of()
    except RecursionError as error:
        raise FitError(f"{text[:40]}... nests too deep", "write it with fewer brackets") from error
    if reader.rest:
        raise FitError(f"{text!r} can't be read from {reader.rest!r} on", HOW)
    return node


class _Reader:
    """Reads one expression, from its start on."""

    def __init__(self, text: str, cells: Cells, names: Sequence[str]) -> None:
        self.text = text
        self.at = 0
        self.cells = cells
        self.names = names
        self.headers = sorted(filter(None, set(cells.headers)), key=len, reverse=True)

    @property
    def rest(self) -> str:
        return self.text[self.at :].strip()

    def take(self, pattern: str) -> str | None:
        """What matches here, after blanks, and goes past it; None where nothing does."""
        found = re.compile(rf"\s*({pattern})", re.IGNORECASE).match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[1]

    def word(self, *words: str) -> str | None:
        found = self.take(rf"(?:{'|'.join(words)})\b")
        return found.casefold() if found else None

    # Conditions

    def any_of(self) -> Node | Condition:
        return self.joined("or", self.all_of, any)

    def all_of(self) -> Node | Condition:
        return self.joined("and", self.negated, all)

    def joined(
        self,
        word: str,
        part: Callable[[], Node | Condition],
        holds: Callable[[Sequence[bool]], bool],
    ) -> Node | Condition:
        start = self.at
        first = part()
        found = [first]
        while self.word(word):
            found.append(part())
        if len(found) == 1:
            return first
        parts = [self.condition(node) for node in found]
        return Condition(
            self.text[start : self.at].strip(),
            lambda row: holds([p(row) for p in parts]),
            tuple(parts) if word == "and" else (),
        )

    def condition(self, node: Node | Condition) -> Condition:
        if isinstance(node, Condition):
            return node
        raise FitError(f"where holds {self.text!r}, where a part is no condition", HOW)

    def negated(self) -> Node | Condition:
        start = self.at
        if self.header() is None and self.word("not"):
            inner = self.condition(self.negated())
            return Condition(self.text[start : self.at].strip(), lambda row: not inner(row))
        self.at = start
        return self.compared()

    def compared(self) -> Node | Condition:
        start = self.at
        left = self.sum()
        if isinstance(left, Condition):
            return left
        sign = self.take("|".join(map(re.escape, COMPARISONS)))
        if sign is not None:
            return self.condition_of(start, partial(compares, left, sign, self.right(sign, start)))
        before = self.at
        is_negated = self.word("not") is not None
        word = self.word("contains", "in")
        if word is None:
            self.at = before
            return left
        holds = self.among(left) if word == "in" else partial(contains, left, self.text_value())
        return self.condition_of(start, (lambda row: not holds(row)) if is_negated else holds)

    def condition_of(self, start: int, holds: Callable[[Row], bool]) -> Condition:
        return Condition(self.text[start : self.at].strip(), holds)

    def right(self, sign: str, start: int) -> Node:
        """What a column is compared with: mostly a text that stands without quotes."""
        here = self.at
        raw = self.raw_value()
        end = self.at
        if (quoted := _unquoted(raw)) is not None:
            return lambda row: quoted
        if number_in(raw) is not None or DATE.fullmatch(raw) or not raw:
            return lambda row: raw
        found = self.expression_between(here, end)
        self.at = end
        if sign not in OF_TEXT and found is None:
            asked = self.text[start:end].strip()
            raise FitError(f"where asks for {asked}", f"{sign} compares with a number")
        if found is None:
            return lambda row: raw
        if sign in OF_TEXT and not re.search(r"[`(]", raw):
            raise FitError(
                f"where compares with {raw!r}, which may be a text or a column",
                f"quote a text, '{raw}', and write a column in backquotes, `{raw}`",
            )
        return found

    def expression_between(self, start: int, end: int) -> Node | None:
        """The expression that all of this is, if it names a column; None where it is a text."""
        self.at = start
        try:
            node = self.sum()
        except FitError:
            return None
        return node if self.at == end and not isinstance(node, Condition) else None

    def raw_value(self) -> str:
        """The text up to the next `and`, `or` or closing bracket, or in quotes."""
        if quoted := self.take(r"'[^']*'|\"[^\"]*\""):
            return quoted
        start, depth = self.at, 0
        while self.at < len(self.text):
            if depth == 0 and re.compile(r"\s+(and|or)(?=[\s(]|$)", re.IGNORECASE).match(
                self.text, self.at
            ):
                break
            depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
            if depth < 0:
                break
            self.at += 1
        return self.text[start : self.at].strip()

    def text_value(self) -> str:
        raw = self.raw_value()
        quoted = _unquoted(raw)
        if not raw:
            raise FitError(f"where holds {self.text!r}, which ends early", HOW)
        return raw if quoted is None else quoted

    def among(self, left: Node) -> Callable[[Row], bool]:
        """Membership of a list, or, as in Python, of a text in a column's."""
        inner = self.take(r"\[[^\]]*\]|\([^)]*\)")
        if inner is None:
            column = self.header()
            if column is None:
                raise FitError(f"where holds {self.text!r}", "write in [a, b] with a list")
            return lambda row: str(left(row) or "") in content(row.get(column, ""))
        texts = [part.strip() for part in inner[1:-1].split(",")]
        wanted = [text if (q := _unquoted(text)) is None else q for text in texts]
        return lambda row: any(same(left(row), text) for text in wanted)

    # Values

    def sum(self) -> Node | Condition:
        return self.binary(self.product, r"[+-]")

    def product(self) -> Node | Condition:
        return self.binary(self.signed, r"\*(?!\*)|/")

    def binary(self, part: Callable[[], Node | Condition], signs: str) -> Node | Condition:
        node = part()
        while not isinstance(node, Condition) and (sign := self.take(signs)):
            node = partial(computed, BINARY[sign], (node, self.operand(part())))
        return node

    def operand(self, node: Node | Condition) -> Node:
        if isinstance(node, Condition):
            raise FitError(f"{self.text!r} computes with a condition", HOW)
        return node

    def signed(self) -> Node | Condition:
        if self.header_here() is None and (sign := self.take("[+-]")):
            inner = self.operand(self.signed())
            return partial(computed, operator.neg if sign == "-" else operator.pos, (inner,))
        return self.power()

    def power(self) -> Node | Condition:
        base = self.atom()
        if not isinstance(base, Condition) and self.take(r"\*\*|\^"):
            return partial(computed, math.pow, (base, self.operand(self.signed())))
        return base

    def atom(self) -> Node | Condition:
        if (column := self.header()) is not None:
            return lambda row: content(row.get(column, "")) or None
        if self.take(r"\("):
            inner = self.any_of()
            self.closing()
            return inner
        if (quoted := self.take(r"'[^']*'|\"[^\"]*\"")) is not None:
            return lambda row: quoted[1:-1]
        if (figures := self.take(FIGURES.pattern)) is not None:
            number = number_in(figures)
            return lambda row: number
        if (name := self.take(rf"(?:regex|{'|'.join(FUNCTIONS)})(?=\s*\()")) is not None:
            self.take(r"\(")
            return self.regex() if name == "regex" else self.function(name.casefold())
        raise self.unknown()

    def closing(self) -> None:
        if not self.take(r"\)"):
            raise FitError(f"{self.text!r} lacks a closing bracket", "close it")

    def function(self, name: str) -> Node:
        arguments = [self.operand(self.sum())]
        while self.take(","):
            arguments.append(self.operand(self.sum()))
        self.closing()
        if (len(arguments) > 1) != (name in SEVERAL):
            raise FitError(f"{self.text!r}: {name} has {len(arguments)} arguments", "give it "
                           + ("two or more" if name in SEVERAL else "one"))  # fmt: skip
        return partial(computed, FUNCTIONS[name], tuple(arguments))

    def header_here(self) -> str | None:
        """The longest name of a column that stands here."""
        at = re.compile(r"\s*").match(self.text, self.at)
        start = at.end() if at else self.at
        for header in self.headers:
            after = self.text[start + len(header) : start + len(header) + 1]
            inside_a_word = re.fullmatch(r"[\w.]", after) and re.match(r"[\w.]", header[-1])
            is_ours = header.casefold() in KEYWORDS or number_in(header) is not None
            is_ours |= header.casefold() in CALLED and bool(
                re.match(r"\s*\(", self.text[start + len(header) :])
            )
            if self.text.startswith(header, start) and not inside_a_word and not is_ours:
                return header
        return None

    def header(self) -> str | None:
        """The column that is named here, past its name; None where none is."""
        if (quoted := self.take(r"`[^`]*`")) is not None:
            if quoted[1:-1] not in self.cells.headers:
                raise UnknownColumn(quoted[1:-1], self.cells)
            return quoted[1:-1]
        if (header := self.header_here()) is not None:
            self.take(re.escape(header))
        return header

    def unknown(self) -> FitError:
        end = re.search(r"\s*([=<>!*+,()\[\]]|\b(and|or|not|in|contains)\b|$)", self.rest)
        name = self.rest[: end.start()] if end else self.rest
        if not name:
            return FitError(f"{self.text!r} ends early or has a sign too many", HOW)
        return UnknownColumn(name, self.cells)

    # Text out of a cell

    def regex(self) -> Node:
        start, depth, in_class = self.at, 1, False
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == "\\":
                self.at += 1
            elif in_class:
                in_class = character != "]"
            else:
                in_class = character == "["
                depth += {"(": 1, ")": -1}.get(character, 0)
            if depth == 0:
                break
            self.at += 1
        inner = self.text[start : self.at].strip()
        self.closing()
        column, pattern = self.parted(inner)
        try:
            compiled = re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise FitError(f"{pattern!r} is no regular expression ({error})", "mend it") from error
        if compiled.groups > 1:
            raise FitError(
                f"{pattern!r} has {compiled.groups} groups", "keep one, write the others (?:...)"
            )
        return partial(searched, compiled, column or self.column_with(compiled))

    def parted(self, inner: str) -> tuple[str | None, str]:
        """The column, if one is named, and the pattern without quotes."""
        reader = _Reader(inner, self.cells, self.names)
        column = reader.header()
        if column is None or not reader.take(","):
            column, pattern = None, inner
        else:
            pattern = reader.rest
        quoted = _unquoted(pattern)
        return column, pattern if quoted is None else quoted

    def column_with(self, pattern: re.Pattern[str]) -> str:
        """The one column of names in which the pattern finds anything."""
        found = [name for name in self.names if any(map(pattern.search, self.cells.column(name)))]
        if len(found) == 1:
            return found[0]
        say = f"say in which column: regex({(found or self.names)[0]}, {pattern.pattern})"
        if found:
            raise FitError(f"{pattern.pattern!r} is found in {' and in '.join(found)}", say)
        examples = ", ".join(
            f"{next(iter(self.cells.column(name)), '')!r} ({name})" for name in self.names
        )
        raise FitError(f"{pattern.pattern!r} finds nothing in {examples}", say)


def _unquoted(text: str) -> str | None:
    """What stands in the quotes around all of a text; None without them."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else None
