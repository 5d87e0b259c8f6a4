"""Datasets of the Hugging Face `datasets` library, as they are in Python, with tensors for rows."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

from flops_fit.errors import ConfigError

TOKENIZED = "flops_fit.datasets.Hub(rows, tokenizer=.., context_length=..)"


def with_tensors(dataset: Any) -> Any:
    """The same with tensors in its rows where it gives Python's lists and numbers; anything that
    is not of that library as it is.

    Raises `ConfigError` for columns that can't be tensors, such as text, and for several splits.
    """
    if _is_a("datasets.dataset_dict", ("DatasetDict", "IterableDatasetDict"), dataset):
        names = [str(name) for name in dataset]
        raise ConfigError(
            f"dataset is a {type(dataset).__name__} of the splits {', '.join(names)}: give one of "
            f"them, such as dataset=splits[{names[0]!r}], and another as held_out= if you like"
        )
    if _is_a("datasets.arrow_dataset", ("Dataset",), dataset):
        if dataset.format["type"] is not None:  # as its user wants it
            return dataset
        dataset = dataset.with_format("torch", columns=dataset.format["columns"])
        first = dataset[0] if len(dataset) else {}
    elif _is_a("datasets.iterable_dataset", ("IterableDataset",), dataset):
        dataset = dataset.with_format("torch")
        first = next(iter(dataset), {})
    else:
        return dataset
    others = {name: value for name, value in first.items() if not isinstance(value, Tensor)}
    if not others:
        return dataset
    listed = ", ".join(f"{name} ({type(value).__name__})" for name, value in others.items())
    kept = [name for name in first if name not in others]
    ways = [f"keep what is numbers, dataset.select_columns({kept})"] if kept else []
    if any(isinstance(value, str) for value in others.values()):
        ways.append(f"have the text made into token ids, dataset={TOKENIZED}")
    raise ConfigError(
        f"columns of the dataset can't be tensors: {listed}; "
        f"{', or '.join(ways) or 'map them to numbers of one shape'}"
    )


def _is_a(module: str, names: tuple[str, ...], value: Any) -> bool:
    """Whether it is of one of these classes; the library is never imported for that."""
    found = sys.modules.get(module)
    return found is not None and isinstance(value, tuple(getattr(found, name) for name in names))
