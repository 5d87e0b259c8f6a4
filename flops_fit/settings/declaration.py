"""How a setting is declared: a field of a frozen dataclass that says all there is to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from functools import cache
from inspect import get_annotations
from typing import Any, get_type_hints

KEY = "setting"
"""Under which a dataclass field's metadata has what is said of a setting."""


class Kind(Enum):
    """What a setting can change. The value says it in words."""

    DECIDES = "decides a result: another value is another run"
    PINNED = "pinned by the study's first training, for all its runs"
    CHOOSES = "chooses which experiments are trained"
    MACHINE = "where and how fast, never what comes out"
    ANSWER = "how the answer is fitted, shown and kept"


@dataclass(frozen=True)
class Setting:
    """One setting. `default` is None for one that must be given (`is_required`).

    `section` is the dataclass that declares it. `in_id` tells a setting that a run's id knows under
    its own name: a deciding one where it is set, a pinned one as it was pinned; other deciding ones
    reach the id through the experiment (its batch, steps, rate, seed) or the data. `python` is its
    type as an argument of the Python face, empty where the face has another way to give it. No
    number below `least` makes sense.
    """

    name: str
    type: Any
    default: Any
    is_required: bool
    kind: Kind
    about: str
    unit: str
    in_id: bool
    python: str
    least: float | None
    section: type


@dataclass(frozen=True)
class _Words:
    kind: Kind
    about: str
    unit: str
    in_id: bool
    python: str | None
    least: float | None


def _declare(
    kind: Kind,
    default: Any,
    about: str,
    unit: str = "",
    *,
    in_id: bool = False,
    python: str | None = None,
    least: float | None = None,
) -> Any:
    """A dataclass field; `python` is for types that differ there ("" for no argument)."""
    metadata = {KEY: _Words(kind, about, unit, in_id, python, least)}
    if default is MISSING:
        return field(metadata=metadata)
    if isinstance(default, Mapping):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    if isinstance(default, type):  # of nested settings
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def decides(default: Any, about: str, unit: str = "", **more: Any) -> Any:
    """A setting that decides a run's result."""
    return _declare(Kind.DECIDES, default, about, unit, **more)


def pinned(default: Any, about: str, unit: str = "", **more: Any) -> Any:
    """A setting that holds for a study from its first training on."""
    return _declare(Kind.PINNED, default, about, unit, **more)


def chooses(default: Any, about: str, unit: str = "", **more: Any) -> Any:
    """A setting that says which experiments are trained."""
    return _declare(Kind.CHOOSES, default, about, unit, **more)


def machine(default: Any, about: str, unit: str = "", **more: Any) -> Any:
    """A setting of where and how fast runs train."""
    return _declare(Kind.MACHINE, default, about, unit, **more)


def answer(default: Any, about: str, unit: str = "", **more: Any) -> Any:
    """A setting of the answer."""
    return _declare(Kind.ANSWER, default, about, unit, **more)


def declared(cls: Any) -> tuple[Setting, ...]:
    """All settings of a settings class, in the order of its sections."""
    return _declared(cls)


@cache
def _declared(cls: Any) -> tuple[Setting, ...]:
    hints = get_type_hints(cls)
    return tuple(_setting(f, hints[f.name], cls) for f in fields(cls) if KEY in f.metadata)


def names_of(cls: Any, holds: Callable[[Setting], bool]) -> tuple[str, ...]:
    """Names of the settings for which `holds` is true."""
    return tuple(s.name for s in declared(cls) if holds(s))


def sections(cls: Any) -> Iterator[tuple[str, tuple[Setting, ...]]]:
    """(heading, settings) of each section: the first line of its docstring."""
    found = declared(cls)
    for section in dict.fromkeys(s.section for s in found):
        heading = (section.__doc__ or section.__name__).splitlines()[0].rstrip(".")
        yield heading, tuple(s for s in found if s.section is section)


def _setting(of: Field[Any], hint: Any, cls: type) -> Setting:
    words: _Words = of.metadata[KEY]
    section = next(c for c in reversed(cls.__mro__) if of.name in get_annotations(c))
    default = of.default_factory() if of.default_factory is not MISSING else of.default
    python = words.python if words.python is not None else str(of.type)
    return Setting(
        name=of.name,
        type=hint,
        default=None if default is MISSING else default,
        is_required=default is MISSING,
        kind=words.kind,
        about=words.about,
        unit=words.unit,
        in_id=words.in_id,
        python=python,
        least=words.least,
        section=section,
    )
