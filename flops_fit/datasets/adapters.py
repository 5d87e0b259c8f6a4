"""A user's torch data as a `Source`: tensors, map-style datasets, streams, data loaders.

A sample is a pair (input, target), named tensors in a dict, or a single tensor that stands for
both; `batches.as_batch` says which is which. It adds to D its length without padding if its input
is a one-dimensional tensor of integers (token ids), else 1 (a row, an image): the mean over many
samples, see `token_counts`. `tokens_per_sample` overrides this rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
)

from flops_fit.datasets.batches import Batch, as_batch, changed, joined, num_samples, token_rows
from flops_fit.datasets.draws import drawing
from flops_fit.datasets.hugging_face import with_tensors
from flops_fit.datasets.loaders import (
    STREAM_SEED,
    batch_size_of,
    check_batch_size,
    check_fills_a_batch,
    check_rows,
    full_batches,
    loaded_batches,
    rebuilt,
)
from flops_fit.datasets.overlap import HELD_OUT, TRAINING, Look, check_overlap
from flops_fit.datasets.samples import (
    HASHED_SAMPLES,
    DatasetSamples,
    SelectedSamples,
    TensorSamples,
    UserSamples,
    as_samples,
    batch_hash,
    device_bytes_of,
    map_style,
    on_training_device,
    text_hash,
)
from flops_fit.datasets.source import (
    Samples,
    Source,
    check_held_out_fraction,
    fixed_batches,
    seeded_generator,
    shuffled_batches,
)
from flops_fit.datasets.token_counts import (
    TokenCount,
    count_of_samples,
    pad_id_of,
    token_count,
)
from flops_fit.errors import ConfigError
from flops_fit.settings import BATCH_SIZE, DataSettings, StepSettings
from flops_fit.signatures import qualified_name

RESERVED_BATCHES = 32
"""Batches at the start of a stream that are kept for evaluation and never trained on; looked at
for copies where the held-out data are a dataset of their own."""


@runtime_checkable
class FixedBatchSource(Source, Protocol):
    """A source whose data come in batches of one size, which then is the run's."""

    @property
    def batch_size(self) -> int: ...


def as_source(
    dataset: Any,
    held_out: Any = DataSettings.held_out,
    batch_size: int = BATCH_SIZE,
    seed: int = StepSettings.seed,
    tokens_per_sample: int | None = None,
) -> Source:
    """`dataset` as the trainer needs it. Anything that already is a `Source` is returned as it is.

    `held_out` is the fraction drawn by `seed` for evaluation, or a dataset of its own. A stream
    has no length to take a fraction of: unless a dataset is given, its first RESERVED_BATCHES
    batches are kept for evaluation. A DataLoader keeps its own batch size, see `FixedBatchSource`.
    What a dataset draws at random from the global generators of torch, numpy and Python depends on
    `seed` and step alone, so a resumed run draws it again; held-out samples never change.
    Raises `ConfigError` for data of the wrong type, empty data, parts below one batch, and
    held-out data of their own that are trained on as well.
    """
    if isinstance(dataset, Source):
        return dataset
    dataset = with_tensors(dataset)
    if isinstance(dataset, IterableDataset):
        stream: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size)
        return stream_source(rebuilt(stream, dataset), held_out, tokens_per_sample)
    if isinstance(dataset, DataLoader):
        loader = rebuilt(dataset, dataset.dataset)
        if isinstance(dataset.dataset, IterableDataset):
            return stream_source(loader, held_out, tokens_per_sample)
        return loader_source(loader, held_out, seed, tokens_per_sample)
    pad_id = pad_id_of(dataset)
    samples = as_samples(dataset)
    return samples_source(samples, held_out, batch_size, seed, tokens_per_sample, pad_id)


@dataclass(frozen=True)
class SamplesSource:
    """Numbered samples in a new order each epoch."""

    training: Samples
    held_out: Samples
    tokens_per_sample: float
    fingerprint: str
    notes: tuple[str, ...] = ()

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

    @property
    def device_bytes(self) -> float:
        """Infinite where samples are made one by one."""
        return device_bytes_of(self.training) + device_bytes_of(self.held_out)

    def on(self, device: torch.device) -> SamplesSource:
        training = on_training_device(self.training, device)
        return replace(self, training=training, held_out=on_training_device(self.held_out, device))


@dataclass(frozen=True)
class LoaderSource:
    """Epoch after epoch of a DataLoader's full batches; its shuffling and workers are seeded by us.

    A sampler of the user's own decides its order itself. Resuming loads the batches of the
    current epoch up to the position and drops them.
    """

    loader: DataLoader[Any]  # with a generator that is ours alone
    batch_size: int
    held_out: Samples
    tokens_per_sample: float
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def unique_samples(self) -> int:
        return len(self.loader) * self.batch_size

    @property
    def held_out_samples(self) -> int:
        return len(self.held_out)

    def training_batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Batch]:
        check_batch_size(batch_size, self.batch_size)
        loaded = start_step % len(self.loader)
        for first_step in itertools.count(start_step - loaded, len(self.loader)):
            for batch in itertools.islice(
                loaded_batches(self.loader, seed, first_step), loaded, None
            ):
                check_rows(num_samples(batch), batch_size)
                yield batch
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
    tokens_per_sample: float
    fingerprint: str
    notes: tuple[str, ...] = ()
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
    samples: UserSamples,
    held_out: Any,
    batch_size: int,
    seed: int,
    tokens_per_sample: int | None,
    pad_id: int | None = None,
) -> SamplesSource:
    """`held_out` of the samples, or a dataset, for evaluation, the rest in batches to train on."""
    training, evaluation, parts = parted(samples, held_out, seed)
    check_fills_a_batch(len(training), batch_size)
    count = token_count(training, pad_id, tokens_per_sample)
    fingerprint = text_hash(parts, count.mean)
    return SamplesSource(training, evaluation, count.mean, fingerprint, count.notes)


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
    pad_id = pad_id_of(loader.dataset, loader.collate_fn)
    count = token_count(training, pad_id, tokens_per_sample)
    fingerprint = text_hash(parts, count.mean, type(loader.sampler).__qualname__)
    return LoaderSource(loader, batch_size, evaluation, count.mean, fingerprint, count.notes)


