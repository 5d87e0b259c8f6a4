"""Numbered samples of a user's: tensors, or a map-style dataset that makes them one by one."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from flops_fit.datasets.batches import (
    Batch,
    Content,
    as_batch,
    changed,
    num_samples,
    on_device,
    tensors_of,
)
from flops_fit.datasets.draws import drawing, seed_draws
from flops_fit.datasets.hugging_face import with_tensors
from flops_fit.datasets.overlap import (
    FETCH_SECONDS,
    FETCHES,
    Extent,
    Look,
    look_at_rows,
    sample_hash,
)
from flops_fit.datasets.source import Key, Movable, Samples, content_hash
from flops_fit.errors import ConfigError
from flops_fit.signatures import qualified_name

HASHED_SAMPLES = 8
"""Samples, evenly spread, whose content stands for that of a dataset in its fingerprint."""

ANY_KEY = (0,)
"""Where samples are fetched only to look at them."""

WHAT_DATA_MAY_BE = (
    "a torch Dataset, IterableDataset or DataLoader, a tensor, a tuple (inputs, targets) of "
    "tensors, a dict of tensors, or anything with __len__ and __getitem__"
)


@runtime_checkable
class MapStyle(Protocol):
    """A dataset with numbered samples, whether or not it derives from torch's class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class TensorSamples:
    """Samples that are the rows of tensors; nothing is drawn at random."""

    whole: Batch

    def __len__(self) -> int:
        return num_samples(self.whole)

    def batch(self, indices: Tensor, key: Key) -> Batch:
        return changed(self.whole, lambda tensor: tensor[indices])

    @property
    def device_bytes(self) -> int:
        return sum(part.nbytes for part in parts_of(self.whole))

    def on(self, device: torch.device) -> TensorsOnDevice:
        return TensorsOnDevice(on_device(self.whole, device), device)

    @property
    def fingerprint(self) -> str:
        return batch_hash(self.whole)

    @property
    def repeatable(self) -> TensorSamples:
        return self

    def look(self, extent: Extent) -> Look:
        sample_bytes = sum(t[0].nbytes for t in parts_of(self.whole))
        places = torch.from_numpy(extent.places(len(self), sample_bytes))
        parts = parts_of(self.batch(places, ANY_KEY))
        rows = [bytes_of(part).reshape(len(places), -1) for part in parts]
        return look_at_rows(np.concatenate(rows, axis=1), len(self))


@dataclass(frozen=True)
class TensorsOnDevice(TensorSamples):
    """The same where training happens."""

    device: torch.device


@dataclass(frozen=True)
class DatasetSamples:
    """Samples of a map-style dataset, fetched one by one.

    What they draw at random from the global generators depends on the batch's key alone.
    """

    dataset: MapStyle
    collate: Callable[[list[Any]], Any] = default_collate

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor, key: Key) -> Batch:
        with drawing(*key):
            return self.fetched(indices.tolist())

    def fetched(self, numbers: list[int]) -> Batch:
        samples = [self.dataset[number] for number in numbers]
        try:
            return as_batch(self.collate(samples))
        except RuntimeError as error:
            if self.collate is not default_collate:
                raise
            raise not_collated(error) from error

    @property
    def fingerprint(self) -> str:
        """A hash of the type's qualified name, the length, and HASHED_SAMPLES samples."""
        last, count = len(self) - 1, min(HASHED_SAMPLES, len(self))
        places = torch.linspace(0, last, count, dtype=torch.float64).round().long()  # (count,)
        samples = self.repeatable
        hashes = [batch_hash(samples.batch(place[None], ANY_KEY)) for place in places]
        return text_hash(qualified_name(self.dataset), len(self), hashes)

    @property
    def repeatable(self) -> DatasetSamples:
        """The same samples, each with random draws of its own that never change."""
        return replace(self, dataset=Repeatable(self.dataset))

    def look(self, extent: Extent) -> Look:
        """At FETCHES samples, or as many as there are within FETCH_SECONDS."""
        fewer = replace(extent, most=min(extent.most, FETCHES))
        places = fewer.places(len(self), sample_bytes=0)
        deadline = time.perf_counter() + FETCH_SECONDS
        samples, hashes = self.repeatable, []
        with drawing(*ANY_KEY):
            for place in np.random.default_rng(extent.seed).permutation(places).tolist():
                hashes.append(sample_hash(content_of(samples.fetched([place]))))
                if time.perf_counter() > deadline:
                    break
        return Look(tuple(hashes), len(self))


def not_collated(error: RuntimeError) -> ConfigError:
    """For samples that torch can't put into one batch, and what to do."""
    reason = str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
    return ConfigError(
        f"samples differ in length or shape, so that they make no batch ({reason}): give a "
        "DataLoader with a collate_fn that pads them, such as one that calls "
        "torch.nn.utils.rnn.pad_sequence"
    )


