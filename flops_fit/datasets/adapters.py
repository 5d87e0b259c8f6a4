"""A user's torch data as a `Source`: tensors, map-style datasets, streams, data loaders.

A sample is a pair (input, target), or a single tensor that stands for both. It adds to D its
length if its input is a one-dimensional tensor of integers (token ids), else 1 (a row, an image);
`tokens_per_sample` overrides this rule.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from flops_fit.datasets.source import (
    Batch,
    Samples,
    Source,
    check_held_out_fraction,
    content_hash,
    fixed_batches,
    seed_of,
    seeded_generator,
    shuffled_batches,
)
from flops_fit.errors import ConfigError
from flops_fit.signatures import qualified_name

RESERVED_BATCHES = 32
"""Batches at the start of a stream that are kept for evaluation and never trained on."""

HASHED_SAMPLES = 8
"""Samples, evenly spread, whose content stands for that of a dataset in its fingerprint."""

WHAT_DATA_MAY_BE = (
    "a torch Dataset, IterableDataset or DataLoader, a tensor, a tuple (inputs, targets) of "
    "tensors, or anything with __len__ and __getitem__"
)


@runtime_checkable
class MapStyle(Protocol):
    """A dataset with numbered samples, whether or not it derives from torch's class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@runtime_checkable
class FixedBatchSource(Source, Protocol):
    """A source whose data come in batches of one size, which then is the run's."""

    @property
    def batch_size(self) -> int: ...


def as_source(
    dataset: Any,
    held_out: Any = 0.1,
    batch_size: int = 64,
    seed: int = 0,
    tokens_per_sample: int | None = None,
) -> Source:
    """`dataset` as the trainer needs it. Anything that already is a `Source` is returned as it is.

    `held_out` is the fraction drawn by `seed` for evaluation, or a dataset of its own. A stream
    has no length to take a fraction of: unless a dataset is given, its first RESERVED_BATCHES
    batches are kept for evaluation. A DataLoader keeps its own batch size, see `FixedBatchSource`.
    Raises `ConfigError` for data of the wrong type, empty data, and parts below one batch.
    """
    if isinstance(dataset, Source):
        return dataset
    if isinstance(dataset, IterableDataset):
        stream: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size)
        return stream_source(rebuilt(stream, dataset), held_out, tokens_per_sample)
    if isinstance(dataset, DataLoader):
        loader = rebuilt(dataset, dataset.dataset)
        if isinstance(dataset.dataset, IterableDataset):
            return stream_source(loader, held_out, tokens_per_sample)
        return loader_source(loader, held_out, seed, tokens_per_sample)
    return samples_source(as_samples(dataset), held_out, batch_size, seed, tokens_per_sample)


@dataclass(frozen=True)
class TensorSamples:
    """Samples along the first dimension of one tensor, or of two: inputs and targets."""

    tensors: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batch(self, indices: Tensor) -> Batch:
        return as_batch([tensor[indices] for tensor in self.tensors])

    @property
    def fingerprint(self) -> str:
        return text_hash(*map(tensor_hash, self.tensors))


@dataclass(frozen=True)
class DatasetSamples:
    """Samples of a map-style dataset, fetched one by one."""

    dataset: MapStyle
    collate: Callable[[list[Any]], Any] = default_collate

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Tensor) -> Batch:
        return as_batch(self.collate([self.dataset[index] for index in indices.tolist()]))

    @property
    def fingerprint(self) -> str:
        """Of the type's qualified name, the length, and HASHED_SAMPLES samples."""
        last, count = len(self) - 1, min(HASHED_SAMPLES, len(self))
        spread = torch.linspace(0, last, count, dtype=torch.float64).round().long()  # (count,)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # samples that are augmented at random hash the same every time
            hashes = [tensor_hash(part) for index in spread for part in self.batch(index[None])]
        return text_hash(qualified_name(self.dataset), len(self), hashes)


UserSamples = TensorSamples | DatasetSamples


