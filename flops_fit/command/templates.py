"""Text with the numbers of an experiment in it: `python train.py --width {size} --out {run_dir}`.

Doubled braces are braces.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import ConfigError
from flops_fit.plan.experiment import Experiment, Size


def placeholders(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Name -> value of what a command can be told. `folder` is the run's."""
    return {**of_size(experiment.size), **of_run(experiment, folder)}


def of_size(size: Size) -> dict[str, Any]:
    """A number under its argument's name and `size`, a whole shape under the names in it."""
    if isinstance(size.value, Mapping):
        return dict(size.value)
    return {size.name: size.value, "size": size.value}


def of_run(experiment: Experiment, folder: Path) -> dict[str, Any]:
    e = experiment
    return {
        "num_params": e.num_params,
        "num_tokens": e.num_tokens,
        "num_steps": e.num_steps,
        "batch_size": e.batch_size,
        "batch_tokens": e.batch_tokens,
        "budget": e.budget,
        "flops": e.flops,
        "seed": e.seed,
        "data_seed": e.order_seed,
        "run_dir": output_folder(folder).resolve(),
        "run_id": e.id,
        **({} if e.learning_rate is None else {"learning_rate": e.learning_rate}),
    }


def filled(template: str, values: Mapping[str, Any]) -> str:
    """The template with the values in the place of their names. Raises `ConfigError`."""
    for name in names_in(template):
        if name not in values:
            close = difflib.get_close_matches(name, values, n=1)
            guess = f"did you mean {{{close[0]}}}? " if close else ""
            raise ConfigError(
                f"trainer: {template!r} asks for {{{name}}}, which is not known: {guess}"
                f"Known are {', '.join(values)}; write {{{{ for a brace"
            )
    try:
        return template.format_map(values)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{template!r} can't be filled in: {error}") from error


def names_in(template: str) -> list[str]:
    """The placeholders of the template. Raises `ConfigError` for single braces."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"trainer: {template!r} is no template ({error}): write {{{{ for a brace"
        ) from error
    return [name for _, name, _, _ in parts if name is not None]


def output_folder(folder: Path) -> Path:
    """In a run's folder, for what a command writes: there it can't meet our own files."""
    return folder / "output"
