"""Plain values, as a stored file has them, into the dataclasses that they were written from.

What is read is data: nothing is looked up by a name in it and nothing is called but the dataclass.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flops_fit.errors import StudyError

T = TypeVar("T")

LARGEST_WHOLE = 2**63 - 1
"""Of a whole number: what numpy and torch take."""

EXACT = 2**53
"""Whole numbers up to this are the same as floats."""

WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def read_as(cls: type[T], data: Any, where: str = "") -> T:
    """The dataclass with the fields that `data` has under their names, each of its type.

    Other keys are left out: a later version may have written more. Raises `StudyError` for a value
    of another type, and for a field that is missing and has no default; `where` names the record.
    """
    plain = _reader(cls)(data)
    if plain is not _LOOK_CLOSER:
        return plain  # type: ignore[no-any-return]
    if not isinstance(data, Mapping):
        raise _unexpected(where or "it", data, "an object")
    values = {}
    for name, (hint, is_required) in _fields(cls).items():
        if name in data:
            values[name] = of_type(hint, data[name], f"{where}.{name}" if where else name)
        elif is_required:
            raise StudyError(f"{where}: {name} is missing" if where else f"{name} is missing")
    try:
        return cls(**values)
    except ValueError as error:  # of its own checks
        raise StudyError(f"{where}: {error}" if where else str(error)) from error


def read_list(cls: type[T], data: Any, where: str) -> tuple[T, ...]:
    """A tuple of such dataclasses."""
    if not isinstance(data, list | tuple):
        raise _unexpected(where, data, "a list")
    return tuple(read_as(cls, entry, f"{where}[{i}]") for i, entry in enumerate(data))


def numbers_in(data: Any, *names: str) -> dict[str, float]:
    """The numbers under these names. Raises `StudyError` where one is missing or none."""
    values = of_type(Mapping, data, "it")
    return {name: of_type(float, values.get(name), name) for name in names}


def of_type(hint: Any, value: Any, where: str) -> Any:
    """The value as a type hint has it: tuples for lists, float arrays for lists of numbers.

    Raises `StudyError` for a value of another type.
    """
    if hint is Any:
        return value
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, where)
    if origin is Literal:
        if value in inner and type(value) in {type(word) for word in inner}:
            return value
        raise _unexpected(where, value, " or ".join(map(repr, inner)))
    if hint in WORDS:
        return _scalar(hint, value, where)
    if origin is tuple:
        return _tuple(inner, value, where)
    if origin in (list, Sequence):
        return list(_tuple((inner[0], ...), value, where))
    if origin in (dict, Mapping):
        return _mapping(inner, value, where)
    if getattr(origin, "__name__", None) == "ndarray":
        return _array(value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _word(hint, value, where)
    if is_dataclass(hint):
        return value if isinstance(value, hint) else read_as(hint, value, where)  # type: ignore[arg-type]
    if isinstance(hint, type) and isinstance(value, hint):  # read by itself before
        return value
    raise _unexpected(where, value, str(hint))


def _one_of(hints: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    hints = [hint for hint in hints if hint is not type(None)]
    if len(hints) == 1:
        return of_type(hints[0], value, where)
    for hint in hints:
        try:
            return of_type(hint, value, where)
        except StudyError:
            continue
    raise _unexpected(where, value, " or ".join(_words(hint) for hint in hints))


def _scalar(kind: Any, value: Any, where: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number:
        return value if isinstance(value, float) or abs(value) <= EXACT else float(value)
    if kind is int and is_number and float(value).is_integer() and abs(value) <= LARGEST_WHOLE:
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is type(None) and value is None:
        return value
    raise _unexpected(where, value, WORDS[kind])


def _tuple(hints: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _unexpected(where, value, "a list")
    if len(hints) == 2 and hints[1] is ...:
        hints = [hints[0]] * len(value)
    if len(hints) != len(value):
        raise StudyError(f"{where} has {len(value)} entries: expected {len(hints)}")
    pairs = enumerate(zip(hints, value, strict=True))
    return tuple(of_type(hint, entry, f"{where}[{i}]") for i, (hint, entry) in pairs)


def _mapping(hints: Sequence[Any], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _unexpected(where, value, "an object")
    entry = hints[1] if hints else Any
    return {str(key): of_type(entry, item, f"{where}.{key}") for key, item in value.items()}


def _array(value: Any, where: str) -> Any:
    """Of numbers, one or a list of them."""
    import numpy as np  # which settings and help need not

    if isinstance(value, list | tuple):
        return np.array([_scalar(float, v, f"{where}[{i}]") for i, v in enumerate(value)], float)
    return np.array(_scalar(float, value, where), float)


def _word(kind: type[Enum], value: Any, where: str) -> Enum:
    try:
        return kind(value)
    except (ValueError, TypeError) as error:
        words = " or ".join(str(word.value) for word in kind)
        raise _unexpected(where, value, words) from error


def _words(hint: Any) -> str:
    kinds = {tuple: "a list", list: "a list", dict: "an object", Mapping: "an object"}
    return WORDS.get(hint) or kinds.get(get_origin(hint) or hint, "an object")


def _unexpected(where: str, value: Any, expected: str) -> StudyError:
    return StudyError(f"{where} is {shortened(value)}: expected {expected}")


def shortened(value: Any) -> str:
    """A value in a message."""
    match value:
        case None:
            return "null"
        case Mapping():
            return "an object" if value else "{}"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "[]"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:36]}.."


_LOOK_CLOSER = object()
"""In place of a value that is not simply what its hint says: `of_type` makes of it what it can, or
says what is wrong. Files of ours have next to none, and of 10,000 runs there are 400,000 values."""

Reader = Callable[[Any], Any]
"""A value as `of_type` gives it, or `_LOOK_CLOSER`."""


def _reader(hint: Any) -> Reader:
    """What reads values of this type."""
    return _cached_reader(hint)


@cache
def _cached_reader(hint: Any) -> Reader:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if hint is float:
        return _read_float
    if hint is int:
        return _read_int
    if hint in (str, bool, type(None)):
        return lambda value: value if type(value) is hint else _LOOK_CLOSER
    if origin in (Union, types.UnionType):
        read = _first_of([_reader(kind) for kind in inner if kind is not type(None)])
        return _or_null(read) if type(None) in inner else read
    if origin in (dict, Mapping):
        return _mapping_reader(_reader(inner[1]) if inner else _reader(Any))
    if origin is tuple and len(inner) == 2 and inner[1] is ...:
        return _tuple_reader(_reader(inner[0]))
    if isinstance(hint, type) and is_dataclass(hint):
        return _record_reader(hint)
    return _look_closer


def _look_closer(value: Any) -> Any:
    return _LOOK_CLOSER


def _read_float(value: Any) -> Any:
    if type(value) is float or (type(value) is int and -EXACT <= value <= EXACT):
        return value
    return _LOOK_CLOSER


def _read_int(value: Any) -> Any:
    is_plain = type(value) is int and -LARGEST_WHOLE <= value <= LARGEST_WHOLE
    return value if is_plain else _LOOK_CLOSER


def _or_null(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _first_of(readers: Sequence[Reader]) -> Reader:
    """Of several types the first one that has the value."""
    if len(readers) == 1:
        return readers[0]

    def read(value: Any) -> Any:
        if type(value) is float and value.is_integer():  # a whole number, where that is one of them
            return _LOOK_CLOSER
        for reader in readers:
            if reader is _look_closer:
                return _LOOK_CLOSER
            found = reader(value)
            if found is not _LOOK_CLOSER:
                return found
        return _LOOK_CLOSER

    return read


def _mapping_reader(read: Reader) -> Reader:
    def read_mapping(value: Any) -> Any:
        if type(value) is not dict:
            return _LOOK_CLOSER
        items = {str(key): read(item) for key, item in value.items()}
        return items if all(v is not _LOOK_CLOSER for v in items.values()) else _LOOK_CLOSER

    return read_mapping


def _tuple_reader(read: Reader) -> Reader:
    def read_tuple(value: Any) -> Any:
        if type(value) not in (list, tuple):
            return _LOOK_CLOSER
        items = tuple(map(read, value))
        return items if all(v is not _LOOK_CLOSER for v in items) else _LOOK_CLOSER

    return read_tuple


def _as_they_are(hint: Any) -> frozenset[type]:
    """Types of values that a hint takes without a look at them."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    optional = frozenset({type(None)} & {*kinds})
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1 and others[0] in (float, str, bool):
        return optional | {others[0]}
    return optional


def _record_reader(cls: Any) -> Reader:
    parts = [
        (name, _as_they_are(hint), _reader(hint), needed)
        for name, (hint, needed) in _fields(cls).items()
    ]

    def read_record(data: Any) -> Any:
        if type(data) is not dict:
            return _LOOK_CLOSER
        values = {}
        for name, as_they_are, read, is_required in parts:
            if name in data:
                value = data[name]
                if type(value) not in as_they_are:
                    value = read(value)
                    if value is _LOOK_CLOSER:
                        return _LOOK_CLOSER
                values[name] = value
            elif is_required:
                return _LOOK_CLOSER
        try:
            return cls(**values)
        except ValueError:  # of its own checks
            return _LOOK_CLOSER

    return read_record


def _fields(cls: Any) -> Mapping[str, tuple[Any, bool]]:
    """Name -> type and whether it must be given."""
    return _cached_fields(cls)


@cache
def _cached_fields(cls: Any) -> Mapping[str, tuple[Any, bool]]:
    hints = get_type_hints(cls)
    return {
        f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(cls)
        if f.init
    }
