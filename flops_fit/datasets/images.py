"""Images with labels: CIFAR-10, MNIST and scikit-learn's digits from this machine, and made ones.

A token is a patch of `patch_size` by `patch_size` pixels; the loss is measured for each image.
What the config says of the images (`image_size`, `channels`, `num_classes`) is what models read
there, and is checked against the data.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch
from flops_fit.datasets.image_files import LabelledImages, read_cifar10, read_digits, read_mnist
from flops_fit.datasets.samples import TensorSamples
from flops_fit.datasets.source import (
    HELD_OUT_ORDER,
    Key,
    check_held_out_fraction,
    content_hash,
    fixed_batches,
    seeded_generator,
    shuffled_batches,
)
from flops_fit.errors import ConfigError

NUM_GREY_LEVELS = 256
"""Values of a pixel in one channel."""

SYNTHETIC_VERSION = 1
"""Of the images that given arguments and seeds make: raise it with every change to them."""

CHUNK_SAMPLES = 1024
"""Images made at a time: many enough to hide the cost of a call, few enough for the cache."""

HIGHEST_FREQUENCY = 2
"""Waves over an image's side in the patterns of synthetic images."""

RARITY = 1.5
"""Pattern k is shown in proportion to k^-RARITY, so that each doubling of a model's size has
something left to learn."""

PATTERNS, HELD_OUT, TRAINING = range(3)
"""What a generator is for: part of its key, so that no two draw the same numbers."""


@dataclass(frozen=True)
class ImageForm:
    """What a config says of square images. Raises `ConfigError` for what can't be."""

    image_size: int  # pixels along a side
    patch_size: int
    channels: int
    num_classes: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ConfigError(f"dataset.{name} is {value}: it must be at least 1")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"dataset.patch_size is {self.patch_size}: use one that divides the image_size, "
                f"{self.image_size}"
            )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.image_size, self.image_size


@dataclass(frozen=True)
class NormalisedImages:
    """Samples of pixels kept as they are and made floats of mean 0 and variance 1 when asked."""

    pixels: Tensor  # (num_images, channels, height, width) uint8
    labels: Tensor  # (num_images,) int64
    mean: Tensor  # (channels, 1, 1) float32, in grey levels
    std: Tensor  # likewise

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """Images (B, channels, height, width) float32 and labels (B,) int64."""
        levels = self.pixels[indices].float()
        return levels.sub_(self.mean).div_(self.std), self.labels[indices]


class ImageSource:
    """A `Source` of labelled images of the given form, one part to train on and one held out."""

    def __init__(self, training: LabelledImages, held_out: LabelledImages, form: ImageForm) -> None:
        for images in (training, held_out):
            check_form(images, form)
        self.tokens_per_sample = form.num_patches
        pixels, held_out_pixels = (torch.tensor(part.pixels) for part in (training, held_out))
        labels, held_out_labels = (
            torch.tensor(part.labels).long() for part in (training, held_out)
        )
        mean, std = channel_statistics(pixels)
        self._training = NormalisedImages(pixels, labels, mean, std)
        self._held_out = NormalisedImages(held_out_pixels, held_out_labels, mean, std)
        self.unique_samples = len(self._training)
        self.held_out_samples = len(self._held_out)
        arrays = (training.pixels, training.labels, held_out.pixels, held_out.labels)
        self.fingerprint = content_hash(arrays[0], *map(content_hash, arrays[1:]), form)

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        return shuffled_batches(self._training, batch_size, seed, start_step)

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        return fixed_batches(self._held_out, batch_size, num_samples)


class Digits(ImageSource):
    """The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    `held_out` of them, always the same, are kept for evaluation.
    """

    def __init__(
        self,
        image_size: int = 8,
        patch_size: int = 2,
        channels: int = 1,
        num_classes: int = 10,
        held_out: float = 0.2,
    ) -> None:
        form = ImageForm(image_size, patch_size, channels, num_classes)
        super().__init__(*parted(read_digits(), check_held_out_fraction(held_out)), form)


