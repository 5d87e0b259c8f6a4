"""The settings as text: for help and for docs/settings.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any

from flops_fit.settings.declaration import Setting, declared, sections


def default_text(setting: Setting) -> str:
    """The default as it is typed on the command line; `..` where a config group sets it."""
    if setting.is_required or is_dataclass(setting.default):
        return ".."
    return _typed(setting.default)


def _typed(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list() | tuple():
            return f"[{','.join(map(_typed, value))}]"
        case dict():
            return "{}"
    return f"{value}" or "''"


def settings_page(verbs: Iterable[tuple[str, type]]) -> str:
    """Markdown: every section once, with the verbs that have it."""
    found: dict[str, tuple[tuple[Setting, ...], list[str]]] = {}
    for verb, cls in verbs:
        for heading, settings in sections(cls):
            found.setdefault(heading, (settings, []))[1].append(verb)
    return "\n".join(
        line
        for heading, (settings, of) in found.items()
        for line in (
            f"## {heading}",
            "",
            f"Of `{'`, `'.join(of)}`.",
            "",
            "| setting | default | unit | meaning | kind |",
            "|---|---|---|---|---|",
            *(_row(setting) for setting in settings),
            "",
        )
    )


def _row(s: Setting) -> str:
    kind = s.kind.name.lower()
    return f"| `{s.name}` | `{default_text(s)}` | {s.unit} | {s.about.replace('|', '/')} | {kind} |"


def keyword_types(name: str, about: str, classes: Iterable[Any]) -> str:
    """Source of a TypedDict: the arguments of the Python face, which its type checkers know."""
    head = [f"class {name}(TypedDict, total=False):", f'    """{about}"""', ""]
    settings = (s for cls in classes for s in declared(cls) if s.python)
    lines = (f"    {s.name}: {s.python}".replace("'", '"') for s in settings)
    return "\n".join((*head, *lines))
