"""Settings from plain values, as configs and plan.json have them, and back."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from numbers import Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from flops_fit.errors import ConfigError
from flops_fit.records import of_type
from flops_fit.settings.declaration import Setting, declared, names_of
from flops_fit.signatures import did_you_mean

S = TypeVar("S")


def from_plain(cls: type[S], values: Any) -> S:
    """Settings from a composed config. Raises `ConfigError` for a value of another type, or one
    that makes no sense."""
    for setting in declared(cls):
        if setting.name in values:
            check_value(setting, values[setting.name])
    return _typed(cls, values)


def _typed(cls: type[S], values: Any) -> S:
    return cls(**{s.name: typed(s, values[s.name]) for s in declared(cls) if s.name in values})


def from_keywords(cls: type[S], keywords: Mapping[str, Any], given: Mapping[str, Any]) -> S:
    """Settings from those arguments of the Python face that are of this class, and from what is
    `given` in other ways. Raises `ConfigError` for a value of another type."""
    own = names_of(cls, lambda setting: bool(setting.python))
    keywords = {name: value for name, value in keywords.items() if name in own}
    missing = names_of(cls, lambda setting: setting.is_required)
    return from_plain(cls, {**dict.fromkeys(missing), **keywords, **given})


def check_names(keywords: Iterable[str], *classes: Any) -> None:
    """Raises `ConfigError` for an argument of the Python face that none of the classes knows."""
    known = [name for cls in classes for name in names_of(cls, lambda s: bool(s.python))]
    for name in keywords:
        if name not in known:
            guess = did_you_mean(name, known)
            raise ConfigError(f"there is no setting {name!r}: {guess}There are {', '.join(known)}")


def stored(cls: type[S], values: Any) -> S | None:
    """Settings from a file, perhaps of an earlier version; None where it holds none.

    What they did not have yet has its default, what is no setting any more is left out. Raises
    `StudyError` for a value of another type.
    """
    if not values:
        return None
    for setting in declared(cls):
        value = values.get(setting.name)
        is_word = isinstance(value, str) and is_of_words(setting.type)  # a later version has more
        if value is not None and not is_word:
            of_type(setting.type, value, f"settings.{setting.name}")
    missing = [s.name for s in declared(cls) if s.is_required and s.name not in values]
    return _typed(cls, {**dict.fromkeys(missing), **values})


def plain(settings: Any) -> dict[str, Any]:
    """Name -> value as JSON and YAML have it."""
    return {f.name: _plain(getattr(settings, f.name)) for f in fields(settings)}


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return plain(value) if is_dataclass(value) and not isinstance(value, type) else value


def typed(setting: Setting, value: Any) -> Any:
    """The value as its type has it: tuples for lists, one number as a list of it."""
    kinds = alternatives(setting.type)
    if value is None and (type(None) in kinds or setting.is_required):
        return None
    for kind in kinds:
        if get_origin(kind) is tuple:
            return _tuple(setting, get_args(kind)[0], value)
        if is_dataclass(kind) and isinstance(value, Mapping):
            return _nested(setting, kind, value)
    return scalar(setting, kinds, value)


def check_value(setting: Setting, value: Any) -> None:
    """Raises `ConfigError` where it is none of the words to choose from, or below the least."""
    kinds = [kind for kind in alternatives(setting.type) if kind is not type(None)]
    words = [word for kind in kinds for word in get_args(kind)]
    only_words = all(get_origin(kind) is Literal for kind in kinds)
    if only_words and value is not None and value not in words:
        raise ConfigError(
            f"{setting.name} is {value!r}: {did_you_mean(str(value), words)}give "
            f"{' or '.join(words)} ({setting.about})"
        )
    if setting.least is not None and isinstance(value, Real) and value < setting.least:
        raise ConfigError(
            f"{setting.name} is {value}: it must be at least {setting.least:g} ({setting.about})"
        )


def _tuple(setting: Setting, item: Any, value: Any) -> tuple[Any, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if item is float:
        return tuple(_number(setting, v) for v in values)
    return tuple(values)


def _number(setting: Setting, value: Any) -> float:
    if not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    unit = f" of {setting.unit}" if setting.unit else ""
    raise ConfigError(
        f"{setting.name} holds {value!r}: give numbers{unit}, such as {setting.name}=1e15,1e16"
    )


def scalar(setting: Setting, kinds: Iterable[Any], value: Any) -> Any:
    """The value itself if it is of its type; whole floats count as whole numbers.

    Types that are neither numbers, text nor true and false are whatever they are.
    """
    plain_kinds = [kind for kind in kinds if kind in (bool, int, float, str)]
    if not plain_kinds or len(plain_kinds) < len([k for k in kinds if k is not type(None)]):
        return value
    (kind,) = plain_kinds
    if kind in (int, float) and isinstance(value, Real) and not isinstance(value, bool):
        if kind is float:
            return float(value)
        if float(value).is_integer():
            return int(value)  # type: ignore[call-overload]
    elif kind in (bool, str) and isinstance(value, kind):
        return value
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    unit = f" of {setting.unit}" if setting.unit else ""
    raise ConfigError(
        f"{setting.name} is {_got(value)}: give {words[kind]}{unit} ({setting.about})"
    )


def _got(value: Any) -> str:
    return "null" if value is None else f"{value!r}, a {type(value).__name__}"


def _nested(setting: Setting, kind: Any, values: Mapping[str, Any]) -> Any:
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(
                f"{setting.name}.{name} names nothing that is read: "
                f"{did_you_mean(str(name), known)}There are {', '.join(known)}"
            )
    return kind(**values)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def is_of_words(hint: Any) -> bool:
    """Whether all values of this type, but null, are words to choose from."""
    kinds = [kind for kind in alternatives(hint) if kind is not type(None)]
    return all(get_origin(kind) is Literal for kind in kinds)


def is_tuple(hint: Any) -> bool:
    """Whether values of this type are lists on the command line."""
    return any(get_origin(kind) is tuple for kind in alternatives(hint))