class Cifar10(ImageSource):
    """CIFAR-10 (Krizhevsky 2009) from a folder with its files, Python or binary version.

    The published test images are held out.
    """

    def __init__(
        self,
        folder: str | Path,
        image_size: int = 32,
        patch_size: int = 4,
        channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        form = ImageForm(image_size, patch_size, channels, num_classes)
        super().__init__(*read_cifar10(Path(folder)), form)


class Mnist(ImageSource):
    """MNIST (LeCun et al. 1998), or what comes in files of the same names and format.

    Files may be packed with gzip. The published test images are held out.
    """

    def __init__(
        self,
        folder: str | Path,
        image_size: int = 28,
        patch_size: int = 4,
        channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        form = ImageForm(image_size, patch_size, channels, num_classes)
        super().__init__(*read_mnist(Path(folder)), form)


class SyntheticImages:
    """Images that show one of `num_patterns` smooth random patterns, shifted and noisy.

    Pattern k, drawn by `pattern_seed`, belongs to class k mod num_classes and is shown in
    proportion to k^-RARITY. It is moved around the edges by up to `max_shift` pixels either way,
    and `noise` is the standard deviation of what is added to its pixels, whose mean square is 1.
    Images never repeat, unless `num_samples` says how many there are to train on.
    """

    held_out_samples = None

    def __init__(
        self,
        image_size: int = 12,
        patch_size: int = 4,
        channels: int = 1,
        num_classes: int = 10,
        num_patterns: int = 4096,
        noise: float = 0.5,
        max_shift: int = 1,
        num_samples: int | None = None,
        pattern_seed: int = 0,
    ) -> None:
        form = ImageForm(image_size, patch_size, channels, num_classes)
        if num_patterns < num_classes or noise < 0 or max_shift < 0:
            raise ConfigError(
                f"synthetic images with num_patterns {num_patterns}, noise {noise:g}, max_shift "
                f"{max_shift}: there must be a pattern for each of the {num_classes} classes, and "
                "noise and shifts are not negative"
            )
        if num_samples is not None and num_samples < 1:
            raise ConfigError(
                f"dataset.num_samples is {num_samples}: give at least 1, or null for no end"
            )
        self.form = form
        self.tokens_per_sample = form.num_patches
        self.noise = noise
        self.max_shift = max_shift
        self.pattern_seed = pattern_seed
        numbers = (num_patterns, float(noise), max_shift, num_samples, pattern_seed)
        settings = ("images", SYNTHETIC_VERSION, form, numbers)
        self.fingerprint = hashlib.sha256(repr(settings).encode()).hexdigest()
        generator = seeded_generator(PATTERNS, pattern_seed)
        self._patterns = smooth_patterns(num_patterns, form, generator)
        self._shares = torch.arange(1, num_patterns + 1) ** -RARITY  # (num_patterns,)
        self.unique_samples = num_samples
        self._training = None if num_samples is None else self._fixed_samples(num_samples)

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        """Images (batch_size, channels, image_size, image_size) and labels (batch_size,)."""
        if self._training is not None:
            return shuffled_batches(self._training, batch_size, seed, start_step)
        return endless_batches(
            self.draw, batch_size, start_step, (TRAINING, self.pattern_seed, seed)
        )

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        images, labels = first_samples(self.draw, num_samples, (HELD_OUT, self.pattern_seed))
        yield from zip(
            torch.split(images, batch_size), torch.split(labels, batch_size), strict=True
        )

    def draw(self, num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images with a mean square of 1, and labels."""
        which = torch.multinomial(self._shares, num_samples, replacement=True, generator=generator)
        farthest, size = self.max_shift, self.form.image_size
        shifts = torch.randint(-farthest, farthest + 1, (2, num_samples, 1), generator=generator)
        rows, columns = (torch.arange(size) + shifts) % size  # (num_samples, size) each
        shown = self._patterns[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = shown.permute(0, 3, 1, 2).contiguous()  # (num_samples, channels, size, size)
        images.add_(torch.randn(images.shape, generator=generator), alpha=self.noise)
        return images.div_(math.hypot(1, self.noise)), which % self.form.num_classes

    def _fixed_samples(self, num_samples: int) -> TensorSamples:
        return TensorSamples(first_samples(self.draw, num_samples, (TRAINING, self.pattern_seed)))


Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Makes a number of samples with a generator."""


def endless_batches(
    draw: Draw, batch_size: int, start_step: int, key: tuple[int, ...]
) -> Iterator[Batch]:
    """Batches that never repeat, from `start_step` on; `key` seeds them."""
    steps_per_chunk = max(1, CHUNK_SAMPLES // batch_size)
    first_chunk, skipped = divmod(start_step, steps_per_chunk)
    for chunk in itertools.count(first_chunk):
        parts = draw(steps_per_chunk * batch_size, seeded_generator(*key, chunk))
        batches = zip(*(torch.split(part, batch_size) for part in parts), strict=True)
        yield from itertools.islice(batches, skipped, None)
        skipped = 0


def first_samples(draw: Draw, num_samples: int, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Samples of which fewer are the start of more."""
    chunks = [
        draw(CHUNK_SAMPLES, seeded_generator(*key, chunk))
        for chunk in range(-(-num_samples // CHUNK_SAMPLES))
    ]  # whole chunks: a shorter draw would not be the start of a longer one
    inputs, targets = (torch.cat(parts)[:num_samples] for parts in zip(*chunks, strict=True))
    return inputs, targets


def smooth_patterns(num_patterns: int, form: ImageForm, generator: torch.Generator) -> Tensor:
    """(num_patterns, image_size, image_size, channels): random waves up to HIGHEST_FREQUENCY,
    around the edges, with a mean square of 1."""
    size = form.image_size
    white = torch.randn(num_patterns, form.channels, size, size, generator=generator)
    waves = torch.fft.fftfreq(size, 1 / size)  # (size,), over the image's side
    is_smooth = torch.hypot(waves[:, None], waves) <= HIGHEST_FREQUENCY
    patterns: Tensor = torch.fft.ifft2(torch.fft.fft2(white) * is_smooth).real
    patterns /= patterns.square().mean((1, 2, 3), keepdim=True).sqrt()
    return patterns.permute(0, 2, 3, 1).contiguous()


def check_form(images: LabelledImages, form: ImageForm) -> None:
    """Raises `ConfigError` unless the images are as the config says."""
    found = images.pixels.shape[1:]
    if found != form.shape:
        raise ConfigError(
            f"images of {found[1]} x {found[2]} pixels in {found[0]} channels, dataset.image_size "
            f"is {form.image_size} and dataset.channels {form.channels}: set them to what the data "
            "have"
        )
    if len(images.pixels) != len(images.labels) or not len(images.labels):
        raise ConfigError(
            f"{len(images.pixels):,} images and {len(images.labels):,} labels: there must be a "
            "label for each image, and at least one"
        )
    if images.labels.max() >= form.num_classes:
        raise ConfigError(
            f"an image has label {images.labels.max()}, dataset.num_classes is {form.num_classes}: "
            f"set it to at least {images.labels.max() + 1}"
        )


def channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (channels, 1, 1), in grey levels, of each channel of images
    (num_images, channels, height, width) uint8. One with less spread than a level keeps its own.
    """
    levels = torch.arange(NUM_GREY_LEVELS, dtype=torch.double)
    channels = pixels.transpose(0, 1).flatten(1)  # (channels, all its pixels)
    counts = torch.stack([c.bincount(minlength=NUM_GREY_LEVELS) for c in channels]).double()
    shares = counts / counts.sum(1, keepdim=True)  # (channels, NUM_GREY_LEVELS)
    mean = shares @ levels
    std = (shares @ levels**2 - mean**2).clamp(min=1).sqrt()
    return mean.float()[:, None, None], std.float()[:, None, None]


def parted(images: LabelledImages, held_out: float) -> tuple[LabelledImages, LabelledImages]:
    """To train on, and `held_out` of them for evaluation, always the same."""
    num_held_out = round(len(images.labels) * held_out)
    order = torch.randperm(len(images.labels), generator=seeded_generator(HELD_OUT_ORDER)).numpy()
    parts = (np.sort(order[num_held_out:]), np.sort(order[:num_held_out]))
    training, evaluation = (LabelledImages(images.pixels[p], images.labels[p]) for p in parts)
    return training, evaluation
