"""Data as the trainer meets it: `Source`, and the order in which samples are drawn.

The order is a function of the seed alone, so every model size sees the same stream (their noise
then cancels in differences), and of nothing that would have to be saved: a run resumes from its
step number.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch
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
    def tokens_per_sample(self) -> int:
        """Tokens one sample adds to D: the sequence length for token ids, 1 for rows."""

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


class Samples(Protocol):
    """Numbered samples of which any selection can be had as one batch."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """The samples `indices` (B,), int64, collated; `key` decides what they draw at random."""


def seed_of(*key: int) -> int:
    """One 64-bit seed for each `Key`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def seeded_generator(*key: int) -> torch.Generator:
    """A generator of its own for each `Key`."""
    return torch.Generator().manual_seed(seed_of(*key))


def shuffled_batches(
    samples: Samples, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[Batch]:
    """Endless batches over epochs, each a new permutation; a batch may straddle two of them."""
    epoch, position = divmod(start_step * batch_size, len(samples))
    order = torch.randperm(len(samples), generator=seeded_generator(seed, epoch))[position:]
    for step in itertools.count(start_step):
        while len(order) < batch_size:
            epoch += 1
            next_order = torch.randperm(len(samples), generator=seeded_generator(seed, epoch))
            order = torch.cat([order, next_order])
        yield samples.batch(order[:batch_size], (seed, step))
        order = order[batch_size:]


def fixed_batches(samples: Samples, batch_size: int, num_samples: int) -> Iterator[Batch]:
    """The first `num_samples` of one fixed permutation: more samples contain the fewer."""
    check_held_out_request(num_samples, len(samples))
    order = torch.randperm(len(samples), generator=seeded_generator(HELD_OUT_ORDER))
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
