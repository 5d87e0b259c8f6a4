"""The one place for how figures look: colours by role, names of budgets, marks up and down."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from math import floor, log10

from flops_fit.laws.prediction import Interval
from flops_fit.shown import short_number

RAMP = (
    (0.267, 0.005, 0.329),
    (0.283, 0.131, 0.449),
    (0.262, 0.242, 0.521),
    (0.220, 0.343, 0.549),
    (0.177, 0.438, 0.558),
    (0.143, 0.523, 0.556),
    (0.120, 0.607, 0.540),
    (0.167, 0.690, 0.496),
    (0.320, 0.771, 0.411),
    (0.526, 0.833, 0.288),
    (0.762, 0.876, 0.137),
    (0.993, 0.906, 0.144),
)
"""Viridis (van der Walt and Smith 2015), which keeps its order in grey and for the colour-blind, as
RGB at twelve even steps: written out, so that a page needs no matplotlib."""

ON_LIGHT, ON_DARK = (0.0, 0.78), (0.32, 1.0)
"""The part of the ramp that stands out from a light and from a dark background."""

ROLES = {
    "answer": ("#1a1a1a", "#f0f0f0"),
    "run": ("#4c78a8", "#7fb0e0"),
    "first": ("#0072b2", "#56b4e9"),
    "second": ("#d55e00", "#e69f00"),
    "third": ("#009e73", "#3fcf9f"),
    "muted": ("#8a8a8a", "#8f949c"),
    "warning": ("#b3261e", "#ff8a80"),
}
"""Colour on light and on dark. The three methods and sides are of Okabe and Ito's palette, which
the colour-blind tell apart; dashes and symbols tell them apart too."""

OTHERS = ("first", "second", "third", "muted")
"""Roles of methods beside the one that answers, in their order."""

MOST_OF_LETTERS = 1e15

MOST_NAMED = 40
"""Entries of a legend that anyone reads."""

BUDGET = "budget-"
"""Prefix of the role of a budget, before its number from the smallest."""


def budget_colours(count: int, part: Interval = ON_LIGHT) -> list[str]:
    """One colour per budget, from small to large, the same in every figure."""
    low, high = part
    steps = [low + (high - low) * i / max(1, count - 1) for i in range(count)]
    return [_along_ramp(step) for step in steps]


def palette(num_budgets: int) -> dict[str, tuple[str, str]]:
    """Role -> its colour on light and on dark."""
    pairs = zip(budget_colours(num_budgets), budget_colours(num_budgets, ON_DARK), strict=True)
    return {**ROLES, **{f"{BUDGET}{i}": pair for i, pair in enumerate(pairs)}}


def budget_role(budget: float, budgets: Sequence[float], otherwise: str = "muted") -> str:
    """The role of a budget among all of a study, `otherwise` that of one that is not there."""
    return f"{BUDGET}{budgets.index(budget)}" if budget in budgets else otherwise


def named(names: Sequence[str]) -> list[str]:
    """The entries of a legend: of more than `MOST_NAMED` evenly some, with both ends."""
    step = -(-len(names) // MOST_NAMED)
    return list(names) if step <= 1 else [*names[:-1:step], names[-1]]


def power(value: float, digits: int = 3) -> str:
    """A number of FLOPs as people write it: 5×10^{18}, or 10^{18}."""
    if value == 0:
        return "0"
    exponent = floor(log10(abs(value)))
    head = f"{value / 10**exponent:.{digits}g}"
    if head == "10":
        head, exponent = "1", exponent + 1
    return f"10^{{{exponent}}}" if head == "1" else f"{head}×10^{{{exponent}}}"


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

SUPERSCRIPT = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")

SCRIPT = re.compile(r"([\^_])\{([^}]*)\}")


def count(value: float) -> str:
    """A count as people write it: 1.2M; beyond what has letters as FLOPs are."""
    return short_number(value) if value < MOST_OF_LETTERS else power(value)


def as_html(text: str) -> str:
    """A text with ^{..} and _{..} as HTML; all else in it is text."""
    tags = {"^": "sup", "_": "sub"}
    return SCRIPT.sub(lambda m: f"<{tags[m[1]]}>{m[2]}</{tags[m[1]]}>", escape(text))


def as_mathtext(text: str) -> str:
    """A text with ^{..} and _{..} as matplotlib takes it; a dollar stays a dollar.

    Whole exponents are raised digits of the font: mathtext takes a fiftieth of a second for each.
    """
    return SCRIPT.sub(_raised, text.replace("$", r"\$"))


def _raised(script: re.Match[str]) -> str:
    digits = script[2].translate(SUPERSCRIPTS)
    if script[1] == "^" and SUPERSCRIPT.fullmatch(digits):
        return digits
    return rf"$\mathregular{{{{}}{script[1]}{{{script[2]}}}}}$"


def _along_ramp(share: float) -> str:
    """The ramp's colour at 0 to 1, as #rrggbb."""
    place = share * (len(RAMP) - 1)
    left = min(int(place), len(RAMP) - 2)
    mixed = (a + (b - a) * (place - left) for a, b in zip(RAMP[left], RAMP[left + 1], strict=True))
    return "#" + "".join(f"{round(255 * value):02x}" for value in mixed)