@dataclass(frozen=True)
class SelectedSamples:
    """Those of the `samples` whose numbers are in `indices` (num_selected,), int64."""

    samples: Samples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Tensor) -> Batch:
        return self.samples.batch(self.indices[indices])


@dataclass(frozen=True)
class SamplesSource:
    """Numbered samples in a new order each epoch."""

    training: Samples
    held_out: Samples
    tokens_per_sample: int
    fingerprint: str

    @property
    def unique_samples(self) -> int:
        return len(self.training)

    @property
    def held_out_samples(self) -> int:
        return len(self.held_out)

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        return shuffled_batches(self.training, batch_size, seed, start_step)

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        return fixed_batches(self.held_out, batch_size, num_samples)


@dataclass(frozen=True)
class LoaderSource:
    """Epoch after epoch of a DataLoader's full batches; its shuffling is seeded by us.

    A sampler of the user's own decides its order itself. Resuming loads the batches of the
    current epoch up to the position and drops them.
    """

    loader: DataLoader[Any]  # with a generator that is ours alone
    batch_size: int
    held_out: Samples
    tokens_per_sample: int
    fingerprint: str

    @property
    def unique_samples(self) -> int:
        return len(self.loader) * self.batch_size

    @property
    def held_out_samples(self) -> int:
        return len(self.held_out)

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        check_batch_size(batch_size, self.batch_size)
        first_epoch, loaded = divmod(start_step, len(self.loader))
        for epoch in itertools.count(first_epoch):
            self.loader.generator.manual_seed(seed_of(seed, epoch))
            yield from itertools.islice(full_batches(self.loader), loaded, None)
            loaded = 0

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        return fixed_batches(self.held_out, batch_size, num_samples)


@dataclass(frozen=True)
class StreamSource:
    """A stream in the order in which it comes, from after what is reserved until it ends.

    Nothing is shuffled: the order is the stream's, whatever the seed. Resuming reads the stream
    from its start and drops the batches up to the position.
    """

    loader: DataLoader[Any]
    batch_size: int
    reserved_batches: int
    held_out: Samples
    tokens_per_sample: int
    fingerprint: str
    unique_samples: None = None

    @property
    def held_out_samples(self) -> int:
        return len(self.held_out)

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        check_batch_size(batch_size, self.batch_size)
        return itertools.islice(full_batches(self.loader), self.reserved_batches + start_step, None)

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        return fixed_batches(self.held_out, batch_size, num_samples)


def samples_source(
    samples: UserSamples, held_out: Any, batch_size: int, seed: int, tokens_per_sample: int | None
) -> SamplesSource:
    """`held_out` of the samples, or a dataset, for evaluation, the rest in batches to train on."""
    training, evaluation, parts = parted(samples, held_out, seed)
    check_fills_a_batch(len(training), batch_size)
    tokens = tokens_per_sample or tokens_of(training.batch(torch.tensor([0])))
    return SamplesSource(training, evaluation, tokens, text_hash(parts, tokens))


def loader_source(
    loader: DataLoader[Any], held_out: Any, seed: int, tokens_per_sample: int | None
) -> LoaderSource:
    """The same for a `rebuilt` loader over a map-style dataset."""
    samples = DatasetSamples(map_style(loader.dataset), loader.collate_fn)
    training, evaluation, parts = parted(samples, held_out, seed)
    if isinstance(training, SelectedSamples):
        loader = rebuilt(loader, Subset(loader.dataset, training.indices.tolist()))
    batch_size = batch_size_of(loader)
    check_fills_a_batch(len(loader.sampler), batch_size)  # type: ignore[arg-type]
    tokens = tokens_per_sample or tokens_of(training.batch(torch.tensor([0])))
    fingerprint = text_hash(parts, tokens, type(loader.sampler).__qualname__)
    return LoaderSource(loader, batch_size, evaluation, tokens, fingerprint)


