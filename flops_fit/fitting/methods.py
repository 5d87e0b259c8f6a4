"""Which methods there are, found by their rooms, and which of them a fit tries.

A method is a package of this folder that exposes a `KIND`; one is imported when it is asked for.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import inf

from flops_fit.fitting.contract import FitSettings, Method, MethodKind
from flops_fit.fitting.points import Points

HERE = __name__.rpartition(".")[0]


def kinds() -> tuple[MethodKind, ...]:
    """All kinds: those that are always tried first, then by the numbers of their approaches."""
    return _kinds(_folders())


def named_kind(name: str) -> MethodKind | None:
    """The kind whose package has this name; no other is imported."""
    return _kind_in(name) if name in _packages(_folders()) else None


def kind_of(method: str) -> MethodKind:
    """The kind of a method by its name; any other name is the class of a user's own."""
    return named_kind(method) or _foreign_kind()


def kind_for(answer: object) -> MethodKind:
    """The kind that takes these settings."""
    return next((kind for kind in kinds() if kind.takes(answer)), None) or _foreign_kind()


def default_answer() -> FitSettings:
    """The settings of the method that answers where none is asked."""
    with_defaults = [(preference_of(k.name), k.settings) for k in kinds() if k.settings is not None]
    settings: FitSettings = min(with_defaults, key=lambda pair: pair[0])[1]()
    return settings


def reads_curves(answer: object) -> bool:
    """Whether a fit that is to answer by these settings looks at training curves."""
    return kind_for(answer).reads_curves


def place_of(method: str) -> tuple[bool, float, str]:
    """Sorts methods as `kinds` does."""
    kind = kind_of(method)
    return (not kind.always_tried, inf if kind.approach is None else kind.approach, method)


def preference_of(method: str) -> float:
    """Sorts methods by who answers where the asked one can't."""
    preference = kind_of(method).preference
    return inf if preference is None else preference


def number_of(method: str) -> str:
    """A method in passing: ours by its number, any other by its name."""
    kind = kind_of(method)
    return f"approach {kind.approach}" if kind.approach else method


def short_name(method: str) -> str:
    """A method in a sentence: ours by its number and name, a user's own by its class."""
    return f"{number_of(method)} ({method})" if kind_of(method).approach else method


def in_words(method: str) -> str:
    """A method as the head of a line: ours by number and words, a user's own by its class."""
    kind = kind_of(method)
    return f"{number_of(method)}, {kind.words}" if kind.words else number_of(method)


@dataclass(frozen=True)
class Methods:
    """The methods to try: those that are tried in every fit, and the one that was asked."""

    tried: tuple[Method, ...]
    asked: Method

    @classmethod
    def answering(cls, answer: FitSettings, curves: Points) -> Methods:
        """`answer` with its settings, the others with their defaults."""
        kind = kind_for(answer)
        asked = kind.method(answer, curves)
        always = tuple(
            asked if other is kind else other.method(other.settings(), curves)
            for other in kinds()
            if other.always_tried and other.settings is not None
        )
        return cls(always if kind.always_tried else (*always, asked), asked)

    def __iter__(self) -> Iterator[Method]:
        yield from self.tried

    @property
    def by_preference(self) -> tuple[Method, ...]:
        """Who answers: the method that was asked, else the one whose kind is preferred."""
        others = [m for m in self.tried if kind_of(m.method).preference is not None]
        return (self.asked, *sorted(others, key=lambda method: preference_of(method.method)))


def _foreign_kind() -> MethodKind:
    """The kind that takes what no other does."""
    return next(kind for kind in kinds() if kind.settings is None)


def _folders() -> tuple[str, ...]:
    """This one, and any that the `__path__` of the package was made to name too."""
    return tuple(sys.modules[HERE].__path__)


@cache
def _packages(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(found.name for found in pkgutil.iter_modules(folders) if found.ispkg)


@cache
def _kinds(folders: tuple[str, ...]) -> tuple[MethodKind, ...]:
    found = (_kind_in(name) for name in _packages(folders))
    return tuple(sorted(filter(None, found), key=lambda kind: place_of(kind.name)))


def _kind_in(package: str) -> MethodKind | None:
    kind: MethodKind | None = getattr(import_module(f"{HERE}.{package}"), "KIND", None)
    return kind
