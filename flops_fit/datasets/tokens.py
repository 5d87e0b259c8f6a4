"""Token ids in a flat binary file, memory-mapped."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch
from flops_fit.datasets.overlap import HELD_OUT, TRAINING, Extent, Look, check_overlap, look_at_rows
from flops_fit.datasets.samples import device_bytes_of, on_training_device
from flops_fit.datasets.source import (
    Key,
    Samples,
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
        self._tokens, self._context_length = tokens, context_length
        windows = np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)
        self._windows = windows[::context_length]  # (num_samples, context_length + 1), a view

    def __len__(self) -> int:
        return len(self._windows)

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """Inputs and targets, both (B, context_length) int64."""
        rows = torch.from_numpy(self._windows[indices.numpy()].astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    @property
    def device_bytes(self) -> int:
        return self._tokens.nbytes

    def on(self, device: torch.device) -> WindowsOnDevice:
        return WindowsOnDevice(self._tokens, self._context_length, device)

    def look(self, extent: Extent) -> Look:
        places = extent.places(len(self), self._windows[0].nbytes)
        return look_at_rows(self._windows[places], len(self))


class WindowsOnDevice:
    """The same windows, cut from token ids that lie where training happens."""

    def __init__(self, tokens: np.ndarray, context_length: int, device: torch.device) -> None:
        self._num_windows = (len(tokens) - 1) // context_length
        self._context_length = context_length
        # torch has next to no operations on unsigned types: the same bits as signed numbers.
        bits = tokens.dtype.itemsize * 8
        signed = np.array(tokens).view(f"int{bits}")
        self._mask = 2**bits - 1 if tokens.dtype.kind == "u" and bits < 64 else None
        self._tokens = torch.from_numpy(signed).to(device)
        self._places = torch.arange(context_length + 1, device=device)
        self.device = device

    def __len__(self) -> int:
        return self._num_windows

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """As `Windows.batch`; `indices` lie on the device."""
        rows = self._tokens[indices[:, None] * self._context_length + self._places].long()
        if self._mask is not None:
            rows &= self._mask
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


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
        self._training: Samples = Windows(streams.training, context_length)
        self._held_out: Samples = Windows(streams.held_out, context_length)
        self.unique_samples = len(self._training)
        self.held_out_samples = len(self._held_out)
        self.fingerprint = content_hash(
            streams.training, content_hash(streams.held_out), vocab_size, context_length
        )

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        return shuffled_batches(self._training, batch_size, seed, start_step)

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        return fixed_batches(self._held_out, batch_size, num_samples)

    @property
    def device_bytes(self) -> float:
        return device_bytes_of(self._training) + device_bytes_of(self._held_out)

    def on(self, device: torch.device) -> WindowSource:
        """The same with its token ids on the device."""
        moved = copy.copy(self)
        moved._training = on_training_device(self._training, device)
        moved._held_out = on_training_device(self._held_out, device)
        return moved


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
