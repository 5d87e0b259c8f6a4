"""Formulas of the documentation as MathML, which browsers draw by themselves: a hook of mkdocs."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas in $ are LaTeX, as GitHub shows them too."""
    return FORMULA.sub(mathml, html)


def mathml(found: re.Match[str]) -> str:
    display = "block" if found[1] == "div" else "inline"
    return convert(unescape(found[2]), display=display)
