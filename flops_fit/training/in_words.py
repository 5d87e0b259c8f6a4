"""What a sweep trains with, in a sentence that is said once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flops_fit.plan.experiment import Plan
from flops_fit.training.recipe import Recipe


def trains_with(plan: Plan, recipe: Recipe, identity: Mapping[str, Any]) -> str:
    """Loss, optimizer with its peak rate, schedule, batch, precision and held-out part."""
    optimizer, own_rate = identity.get("optimizer"), None
    if isinstance(optimizer, Mapping):
        own_rate = optimizer.get("lr")
    rates = [own_rate if e.learning_rate is None else e.learning_rate for e in plan.experiments]
    rate = _range(r for r in rates if isinstance(r, int | float))
    at = f" at {rate}" if rate else ""
    held_out = recipe.source.held_out_samples
    of = "" if held_out is None else f" of {held_out:,}"
    return (
        f"{_called(identity.get('loss'))}, {_called(optimizer)}{at}, "
        f"{_called(identity.get('schedule'))}; {_range(e.batch_size for e in plan.experiments)} "
        f"samples a step in {recipe.precision}; the loss is measured on "
        f"{recipe.held_out_samples:,}{of} held-out samples"
    )


def _range(values: Iterable[float]) -> str:
    """One number, or the least and the largest."""
    found = sorted(set(values))
    shown = [f"{v:,}" if isinstance(v, int) else f"{v:.3g}" for v in found[:1] + found[1:][-1:]]
    return " to ".join(shown)


def _called(described: Any) -> str:
    """The class or function that ids describe so, by its name."""
    match described:
        case Mapping():
            return _called(described.get("_target_"))
        case [first, *_]:
            return _called(first)
        case str():
            return described.split("(")[0].split()[0].rpartition(".")[2]
    return "a loss of its own"
