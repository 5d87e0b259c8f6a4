"""Token ids in a flat binary file, memory-mapped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch
from flops_fit.datasets.overlap import HELD_OUT, TRAINING, Extent, Look, check_overlap, look_at_rows
from flops_fit.datasets.source import (
    Key,
    check_held_out_fraction,
    content_hash,
    fixed_batches,
    hashed_blocks,
    shuffled_batches,
)
from flops_fit.errors import ConfigError

TELLING_TOKENS = 64
"""Copies of fewer tokens in a row are no sign that held-out text is trained on."""


class Windows:
    """A stream of token ids cut into samples of `context_length` inputs and as many targets.

    Sample i starts at token i * context_length; its targets are its inputs moved on by one, so
    neighbours share one token and no input stands in two samples.
    """

    def __init__(self, tokens: np.ndarray, context_length: int) -> None:
        if context_length < 1:
            raise ConfigError(f"context_length is {context_length}: it must be at least 1")
        if len(tokens) <= context_length:
            raise ConfigError(
                f"{len(tokens)} tokens, a sample needs {context_length + 1}: "
                "give more data or lower dataset.context_length"
            )
        windows = np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)
        self._windows = windows[::context_length]  # (num_samples, context_length + 1), a view

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """Inputs and targets, both (B, context_length) int64."""
        rows = torch.from_numpy(self._windows[indices.numpy()].astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def look(self, extent: Extent) -> Look:
        places = extent.places(len(self), self._windows[0].nbytes)
        return look_at_rows(self._windows[places], len(self))


@dataclass(frozen=True)
class TokenStreams:
    """Token ids to train on and held-out ones, each an array (num_tokens,).

    `bytes_per_token` is of the held-out part, see `CountsBytes`.
    """

    training: np.ndarray
    held_out: np.ndarray
    bytes_per_token: float | None


class WindowSource:
    """A `Source` of windows over two streams of token ids: one to train on, one held out."""

    def __init__(self, streams: TokenStreams, vocab_size: int, context_length: int) -> None:
        self.vocab_size = vocab_size
        self.context_length = self.tokens_per_sample = context_length
        self.bytes_per_token = streams.bytes_per_token
        self._training = Windows(streams.training, context_length)
        self._held_out = Windows(streams.held_out, context_length)
        self.unique_samples = len(self._training)
        self.held_out_samples = len(self._held_out)
        self.fingerprint = content_hash(
            streams.training, content_hash(streams.held_out), vocab_size, context_length
        )

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        return shuffled_batches(self._training, batch_size, seed, start_step)

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        return fixed_batches(self._held_out, batch_size, num_samples)


class Tokens(WindowSource):
    """A file of `dtype` token ids (uint16 or uint32), the format of most tokenizing scripts.

    The last `held_out` of the file is kept for evaluation, or all of `held_out_path` if given.
    `bytes_per_token`, where it is known, gives losses in bits per byte beside nats per token.
    """

    def __init__(
        self,
        path: str | Path,
        vocab_size: int,
        context_length: int,
        dtype: str = "uint16",
        held_out: float = 0.05,
        held_out_path: str | Path | None = None,
        bytes_per_token: float | None = None,
    ) -> None:
        if bytes_per_token is not None and not 0 < bytes_per_token < math.inf:
            raise ConfigError(
                f"dataset.bytes_per_token is {bytes_per_token:g}: give the bytes of the held-out "
                "text over its tokens, such as 4.2"
            )
        tokens = read_tokens(Path(path), dtype, vocab_size)
        if held_out_path is None:
            cut = len(tokens) - round(len(tokens) * check_held_out_fraction(held_out))
            training, evaluation = tokens[:cut], tokens[cut:]
        else:
            training, evaluation = tokens, read_tokens(Path(held_out_path), dtype, vocab_size)
            check_streams(training, evaluation, context_length)
        streams = TokenStreams(training, evaluation, bytes_per_token)
        super().__init__(streams, vocab_size, context_length)


def check_streams(training: np.ndarray, held_out: np.ndarray, context_length: int) -> None:
    """Raises `ConfigError` where windows of TELLING_TOKENS or more stand in both streams.

    Seen are files that are the same, or copies that begin at a multiple of the window.
    """
    length = max(context_length, TELLING_TOKENS)
    if min(len(training), len(held_out)) > length:
        check_overlap(
            Windows(training, length).look(TRAINING), Windows(held_out, length).look(HELD_OUT)
        )


def read_tokens(path: Path, dtype: str, vocab_size: int) -> np.ndarray:
    """The ids of a file as a read-only view of it, checked against `vocab_size`."""
    if dtype not in ("uint16", "uint32"):
        raise ConfigError(f"dataset.dtype is {dtype}: token files hold uint16 or uint32")
    if not path.is_file():
        raise ConfigError(f"no token file {path}: give the path of a flat binary of {dtype} ids")
    size, itemsize = path.stat().st_size, np.dtype(dtype).itemsize
    if size == 0 or size % itemsize:
        raise ConfigError(
            f"{path} has {size} bytes, not a positive multiple of {itemsize}: is it {dtype}?"
        )
    tokens = np.memmap(path, dtype=dtype, mode="r")
    largest = max(int(block.max()) for block in hashed_blocks(tokens))
    if largest >= vocab_size:
        raise ConfigError(
            f"{path} holds token id {largest}, dataset.vocab_size is {vocab_size}: "
            f"set it to at least {largest + 1}, or check that the file is {dtype}"
        )
    return tokens
