"""Model sizes that the user lists with their numbers, where nothing can be measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flops_fit.errors import ConfigError, PlanError
from flops_fit.plan.experiment import ModelSize, Size, SizeValue

ENTRY_KEYS = {"size", "num_params", "num_params_total", "flops_per_token"}
"""Keys of an entry in `trainer.sizes`."""


@dataclass(frozen=True)
class ListedFamily:
    """The planner's `Family` of sizes that the user has listed."""

    sizes: tuple[ModelSize, ...]

    @property
    def declares_flops(self) -> bool:
        """Whether the list says what a token costs."""
        return all(size.counted_flops_per_token for size in self.sizes)

    def nearest(self, num_params: float) -> ModelSize:
        return min(self.sizes, key=lambda s: abs(math.log(s.num_params / num_params)))

    def at(self, value: SizeValue) -> ModelSize:
        for size in self.sizes:
            if size.size.value == value:
                return size
        listed = "; ".join(size.size.label for size in self.sizes)
        raise PlanError(f"there is no size {value} in trainer.sizes, which lists {listed}")


def listed_family(entries: Iterable[Any], origin: str) -> ListedFamily:
    """The family of `trainer.sizes`, read from the file `origin`. Raises `ConfigError`."""
    sizes = tuple(_listed_size(entry, origin) for entry in entries)
    if not sizes:
        raise ConfigError(f"{origin}: trainer.sizes is empty: list sizes, or leave it out")
    values = [json.dumps(size.size.value, sort_keys=True) for size in sizes]
    if len(set(values)) < len(values):
        raise ConfigError(f"{origin}: trainer.sizes repeats a size: list each once")
    with_flops = [size for size in sizes if size.counted_flops_per_token]
    if 0 < len(with_flops) < len(sizes):
        raise ConfigError(
            f"{origin}: {len(with_flops)} of {len(sizes)} trainer.sizes say flops_per_token: "
            "give it for all of them, or for none"
        )
    return ListedFamily(sizes)


def _listed_size(entry: Any, origin: str) -> ModelSize:
    if not isinstance(entry, Mapping) or not {"size", "num_params"} <= set(entry) <= ENTRY_KEYS:
        raise ConfigError(
            f"{origin}: {entry} in trainer.sizes: write {{size: 64, num_params: 49152}}, or with a "
            "whole shape {size: {width: 64, depth: 4}, num_params: 49152}; num_params_total and "
            "flops_per_token may be added"
        )
    numbers = {key: value for key, value in entry.items() if key != "size"}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(
                f"{origin}: {key} is {value!r} in trainer.sizes: give a number above 0"
            )
    num_params = round(numbers["num_params"])  # which may be written as 1e6
    return ModelSize(
        size=Size("shape" if isinstance(entry["size"], Mapping) else "size", entry["size"]),
        num_params=num_params,
        num_params_total=round(numbers.get("num_params_total", num_params)),
        counted_flops_per_token=numbers.get("flops_per_token"),
    )
