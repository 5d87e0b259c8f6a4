"""Labelled images in the formats in which they are published."""

from __future__ import annotations

import gzip
import importlib
import io
import math
import pickle
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.errors import ConfigError

CIFAR10_SHAPE = (3, 32, 32)
CIFAR10_VALUES = math.prod(CIFAR10_SHAPE)
"""Of an image in the files: all of red, all of green, all of blue, each row by row."""

CIFAR10_TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR10_HELD_OUT = "test_batch"

MNIST_TRAINING = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
MNIST_HELD_OUT = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

IDX_UNSIGNED_BYTE = 0x08
"""Third byte of an idx file: the type of its values."""

ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""What the pickle of an array names, by numpy 1 and 2."""


@dataclass(frozen=True)
class LabelledImages:
    """`pixels` (num_images, channels, height, width) uint8, `labels` (num_images,) uint8."""

    pixels: np.ndarray
    labels: np.ndarray


def read_digits() -> LabelledImages:
    """Raises `ConfigError` where scikit-learn is not installed."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the digits come with scikit-learn, which is not installed here: "
            "pip install scikit-learn, or use dataset=images, which needs nothing"
        ) from error
    digits = datasets.load_digits()
    pixels = digits.images[:, None].astype(np.uint8)  # (1797, 1, 8, 8), 0 to 16
    return LabelledImages(pixels, digits.target.astype(np.uint8))


def read_cifar10(folder: Path) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images, in whichever version the folder has them.

    Raises `ConfigError` naming the file that is missing or is not what it should be.
    """
    if (folder / f"{CIFAR10_TRAINING[0]}.bin").exists():
        batches = [read_binary_batch(folder / f"{name}.bin") for name in CIFAR10_TRAINING]
        return joined(batches), read_binary_batch(folder / f"{CIFAR10_HELD_OUT}.bin")
    batches = [read_python_batch(folder / name) for name in CIFAR10_TRAINING]
    return joined(batches), read_python_batch(folder / CIFAR10_HELD_OUT)


def joined(parts: list[LabelledImages]) -> LabelledImages:
    return LabelledImages(
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def read_binary_batch(path: Path) -> LabelledImages:
    """Records of a label and 3,072 pixels, one byte each."""
    content = np.frombuffer(read_cifar10_file(path), np.uint8)
    if not content.size or content.size % (1 + CIFAR10_VALUES):
        raise ConfigError(
            f"{path} has {content.size:,} bytes, a CIFAR-10 batch some times {1 + CIFAR10_VALUES}: "
            "unpack the archive again"
        )
    records = content.reshape(-1, 1 + CIFAR10_VALUES)
    return LabelledImages(records[:, 1:].reshape(-1, *CIFAR10_SHAPE), records[:, 0])


def read_python_batch(path: Path) -> LabelledImages:
    """A pickled dict with `data` (num_images, 3072) uint8 and a list `labels`."""
    batch = unpickled(read_cifar10_file(path), path)
    try:
        rows, labels = batch[b"data"], label_bytes(batch[b"labels"])
        pixels = rows.reshape(-1, *CIFAR10_SHAPE)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no images and labels of CIFAR-10: {error!r}") from error
    if pixels.dtype != np.uint8:
        raise ConfigError(f"{path} holds pixels of {pixels.dtype}, CIFAR-10's are uint8")
    return LabelledImages(pixels, labels)


def label_bytes(labels: Any) -> np.ndarray:
    """Raises `OverflowError` for labels that are no bytes, which numpy 1 would take modulo 256."""
    numbers = np.array(labels, np.int64)
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= np.iinfo(np.uint8).max:
        raise OverflowError(f"labels from {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.uint8)


def read_cifar10_file(path: Path) -> bytes:
    if not path.is_file():
        raise ConfigError(
            f"no file {path}: dataset.folder must hold the batches of CIFAR-10's Python version "
            "(data_batch_1 to data_batch_5, test_batch) or those of its binary version (the same "
            "with .bin)"
        )
    return path.read_bytes()


def unpickled(content: bytes, path: Path) -> Any:
    """Plain values and arrays of a pickle. Raises `ConfigError` for a pickle of anything else."""
    try:
        return ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # whatever a pickle that is broken or of something else raises
        raise ConfigError(f"{path} can't be read as a batch of CIFAR-10: {error}") from error


class ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and arrays; nothing else that a pickle names is looked up or run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not part of an array")
        return ARRAY_PARTS[module, name]


def read_mnist(folder: Path) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images, of one channel.

    Raises `ConfigError` naming the file that is missing or is not what it should be.
    """
    training, held_out = (
        LabelledImages(read_idx(folder, images, 3)[:, None], read_idx(folder, labels, 1))
        for images, labels in (MNIST_TRAINING, MNIST_HELD_OUT)
    )
    return training, held_out


def read_idx(folder: Path, name: str, num_dimensions: int) -> np.ndarray:
    """The array of bytes in an idx file: a type, the dimensions, then the values row by row."""
    path, content = read_idx_file(folder, name)
    start = 4 + 4 * num_dimensions
    if content[:4] != bytes([0, 0, IDX_UNSIGNED_BYTE, num_dimensions]) or len(content) < start:
        raise ConfigError(
            f"{path} starts with {content[:4].hex(' ')}: an idx file of bytes in {num_dimensions} "
            f"dimensions starts with 00 00 08 {num_dimensions:02x}"
        )
    shape = struct.unpack_from(f">{num_dimensions}I", content, 4)
    if len(content) - start != math.prod(shape):
        raise ConfigError(
            f"{path} has {len(content) - start:,} values, its head says {math.prod(shape):,}: "
            "is it whole?"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_idx_file(folder: Path, name: str) -> tuple[Path, bytes]:
    """The file, plain or packed, that the folder has."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file():
        return plain, plain.read_bytes()
    if not packed.is_file():
        raise ConfigError(
            f"no file {plain}, nor {packed.name}: dataset.folder must hold "
            f"{', '.join((*MNIST_TRAINING, *MNIST_HELD_OUT))}, plain or packed with gzip"
        )
    try:
        return packed, gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{packed} can't be unpacked: {error}") from error
