"""Token ids in flat binary files, memory-mapped."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    shuffled_batches,
)
from flops_fit.datasets.token_files import Paths, Stream, read_stream, token_paths
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
        self.tokens, self.context_length = tokens, context_length
        windows = np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)
        self._windows = windows[::context_length]  # (num_samples, context_length + 1), a view

    def __len__(self) -> int:
        return len(self._windows)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Those samples with their last target: (B, context_length + 1)."""
        rows: np.ndarray = self._windows[indices]
        return rows

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """Inputs and targets, both (B, context_length) int64."""
        return inputs_and_targets(self.rows(indices.numpy()))

    @property
    def device_bytes(self) -> int:
        return self.tokens.nbytes

    def on(self, device: torch.device) -> WindowsOnDevice:
        return WindowsOnDevice([self.tokens], self.context_length, device)

    def look(self, extent: Extent) -> Look:
        places = extent.places(len(self), self._windows[0].nbytes)
        return look_at_rows(self.rows(places), len(self))


class ShardedWindows:
    """The `Windows` of several streams one after the other; none of them has parts of two streams.

    Streams that are too short for a sample give none.
    """

    def __init__(self, shards: Sequence[np.ndarray], context_length: int) -> None:
        long_enough = [tokens for tokens in shards if len(tokens) > context_length]
        if not long_enough:
            longest = max(map(len, shards), default=0)
            raise ConfigError(
                f"{len(shards)} files or parts of them with {longest} tokens at most, a sample "
                f"needs {context_length + 1}: give more data or lower dataset.context_length"
            )
        self._shards = [Windows(tokens, context_length) for tokens in long_enough]
        self._ends = np.cumsum([len(windows) for windows in self._shards])  # (num_shards,)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Those samples with their last target: (B, context_length + 1)."""
        shard_of = np.searchsorted(self._ends, indices, side="right")  # (B,)
        parts, places = [], []
        for number in np.unique(shard_of):
            windows, wanted = self._shards[number], np.flatnonzero(shard_of == number)
            first = self._ends[number] - len(windows)
            parts.append(windows.rows(indices[wanted] - first))
            places.append(wanted)
        back = np.argsort(np.concatenate(places))  # (B,)
        return np.concatenate(parts)[back]

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """Inputs and targets, both (B, context_length) int64."""
        return inputs_and_targets(self.rows(indices.numpy()))

    @property
    def device_bytes(self) -> int:
        return sum(windows.device_bytes for windows in self._shards)

    def on(self, device: torch.device) -> WindowsOnDevice:
        shards = [windows.tokens for windows in self._shards]
        return WindowsOnDevice(shards, self._shards[0].context_length, device)

    def look(self, extent: Extent) -> Look:
        sample_bytes = self.rows(np.zeros(1, dtype=np.int64)).nbytes
        return look_at_rows(self.rows(extent.places(len(self), sample_bytes)), len(self))


def inputs_and_targets(rows: np.ndarray) -> Batch:
    """(B, context_length + 1) -> both (B, context_length) int64."""
    ids = torch.from_numpy(rows.astype(np.int64))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def windows_of(stream: Stream, context_length: int) -> Windows | ShardedWindows:
    if isinstance(stream, np.ndarray):
        return Windows(stream, context_length)
    return ShardedWindows(stream, context_length)


def stream_hash(stream: Stream, *settings: object) -> str:
    """SHA-256 of the stream's content and of the `settings` that cut it."""
    if isinstance(stream, np.ndarray):
        return content_hash(stream, *settings)
    parts = [content_hash(t, share=s) for t, s in zip(stream, shares_of(stream), strict=True)]
    return hashlib.sha256(repr((parts, settings)).encode()).hexdigest()


def shares_of(shards: Sequence[np.ndarray]) -> list[float]:
    """Of all bytes, by shard."""
    total = max(1, sum(tokens.nbytes for tokens in shards))
    return [tokens.nbytes / total for tokens in shards]


