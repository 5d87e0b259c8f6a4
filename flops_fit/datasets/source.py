"""Data as the trainer meets it: `Source`, and the order in which samples are drawn.

The order is a function of the seed alone, so every model size sees the same stream (their noise
then cancels in differences), and of nothing that would have to be saved: a run resumes from its
step number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch, changed
from flops_fit.errors import ConfigError

HELD_OUT_ORDER = 0
"""Seed of the one order in which held-out samples are drawn, whatever the run's own seed."""

Key = tuple[int, ...]
"""What a seed is for, such as (seed, epoch): numbers that are not negative."""

HASHED_WHOLE_BYTES = 2**30
HASHED_BLOCK_BYTES = 2**20
"""Content up to 1 GiB is hashed whole, beyond that 1 MiB blocks, evenly spread, 1 GiB in all."""


@runtime_checkable
class Source(Protocol):
    """A training stream and a held-out part, disjoint from it."""

    @property
    def tokens_per_sample(self) -> float:
        """Tokens one sample adds to D: the sequence length for token ids, 1 for rows; the mean
        where samples differ."""

    @property
    def unique_samples(self) -> int | None:
        """Samples of the training part; None where data never ends."""

    @property
    def held_out_samples(self) -> int | None:
        """Available for evaluation; None where data never ends."""

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of how it is cut into samples, never of names or paths."""

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        """Whole batches from `start_step` on, endless where data can repeat.

        The order depends only on `seed` and `batch_size`.
        """

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        """The same first `num_samples` held-out samples every time; the last batch may be short."""


@runtime_checkable
class CountsBytes(Protocol):
    """A source of text that knows how many bytes a token stands for."""

    @property
    def bytes_per_token(self) -> float | None:
        """Mean over the held-out part; the end of a document counts as one byte, which it takes
        in text read as bytes. None where it isn't known."""


@runtime_checkable
class HasNotes(Protocol):
    """A source that has something to say to whoever plans with it."""

    @property
    def notes(self) -> tuple[str, ...]: ...


class Samples(Protocol):
    """Numbered samples of which any selection can be had as one batch."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """The samples `indices` (B,), int64, collated; `key` decides what they draw at random."""


@runtime_checkable
class StaysOnDevice(Protocol):
    """`Samples` whose content lies on a device, where batches are made of it; nothing is drawn."""

    @property
    def device(self) -> torch.device: ...


@runtime_checkable
class Movable(Protocol):
    """A `Source` or `Samples` that can live on a device and give the same batches there."""

    @property
    def device_bytes(self) -> float:
        """What it takes there; infinite where it can't be had there."""

    def on(self, device: torch.device) -> Any: ...


def seed_of(*key: int) -> int:
    """One 64-bit seed for each `Key`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seeded_generator(*key: int) -> torch.Generator:
    """A generator of its own for each `Key`."""
    return torch.Generator().manual_seed(seed_of(*key))


class ShuffledBatches(Iterator[Batch]):
    """Endless batches over epochs, each a new permutation; a batch may straddle two of them."""

    def __init__(self, samples: Samples, batch_size: int, seed: int, start_step: int = 0) -> None:
        self._samples, self._batch_size, self._seed = samples, batch_size, seed
        self._step = start_step
        self._epoch, position = divmod(start_step * batch_size, len(samples))
        self._order = self._permutation()[position:]

    def __next__(self) -> Batch:
        batch = self._samples.batch(self._taken(self._batch_size), (self._seed, self._step))
        self._step += 1
        return batch

    def block(self, num_steps: int) -> Batch | None:
        """The next `num_steps` batches in one, with their number as first dimension; None where
        samples have to be made for their own batch."""
        if not isinstance(self._samples, StaysOnDevice):
            return None
        indices = self._taken(num_steps * self._batch_size)
        rows = self._samples.batch(indices, (self._seed, self._step))
        self._step += num_steps
        shape = (num_steps, self._batch_size)
        return changed(rows, lambda tensor: tensor.unflatten(0, shape))

    def _taken(self, count: int) -> Tensor:
        """The next `count` of the order."""
        while len(self._order) < count:
            self._epoch += 1
            self._order = torch.cat([self._order, self._permutation()])
        taken, self._order = self._order[:count], self._order[count:]
        return taken

    def _permutation(self) -> Tensor:
        generator = seeded_generator(self._seed, self._epoch)
        return _on_device_of(torch.randperm(len(self._samples), generator=generator), self._samples)


def shuffled_batches(
    samples: Samples, batch_size: int, seed: int, start_step: int = 0
) -> ShuffledBatches:
    """`ShuffledBatches` of the samples from `start_step` on."""
    return ShuffledBatches(samples, batch_size, seed, start_step)


def _on_device_of(indices: Tensor, samples: Samples) -> Tensor:
    return indices.to(samples.device) if isinstance(samples, StaysOnDevice) else indices


def fixed_batches(samples: Samples, batch_size: int, num_samples: int) -> Iterator[Batch]:
    """The first `num_samples` of one fixed permutation: more samples contain the fewer."""
    check_held_out_request(num_samples, len(samples))
    order = torch.randperm(len(samples), generator=seeded_generator(HELD_OUT_ORDER))
    order = _on_device_of(order, samples)
    for indices in torch.split(order[:num_samples], batch_size):
        yield samples.batch(indices, (HELD_OUT_ORDER,))


def check_held_out_fraction(held_out: float) -> float:
    """The fraction itself. Raises `ConfigError` unless it lies between 0 and 1."""
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out is {held_out:g}: give a fraction of the data, such as 0.1")
    return held_out


def check_held_out_request(num_samples: int, available: int) -> None:
    if not 1 <= num_samples <= available:
        raise ValueError(
            f"{num_samples} held-out samples asked for, {available} are there: "
            "evaluate on 1 up to that many, or hold out more"
        )


def content_hash(content: np.ndarray, *settings: object, share: float = 1.0) -> str:
    """SHA-256 of an array's bytes, type and shape, and of the `settings` that cut it.

    `share`: see `hashed_blocks`.
    """
    digest = hashlib.sha256(repr((content.dtype.str, content.shape, settings)).encode())
    for block in hashed_blocks(content.reshape(-1), share):
        digest.update(np.ascontiguousarray(block).view(np.uint8).data)
    return digest.hexdigest()


def hashed_blocks(flat: np.ndarray, share: float = 1.0) -> Iterator[np.ndarray]:
    """Evenly spread 1 MiB slices of a one-dimensional array: all of it up to 1 GiB.

    Or up to this `share` of 1 GiB, of an array that is so large a part of what is hashed.
    """
    length = HASHED_BLOCK_BYTES // flat.itemsize
    most = max(1, int(share * (HASHED_WHOLE_BYTES // HASHED_BLOCK_BYTES)))
    num_blocks = min(-(-flat.size // length), most)
    for start in np.linspace(0, max(0, flat.size - length), num_blocks).astype(np.int64):
        yield flat[start : start + length]