def stream_source(
    loader: DataLoader[Any], held_out: Any, tokens_per_sample: int | None
) -> StreamSource:
    """The same for a `rebuilt` loader over an IterableDataset; reads what it reserves."""
    batch_size = batch_size_of(loader)
    reserved_batches = RESERVED_BATCHES if is_fraction(held_out) else 0
    start = list(itertools.islice(full_batches(loader), reserved_batches + 1))
    if len(start) <= reserved_batches:
        raise ConfigError(
            f"the stream ended after {len(start)} batches of {batch_size}: {reserved_batches} are "
            "kept for evaluation and at least 1 is trained on; give a longer stream, a smaller "
            "batch_size, or held_out=a dataset"
        )
    if is_fraction(held_out):
        inputs, targets = zip(*start[:-1], strict=True)
        evaluation: UserSamples = TensorSamples((torch.cat(inputs), torch.cat(targets)))
    else:
        evaluation = as_samples(held_out)
    tokens = tokens_per_sample or tokens_of(start[0])
    first = [tensor_hash(part[:HASHED_SAMPLES]) for part in start[0]]
    fingerprint = text_hash(qualified_name(loader.dataset), first, evaluation.fingerprint, tokens)
    return StreamSource(loader, batch_size, reserved_batches, evaluation, tokens, fingerprint)


def parted(samples: UserSamples, held_out: Any, seed: int) -> tuple[Samples, Samples, str]:
    """Training part, held-out part, and the fingerprint of both."""
    if not is_fraction(held_out):
        evaluation = as_samples(held_out)
        return samples, evaluation, text_hash(samples.fingerprint, evaluation.fingerprint)
    if held_out is None:
        raise ConfigError(
            "held_out=None is for streams: give the fraction to hold out, such as 0.1, or a dataset"
        )
    total = len(samples)
    num_held_out = round(total * check_held_out_fraction(held_out))
    if not 0 < num_held_out < total:
        raise ConfigError(
            f"held_out={held_out:g} of {total} samples leaves {total - num_held_out} to train on "
            f"and {num_held_out} to evaluate: give more data, another fraction or a dataset"
        )
    order = torch.randperm(total, generator=seeded_generator(seed))
    evaluation_indices = order[:num_held_out].sort().values  # (num_held_out,)
    training_indices = order[num_held_out:].sort().values  # (total - num_held_out,)
    return (
        SelectedSamples(samples, training_indices),
        SelectedSamples(samples, evaluation_indices),
        text_hash(samples.fingerprint, held_out, seed),
    )


def is_fraction(held_out: Any) -> bool:
    """Whether `held_out` speaks of the training data itself and is no dataset of its own."""
    return held_out is None or isinstance(held_out, int | float)


def as_samples(dataset: Any) -> UserSamples:
    """Numbered samples of a dataset that has a length. Raises `ConfigError` if it has none."""
    if isinstance(dataset, Tensor):
        dataset = (dataset,)
    if isinstance(dataset, TensorDataset):
        dataset = dataset.tensors
    if isinstance(dataset, DataLoader):
        return DatasetSamples(map_style(dataset.dataset), dataset.collate_fn)
    if isinstance(dataset, tuple):
        samples: UserSamples = tensor_samples(dataset)
    else:
        samples = DatasetSamples(map_style(dataset))
    if len(samples) == 0:
        raise ConfigError(f"the dataset is empty: {type(dataset).__qualname__} of length 0")
    return samples


def tensor_samples(tensors: tuple[Any, ...]) -> TensorSamples:
    """One tensor, or inputs and targets. Raises `ConfigError` where they don't go together."""
    shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in tensors]
    fits = all(isinstance(t, Tensor) and t.ndim > 0 for t in tensors)
    if len(tensors) not in (1, 2) or not fits or len({len(t) for t in tensors}) != 1:
        raise ConfigError(
            f"a tuple of {shapes} is no dataset: give (inputs, targets), two tensors with one "
            "row for each sample"
        )
    return TensorSamples(tensors)