class WindowsOnDevice:
    """The same windows, cut from token ids that lie where training happens."""

    def __init__(
        self, shards: Sequence[np.ndarray], context_length: int, device: torch.device
    ) -> None:
        lengths = [len(tokens) for tokens in shards]
        firsts = np.cumsum([0, *lengths[:-1]])
        starts = [
            first + np.arange((length - 1) // context_length) * context_length
            for first, length in zip(firsts, lengths, strict=True)
        ]
        self._starts = torch.from_numpy(np.concatenate(starts)).to(device)  # (num_windows,)
        # torch has next to no operations on unsigned types: the same bits as signed numbers.
        tokens = np.concatenate(shards)
        bits = tokens.dtype.itemsize * 8
        self._mask = 2**bits - 1 if tokens.dtype.kind == "u" and bits < 64 else None
        self._tokens = torch.from_numpy(tokens.view(f"int{bits}")).to(device)
        self._places = torch.arange(context_length + 1, device=device)
        self.device = device

    def __len__(self) -> int:
        return len(self._starts)

    def batch(self, indices: Tensor, key: Key) -> Batch:
        """As `Windows.batch`; `indices` lie on the device."""
        rows = self._tokens[self._starts[indices][:, None] + self._places].long()
        if self._mask is not None:
            rows &= self._mask
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


@dataclass(frozen=True)
class TokenStreams:
    """Token ids to train on and held-out ones.

    `bytes_per_token` is of the held-out part, see `CountsBytes`.
    """

    training: Stream
    held_out: Stream
    bytes_per_token: float | None


class WindowSource:
    """A `Source` of windows over two streams of token ids: one to train on, one held out."""

    def __init__(self, streams: TokenStreams, vocab_size: int, context_length: int) -> None:
        self.vocab_size = vocab_size
        self.context_length = self.tokens_per_sample = context_length
        self.bytes_per_token = streams.bytes_per_token
        self._training: Samples = windows_of(streams.training, context_length)
        self._held_out: Samples = windows_of(streams.held_out, context_length)
        self.unique_samples = len(self._training)
        self.held_out_samples = len(self._held_out)
        self.fingerprint = stream_hash(
            streams.training, stream_hash(streams.held_out), vocab_size, context_length
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
    """Files of token ids in the formats of most tokenizing scripts, see `token_files`.

    `path` names one file, or several as a folder, a glob or a list, which are read as one stream:
    a glob's in the order of their names, a list's as it has them; samples don't cross files. Kept
    for evaluation is `held_out_path` if given, or the files in a folder or glob whose names say
    so, or the last `held_out` of the stream. `dtype` is that of files that don't say it.
    `bytes_per_token`, where it is known, gives losses in bits per byte beside nats per token.
    """

    def __init__(
        self,
        path: Paths,
        vocab_size: int,
        context_length: int,
        dtype: str = "uint16",
        held_out: float = 0.05,
        held_out_path: Paths | None = None,
        bytes_per_token: float | None = None,
    ) -> None:
        if bytes_per_token is not None and not 0 < bytes_per_token < math.inf:
            raise ConfigError(
                f"dataset.bytes_per_token is {bytes_per_token:g}: give the bytes of the held-out "
                "text over its tokens, such as 4.2"
            )
        files = token_paths(path)
        apart = files.held_out
        if held_out_path is not None:
            named = token_paths(held_out_path)
            apart = named.held_out or named.all
        stream = read_stream(files.training, dtype, vocab_size)
        if apart:
            training, evaluation = stream, read_stream(apart, dtype, vocab_size)
            check_streams(training, evaluation, context_length)
        else:
            training, evaluation = cut(stream, check_held_out_fraction(held_out))
        streams = TokenStreams(training, evaluation, bytes_per_token)
        super().__init__(streams, vocab_size, context_length)


def cut(stream: Stream, held_out: float) -> tuple[Stream, Stream]:
    """All but the last `held_out` of the tokens, and those."""
    if isinstance(stream, np.ndarray):
        place = len(stream) - round(len(stream) * held_out)
        return stream[:place], stream[place:]
    total = sum(map(len, stream))
    left = total - round(total * held_out)  # tokens to train on, from here on
    training, evaluation = [], []
    for tokens in stream:
        training.append(tokens[:left])
        evaluation.append(tokens[left:])
        left = max(0, left - len(tokens))
    return tuple(filter(len, training)), tuple(filter(len, evaluation))


def check_streams(training: Stream, held_out: Stream, context_length: int) -> None:
    """Raises `ConfigError` where windows of TELLING_TOKENS or more stand in both streams.

    Seen are files that are the same, or copies that begin at a multiple of the window.
    """
    length = max(context_length, TELLING_TOKENS)
    if min(longest(training), longest(held_out)) > length:
        check_overlap(
            windows_of(training, length).look(TRAINING), windows_of(held_out, length).look(HELD_OUT)
        )


def longest(stream: Stream) -> int:
    """Tokens in a row."""
    return len(stream) if isinstance(stream, np.ndarray) else max(map(len, stream))
