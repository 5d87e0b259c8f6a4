"""A user's DataLoader made anew, so that its batches depend on seed and step alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from flops_fit.datasets.batches import Batch, as_batch, num_samples
from flops_fit.datasets.draws import drawing
from flops_fit.datasets.samples import not_collated
from flops_fit.datasets.source import seed_of
from flops_fit.errors import ConfigError

STREAM_SEED = 0
"""Of what a stream draws at random: one for all runs, so that what is reserved stays reserved."""


def rebuilt(loader: DataLoader[Any], dataset: Any) -> DataLoader[Any]:
    """The loader over `dataset`, without a short last batch and with a generator of its own for
    its shuffling, so that the user's loader stays as it was.

    Its workers start anew each epoch: only then are they seeded, and a run can resume.
    """
    settings: dict[str, Any] = {
        "batch_size": batch_size_of(loader),
        "drop_last": True,
        "generator": torch.Generator(),
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "prefetch_factor": loader.prefetch_factor,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }
    sampler = loader.sampler
    if isinstance(dataset, IterableDataset) or isinstance(sampler, SequentialSampler):
        return DataLoader(dataset, **settings)
    if isinstance(sampler, RandomSampler) and not sampler.replacement:
        return DataLoader(dataset, shuffle=True, **settings)
    if dataset is loader.dataset:
        return DataLoader(dataset, sampler=sampler, **settings)
    raise ConfigError(
        f"no fraction can be held out of a DataLoader with a {type(sampler).__qualname__} of its "
        "own: give held_out=a dataset"
    )


def batch_size_of(loader: DataLoader[Any]) -> int:
    """Raises `ConfigError` where batches are made elsewhere."""
    if loader.batch_size is None:
        raise ConfigError(
            "the DataLoader has no batch_size, so its batches may differ in size: make it with "
            "batch_size= in place of a batch_sampler"
        )
    return loader.batch_size


def full_batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Once through a stream, the short last batch skipped."""
    batches = loaded_batches(loader, STREAM_SEED, first_step=0)
    return (batch for batch in batches if num_samples(batch) == loader.batch_size)


def loaded_batches(loader: DataLoader[Any], seed: int, first_step: int) -> Iterator[Batch]:
    """Once through the loader from its start, which is step `first_step` of a run.

    What a sampler or, without workers, a dataset draws at random depends on (seed, step), what
    workers draw on (seed, first_step).
    """
    loader.generator.manual_seed(seed_of(seed, first_step))
    with drawing(seed, first_step):
        batches = iter(loader)
    for step in itertools.count(first_step):
        with drawing(seed, step):
            loaded = fetched_by(loader, batches)
        if not loaded:
            return
        yield as_batch(loaded[0])


def fetched_by(loader: DataLoader[Any], batches: Iterator[Any]) -> list[Any]:
    """The next batch, if there is one. Raises `ConfigError` for samples that can't be in one."""
    try:
        return list(itertools.islice(batches, 1))
    except RuntimeError as error:
        if loader.collate_fn is not default_collate:
            raise
        raise not_collated(error) from error


def check_rows(num_rows: int, batch_size: int) -> None:
    if num_rows != batch_size:
        raise ConfigError(
            f"the DataLoader's collate_fn makes {num_rows} rows of a batch of {batch_size}: "
            "it must keep one row for each sample"
        )


def check_fills_a_batch(num_samples: int, batch_size: int) -> None:
    if num_samples < batch_size:
        raise ConfigError(
            f"{num_samples} samples to train on, one batch takes {batch_size}: "
            "give more data, hold out less, or lower batch_size"
        )


def check_batch_size(asked: int, fixed: int) -> None:
    if asked != fixed:
        raise ConfigError(
            f"batch_size {asked} asked of data that come in batches of {fixed}: use {fixed}"
        )
