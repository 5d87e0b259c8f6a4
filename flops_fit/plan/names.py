"""Names that scripts have for our fields, beside our own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from flops_fit.signatures import did_you_mean


@dataclass(frozen=True)
class AlsoCalled:
    """An attribute that is another one of its object, such as `size.value`."""

    field: str

    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else attrgetter(self.field)(instance)


def value_called(instance: Any, name: str) -> Any:
    """The field, property or `AlsoCalled` of a dataclass's instance. Raises `KeyError`."""
    kind = type(instance)
    derived = [key for key, v in vars(kind).items() if isinstance(v, property | AlsoCalled)]
    known = [*(f.name for f in fields(instance)), *derived]
    if name not in known:
        guess = did_you_mean(str(name), known)
        raise KeyError(f"a {kind.__name__} has no {name!r}: {guess}It has {', '.join(known)}")
    return getattr(instance, name)
