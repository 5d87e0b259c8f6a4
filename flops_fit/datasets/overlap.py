"""Whether held-out data of their own are also in the training data, told by content.

Large data are looked at in part, so what is found stands for what is there: of `held_out` samples
looked at, a share s that is in the training data is found s * coverage times, `coverage` being the
part of the training data that was looked at.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from flops_fit.errors import ConfigError

LOOK_BYTES = 2**26
"""Fewer samples are looked at where they hold more than this together: 0.2 s for each part."""

FETCHES = 2_048
FETCH_SECONDS = 0.5
"""Of samples that user code makes one by one no more than this many, in no more than this time."""

SHARED_LIMIT = 0.01
"""Share of the held-out samples that may be in the training data: real data repeat themselves."""

FEWEST_SHARED = 3
"""Where not all training data are looked at, fewer may be found by chance: with a share of
SHARED_LIMIT, 3 of 4,096 are found in a look at 0.7% of the data in 1 of 300 cases."""


@dataclass(frozen=True)
class Extent:
    """At most how many samples are looked at, and the seed of their places."""

    most: int
    seed: int

    def places(self, total: int, sample_bytes: int) -> np.ndarray:
        """Numbers of samples in rising order (int64), LOOK_BYTES in all: every sample of `total`,
        or one at random in each of as many equal parts."""
        count = min(self.most, max(1, LOOK_BYTES // max(1, sample_bytes)))
        if total <= count:
            return np.arange(total)
        offsets = np.random.default_rng(self.seed).random(count)  # (count,)
        places = (np.arange(count) + offsets) * (total / count)
        return np.minimum(places, total - 1).astype(np.int64)


TRAINING = Extent(most=65_536, seed=0)
HELD_OUT = Extent(most=4_096, seed=1)
"""Looking at rows of 8 numbers takes 0.1 s in all."""


@dataclass(frozen=True)
class Look:
    """Hashes of the samples looked at, of `total` samples."""

    hashes: tuple[bytes, ...]
    total: int


def check_overlap(training: Look, held_out: Look) -> None:
    """Raises `ConfigError` where more than SHARED_LIMIT of the held-out samples are trained on."""
    known = frozenset(training.hashes)
    shared = sum(sample in known for sample in held_out.hashes)
    coverage = len(training.hashes) / training.total
    fewest = 1 if coverage == 1 else FEWEST_SHARED
    if shared >= fewest and shared > SHARED_LIMIT * coverage * len(held_out.hashes):
        raise ConfigError(
            f"{shared:,} of {len(held_out.hashes):,} held-out samples are in the training data "
            f"too ({len(training.hashes):,} of {training.total:,} training samples were looked "
            "at), so the held-out loss would be too low: take them out of one of the two, or hold "
            "out a fraction of the training data instead (held_out=0.1)"
        )


def look_at_rows(rows: np.ndarray, total: int) -> Look:
    """A look at samples that are the rows of an array (num_looks, ...)."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    return Look(tuple(sample_hash(row.data) for row in flat), total)


def sample_hash(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()
