"""A regression task with a clean scaling law: sums of ever finer random waves."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch
from flops_fit.datasets.source import seeded_generator
from flops_fit.errors import ConfigError

VERSION = 1
"""Of the samples that given arguments and seeds make: raise it with every change to them."""

CHUNK_SAMPLES = 1024
"""Samples made at a time: many enough to hide the cost of a call, few enough for the cache."""

KEPT_SAMPLES = 2**21
"""Samples from the stream's start that are made once for all runs of a process, 72 MiB in 8
dimensions: a batch of 64 takes 70 us to make and 2 us to copy."""

AMPLITUDE_DECAY = 0.9
FREQUENCY_GROWTH = 1 / 8
LOWEST_FREQUENCY = 1.5
"""Wave k has amplitude k^-AMPLITUDE_DECAY and frequency LOWEST_FREQUENCY k^FREQUENCY_GROWTH, so
that each doubling of the student's size has something left to learn."""

SCALING_SAMPLES = 2**15
"""On which the teacher's variance is measured and set to 1."""

TEACHER, HELD_OUT, TRAINING = range(3)
"""What a generator is for: part of its key, so that no two draw the same numbers."""


class Toy:
    """Endless fresh samples: x normal in `dim` dimensions, y the teacher's answer plus noise.

    The teacher is y(x) = sum over k = 1..num_waves of k^-0.9 sin(w_k x + b_k), scaled to unit
    variance; `noise` is the standard deviation of what is added, so no model gets below a mean
    squared error of noise^2. `teacher_seed` draws the waves.
    """

    tokens_per_sample = 1
    unique_samples = None
    held_out_samples = None

    def __init__(
        self, dim: int = 8, num_waves: int = 512, noise: float = 0.3, teacher_seed: int = 0
    ) -> None:
        if dim < 1 or num_waves < 1 or noise < 0:
            raise ConfigError(
                f"toy with dim {dim}, num_waves {num_waves}, noise {noise:g}: "
                "dim and num_waves must be at least 1, noise at least 0"
            )
        self.dim = dim
        self.noise = noise
        self.teacher_seed = teacher_seed
        settings = ("toy", VERSION, dim, num_waves, float(noise), teacher_seed)
        self.fingerprint = hashlib.sha256(repr(settings).encode()).hexdigest()
        generator = seeded_generator(TEACHER, teacher_seed)
        k = torch.arange(1, num_waves + 1, dtype=torch.float32)  # (num_waves,)
        frequency = LOWEST_FREQUENCY * k**FREQUENCY_GROWTH
        directions = torch.randn(dim, num_waves, generator=generator) / dim**0.5
        self._waves = directions * frequency  # (dim, num_waves)
        self._phases = 2 * torch.pi * torch.rand(num_waves, generator=generator)
        self._amplitudes = k[:, None] ** -AMPLITUDE_DECAY  # (num_waves, 1)
        probe = torch.randn(SCALING_SAMPLES, dim, generator=generator)
        self._amplitudes /= self.teacher(probe).std()
        # One piece of memory: small pieces between what is freed again would hold on to that.
        self._kept = torch.empty(KEPT_SAMPLES, dim + 1)
        self._num_kept = 0
        self._places: dict[tuple[int, int, int], slice] = {}

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of x (batch_size, dim) and y (batch_size, 1), never the same twice."""
        steps_per_chunk = max(1, CHUNK_SAMPLES // batch_size)
        first_chunk, skipped = divmod(start_step, steps_per_chunk)
        for chunk in itertools.count(first_chunk):
            x, y = self._chunk(steps_per_chunk * batch_size, seed, chunk)
            batches = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
            yield from itertools.islice(batches, skipped, None)
            skipped = 0

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        chunks = [
            self.draw(CHUNK_SAMPLES, seeded_generator(HELD_OUT, self.teacher_seed, chunk))
            for chunk in range(-(-num_samples // CHUNK_SAMPLES))
        ]  # whole chunks: a shorter draw would not be the start of a longer one
        x, y = (torch.cat(parts)[:num_samples] for parts in zip(*chunks, strict=True))
        yield from zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)

    @property
    def device_bytes(self) -> int:
        return self._kept.nbytes

    def on(self, device: torch.device) -> Toy:
        """The same samples, but for the last bits of the teacher's answers, made on the device."""
        moved = copy.copy(self)
        moved._waves, moved._phases = self._waves.to(device), self._phases.to(device)
        moved._amplitudes = self._amplitudes.to(device)
        moved._kept = torch.empty(KEPT_SAMPLES, self.dim + 1, device=device)
        moved._num_kept, moved._places = 0, {}
        return moved

    def _chunk(self, num_samples: int, seed: int, chunk: int) -> tuple[Tensor, Tensor]:
        """Samples that are the caller's to change."""
        key = (num_samples, seed, chunk)
        if key in self._places:
            kept = self._kept[self._places[key]]
            return kept[:, :-1].clone(), kept[:, -1:].clone()
        x, y = self.draw(num_samples, seeded_generator(TRAINING, self.teacher_seed, seed, chunk))
        start, end = self._num_kept, self._num_kept + num_samples
        if end <= KEPT_SAMPLES:
            self._kept[start:end] = torch.cat([x, y], dim=1)
            self._places[key], self._num_kept = slice(start, end), end
        return x, y

    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (num_samples, dim) and y (num_samples, 1) with noise."""
        x = torch.randn(num_samples, self.dim, generator=generator)
        noise = torch.randn(num_samples, 1, generator=generator)
        x, noise = x.to(self._waves.device), noise.to(self._waves.device)
        answers = torch.cat([self.teacher(part) for part in torch.split(x, CHUNK_SAMPLES)])
        return x, answers.add_(noise, alpha=self.noise)

    def teacher(self, x: Tensor) -> Tensor:
        """The answer without noise: (B, dim) -> (B, 1), of unit variance for normal x."""
        waves = torch.addmm(self._phases, x, self._waves).sin_()  # (B, num_waves)
        return waves @ self._amplitudes