def stream_source(
    loader: DataLoader[Any], held_out: Any, tokens_per_sample: int | None
) -> StreamSource:
    """The same for a `rebuilt` loader over an IterableDataset; reads RESERVED_BATCHES and one."""
    batch_size = batch_size_of(loader)
    reserved_batches = RESERVED_BATCHES if is_fraction(held_out) else 0
    start = list(itertools.islice(full_batches(loader), RESERVED_BATCHES + 1))
    if len(start) <= reserved_batches:
        raise ConfigError(
            f"the stream ended after {len(start)} batches of {batch_size}: {reserved_batches} are "
            "kept for evaluation and at least 1 is trained on; give a longer stream, a smaller "
            "batch_size, or held_out=a dataset"
        )
    notes = notes_on_second_reading(loader, start[0], held_out)
    if is_fraction(held_out):
        evaluation: UserSamples = reserved_samples(loader, start[:RESERVED_BATCHES])
    else:
        evaluation = as_samples(held_out)
        check_overlap(look_at_batches(start), evaluation.look(HELD_OUT))
    count = stream_count(loader, start, tokens_per_sample)
    first = batch_hash(changed(start[0], lambda tensor: tensor[:HASHED_SAMPLES]))
    fingerprint = text_hash(
        qualified_name(loader.dataset), first, evaluation.fingerprint, count.mean
    )
    return StreamSource(
        loader,
        batch_size,
        reserved_batches,
        evaluation.repeatable,
        count.mean,
        fingerprint,
        (*count.notes, *notes),
    )


def notes_on_second_reading(loader: DataLoader[Any], first: Batch, held_out: Any) -> list[str]:
    """That a stream doesn't begin with the same batch when it is read again.

    Raises `ConfigError` where it is at its end then, and where held-out samples, which are its
    first, would be trained on.
    """
    again = next(full_batches(loader), None)
    if again is not None and batch_hash(again) == batch_hash(first):
        return []
    ways = (
        "let __iter__ make its iterator anew, and draw random numbers from the global generators "
        "or from a seed that it begins with"
    )
    if again is None:
        raise ConfigError(f"the stream is at its end when it is read for the second time: {ways}")
    what = "the stream begins with other samples each time that it is read"
    if is_fraction(held_out):
        raise ConfigError(
            f"{what}, so what is held out would be trained on: {ways}; or give held_out=a dataset"
        )
    return [f"{what}: a run that is stopped goes on with other data; {ways}"]


def stream_count(loader: DataLoader[Any], start: list[Batch], given: int | None) -> TokenCount:
    """What a sample adds to D: as given, else that of the first samples by themselves."""
    if given is not None:
        return TokenCount(given)
    if token_rows(start[0]) is None:
        return TokenCount(1)
    pad_id = pad_id_of(loader.dataset, loader.collate_fn)
    stream: Any = loader.dataset
    with drawing(STREAM_SEED, 0):
        alone = (as_batch(loader.collate_fn([sample])) for sample in stream)
        return count_of_samples(alone, pad_id, None)


def reserved_samples(loader: DataLoader[Any], batches: list[Batch]) -> UserSamples:
    """As they came, or where batches differ in length one by one, to be collated anew.

    Raises `ConfigError` where workers make them, which can't be asked for samples.
    """
    try:
        return TensorSamples(joined(batches))
    except RuntimeError as error:
        if loader.num_workers:
            raise ConfigError(
                f"the stream's first batches can't be kept for evaluation ({error}): make all "
                "samples of one shape, load them with num_workers=0, or give held_out=a dataset"
            ) from error
    stream: Any = loader.dataset
    count = sum(map(num_samples, batches))
    with drawing(STREAM_SEED, 0):
        samples = list(itertools.islice(stream, count))
    return DatasetSamples(samples, loader.collate_fn)


def look_at_batches(batches: list[Batch]) -> Look:
    """At what of a stream could be looked at; how much more there is can't be known."""
    looks = [TensorSamples(batch).look(TRAINING) for batch in batches]
    hashes = tuple(sample for look in looks for sample in look.hashes)
    return Look(hashes, len(hashes))


def parted(samples: UserSamples, held_out: Any, seed: int) -> tuple[Samples, Samples, str]:
    """Training part, held-out part, and the fingerprint of both."""
    if not is_fraction(held_out):
        evaluation = as_samples(held_out)
        check_overlap(samples.look(TRAINING), evaluation.look(HELD_OUT))
        parts = text_hash(samples.fingerprint, evaluation.fingerprint)
        return samples, evaluation.repeatable, parts
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
        SelectedSamples(samples.repeatable, evaluation_indices),
        text_hash(samples.fingerprint, held_out, seed),
    )


def is_fraction(held_out: Any) -> bool:
    """Whether `held_out` speaks of the training data itself and is no dataset of its own."""
    return held_out is None or isinstance(held_out, int | float)