def map_style(dataset: Any) -> MapStyle:
    """The dataset itself. Raises `ConfigError` unless it has numbered samples."""
    if isinstance(dataset, str | bytes | dict) or not isinstance(dataset, MapStyle):
        raise ConfigError(f"dataset is {qualified_name(dataset)}: give {WHAT_DATA_MAY_BE}")
    return dataset


def rebuilt(loader: DataLoader[Any], dataset: Any) -> DataLoader[Any]:
    """The loader over `dataset`, without a short last batch and with a generator of its own for
    its shuffling, so that the user's loader stays as it was."""
    settings: dict[str, Any] = {
        "batch_size": batch_size_of(loader),
        "drop_last": True,
        "generator": torch.Generator(),
        "collate_fn": loader.collate_fn,
        "num_workers": loader.num_workers,
        "prefetch_factor": loader.prefetch_factor,
        "persistent_workers": loader.persistent_workers,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout,
        "worker_init_fn": loader.worker_init_fn,
        "multiprocessing_context": loader.multiprocessing_context,
    }
    sampler = loader.sampler
    if isinstance(dataset, IterableDataset) or isinstance(sampler, SequentialSampler):
        return DataLoader(dataset, **settings)
    if isinstance(sampler, RandomSampler) and not sampler.replacement:
        return DataLoader(dataset, shuffle=True, **settings)
    if dataset is loader.dataset:
        return DataLoader(dataset, sampler=sampler, **settings)
    raise ConfigError(
        f"no fraction can be held out of a DataLoader with a {type(sampler).__qualname__} of its "
        "own: give held_out=a dataset"
    )


def batch_size_of(loader: DataLoader[Any]) -> int:
    """Raises `ConfigError` where batches are made elsewhere."""
    if loader.batch_size is None:
        raise ConfigError(
            "the DataLoader has no batch_size, so its batches may differ in size: make it with "
            "batch_size= in place of a batch_sampler"
        )
    return loader.batch_size


def full_batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Once through the loader; a stream's short last batch is skipped as well."""
    batches = map(as_batch, loader)
    return (batch for batch in batches if len(batch[0]) == loader.batch_size)


def as_batch(collated: Any) -> Batch:
    """Input and target of what a collate function gave. Raises `ConfigError` for other forms."""
    parts = (collated,) if isinstance(collated, Tensor) else collated
    is_sequence = isinstance(parts, Sequence) and not isinstance(parts, str)
    if not is_sequence or not all(isinstance(part, Tensor) for part in parts):
        content = list(parts) if isinstance(parts, dict) else qualified_name(parts)
        raise ConfigError(
            f"a batch is {content}: samples must be a tensor or a pair (input, target)"
        )
    if len(parts) not in (1, 2):
        raise ConfigError(
            f"a sample has {len(parts)} parts: samples must be a tensor or a pair (input, target)"
        )
    return parts[0], parts[-1]


def tokens_of(batch: Batch) -> int:
    """Tokens a sample adds to D: its length if it is a row of token ids, else 1."""
    sample = batch[0][0]
    is_ids = sample.ndim == 1 and not sample.is_floating_point() and sample.dtype != torch.bool
    return len(sample) if is_ids else 1


def check_fills_a_batch(num_samples: int, batch_size: int) -> None:
    if num_samples < batch_size:
        raise ConfigError(
            f"{num_samples} samples to train on, one batch takes {batch_size}: "
            "give more data, hold out less, or lower batch_size"
        )


def check_batch_size(asked: int, fixed: int) -> None:
    if asked != fixed:
        raise ConfigError(
            f"batch_size {asked} asked of data that come in batches of {fixed}: use {fixed}"
        )


def tensor_hash(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().reshape(-1)
    return content_hash(flat.view(torch.uint8).numpy(), tensor.dtype, tuple(tensor.shape))


def text_hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