UserSamples = TensorSamples | DatasetSamples


@dataclass(frozen=True)
class Repeatable:
    """A dataset whose samples are the same every time, whatever they draw at random."""

    dataset: MapStyle

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int, /) -> Any:
        seed_draws(index)
        return self.dataset[index]


@dataclass(frozen=True)
class SelectedSamples:
    """Those of the `samples` whose numbers are in `indices` (num_selected,), int64."""

    samples: Samples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor, key: Key) -> Batch:
        return self.samples.batch(self.indices[indices], key)

    @property
    def device_bytes(self) -> float:
        return device_bytes_of(self.samples)

    def on(self, device: torch.device) -> SelectedOnDevice:
        moved = on_training_device(self.samples, device)
        return SelectedOnDevice(moved, self.indices.to(device), device)


@dataclass(frozen=True)
class SelectedOnDevice(SelectedSamples):
    """The same of `samples` that lie where training happens, as do the `indices`."""

    device: torch.device


def on_training_device(samples: Samples, device: torch.device) -> Samples:
    """The same samples on the device; `device_bytes_of` says whether they can be had there."""
    assert isinstance(samples, Movable)
    on: Samples = samples.on(device)
    return on


def device_bytes_of(samples: Samples) -> float:
    """What the samples take on a device; infinite where they are made one by one."""
    return samples.device_bytes if isinstance(samples, Movable) else math.inf


def as_samples(dataset: Any) -> UserSamples:
    """Numbered samples of a dataset that has a length. Raises `ConfigError` if it has none."""
    samples = _samples(dataset)
    if len(samples) == 0:
        raise ConfigError(f"the dataset is empty: {type(dataset).__qualname__} of length 0")
    return samples


def _samples(dataset: Any) -> UserSamples:
    dataset = with_tensors(dataset)
    if isinstance(dataset, TensorDataset):
        return tensor_samples(dataset.tensors)
    if isinstance(dataset, DataLoader):
        return DatasetSamples(map_style(dataset.dataset), dataset.collate_fn)
    if isinstance(dataset, tuple):
        return tensor_samples(dataset)
    if isinstance(dataset, Tensor | Mapping):
        return tensor_samples((dataset,))
    return DatasetSamples(map_style(dataset))


def tensor_samples(parts: tuple[Any, ...]) -> TensorSamples:
    """Inputs and targets, or what stands for both: tensors, alone or by name.

    Raises `ConfigError` where they don't go together.
    """
    tensors = [t for p in parts for t in (p.values() if isinstance(p, Mapping) else [p])]
    fits = all(isinstance(t, Tensor) and t.ndim > 0 for t in tensors)
    if len(parts) not in (1, 2) or not fits or len({len(t) for t in tensors}) != 1:
        raise ConfigError(
            f"{', '.join(map(_described, parts))} is no dataset: give a tensor, "
            "(inputs, targets), two tensors, or a dict of tensors, with one row for each sample"
        )
    return TensorSamples(as_batch(parts))


def _described(part: Any) -> str:
    if isinstance(part, Mapping):
        return "{" + ", ".join(f"{k!r}: {_described(v)}" for k, v in part.items()) + "}"
    return f"{tuple(part.shape)}" if isinstance(part, Tensor) else qualified_name(part)


def map_style(dataset: Any) -> MapStyle:
    """The dataset itself. Raises `ConfigError` unless it has numbered samples."""
    if isinstance(dataset, str | bytes | dict) or not isinstance(dataset, MapStyle):
        raise ConfigError(f"dataset is {qualified_name(dataset)}: give {WHAT_DATA_MAY_BE}")
    return dataset


def parts_of(batch: Batch) -> list[Tensor]:
    """Every tensor once: the input's, then the target's, each in the order of their names."""
    inputs, target = batch
    contents = [inputs] if target is inputs else [inputs, target]
    return [tensor for content in contents for tensor in tensors_of(in_order(content))]


def in_order(content: Content) -> Content:
    return dict(sorted(content.items())) if isinstance(content, Mapping) else content


def content_of(batch: Batch) -> bytes:
    return b"".join(bytes_of(part).tobytes() for part in parts_of(batch))


def bytes_of(tensor: Tensor) -> np.ndarray:
    """The tensor's content (num_bytes,), uint8."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def batch_hash(batch: Batch) -> str:
    """A hash of content, types, shapes and names."""
    inputs, target = batch
    contents = [inputs] if target is inputs else [inputs, target]
    return text_hash(*map(_content_hash, contents))


def _content_hash(content: Content) -> str:
    if isinstance(content, Mapping):
        return text_hash(sorted((name, tensor_hash(tensor)) for name, tensor in content.items()))
    return tensor_hash(content)


def tensor_hash(tensor: Tensor) -> str:
    return content_hash(bytes_of(tensor), tensor.dtype, tuple(tensor.shape))


def text_hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
