"""Batches where they are trained on: on a GPU as blocks of many steps, in memory of its own."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from flops_fit.datasets.batches import Batch, changed, on_device, stacked
from flops_fit.datasets.samples import parts_of
from flops_fit.datasets.source import Movable, ShuffledBatches, Source

BLOCK_STEPS = 100
BLOCK_BYTES = 2**26
"""Steps and bytes of one block at most, but always one step."""

DATA_SHARE = 0.25
"""Of the device's free memory may be taken by data; what is larger comes in blocks."""

KEPT_BYTES = 2**28
"""Of held-out batches stay on the device between evaluations."""


@dataclass(frozen=True)
class Block:
    """Batches of consecutive steps: stacked along a first dimension, or where they differ in shape
    one by one. Both on the device."""

    num_steps: int
    stacked: Batch | None
    separate: tuple[Batch, ...] = ()


@dataclass
class DeviceData:
    """A source as one device meets it: all of its data there, where they fit."""

    source: Source
    device: torch.device
    _held_out: dict[tuple[int, int], list[Batch]] = field(default_factory=dict)

    def blocks(self, batch_size: int, seed: int, start_step: int) -> Iterator[Block]:
        """The training stream in blocks, from `start_step` to its end, if it has one."""
        batches = self.source.training_batches(batch_size, seed, start_step)
        most = 1  # until it is known what a batch takes
        while True:
            with _making_data(self.device):
                block = _next_block(batches, most, self.device)
            if block is None:
                return
            most = max(1, min(BLOCK_STEPS, BLOCK_BYTES * block.num_steps // max(1, _bytes(block))))
            yield block

    def held_out_batches(self, batch_size: int, num_samples: int) -> Iterator[Batch]:
        """As the source's, on the device, and kept there while they are few."""
        key = (batch_size, num_samples)
        if key in self._held_out:
            return iter(self._held_out[key])
        batches = self.source.held_out_batches(batch_size, num_samples)
        if self.device.type != "cuda":
            return (on_device(batch, self.device) for batch in batches)
        return self._keeping(key, batches)

    def _keeping(self, key: tuple[int, int], batches: Iterator[Batch]) -> Iterator[Batch]:
        kept: list[Batch] = []
        num_bytes = 0
        for batch in batches:
            moved = on_device(batch, self.device)
            num_bytes += _batch_bytes(moved)
            if num_bytes <= KEPT_BYTES:
                kept.append(moved)
            yield moved
        if num_bytes <= KEPT_BYTES:
            torch.cuda.current_stream(self.device).synchronize()  # other streams will read them
            self._held_out[key] = kept


_known: dict[tuple[int, torch.device], DeviceData] = {}


def device_data(source: Source, device: torch.device) -> DeviceData:
    """The source's data for this device, the same for all runs of this process."""
    key = (id(source), device)
    if key not in _known:
        data = DeviceData(_moved(source, device), device)
        try:
            weakref.finalize(source, _known.pop, key, None)
        except TypeError:  # a class of the user's whose objects can't be referred to weakly
            return data
        _known[key] = data
    return _known[key]


def _moved(source: Source, device: torch.device) -> Source:
    if device.type != "cuda" or not isinstance(source, Movable):
        return source
    if source.device_bytes > DATA_SHARE * torch.cuda.mem_get_info(device)[0]:
        return source
    moved: Source = source.on(device)
    torch.cuda.synchronize(device)
    return moved


def _next_block(batches: Iterator[Batch], most: int, device: torch.device) -> Block | None:
    if isinstance(batches, ShuffledBatches):
        whole = batches.block(most)
        if whole is not None:
            return Block(most, on_device(whole, device))
    taken = list(itertools.islice(batches, most))
    if not taken:
        return None
    try:
        together = stacked(taken)
    except RuntimeError:  # they differ in shape
        return Block(len(taken), None, tuple(on_device(batch, device) for batch in taken))
    return Block(len(taken), on_device(_pinned(together, device), device))


def _pinned(batch: Batch, device: torch.device) -> Batch:
    """In memory from which a GPU copies while other work goes on."""
    if device.type != "cuda":
        return batch
    return changed(batch, lambda t: t.pin_memory() if t.device.type == "cpu" else t)


def _batch_bytes(batch: Batch) -> int:
    return sum(part.nbytes for part in parts_of(batch))


def _bytes(block: Block) -> int:
    batches = block.separate if block.stacked is None else (block.stacked,)
    return sum(map(_batch_bytes, batches))


def _making_data(device: torch.device) -> AbstractContextManager[Any]:
    """On CUDA a stream that all runs of the process share, so that what one of them has made is
    there for the next; whoever reads it waits for this stream, see `wait_for_data`."""
    return nullcontext() if device.type != "cuda" else torch.cuda.stream(_data_stream(device))


@cache
def _data_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def wait_for_data(batch: Batch, device: torch.device) -> None:
    """Let the current stream wait for the batch, which lies on the device."""
    if device.type != "cuda":
        return
    stream = torch.cuda.current_stream(device)
    stream.wait_stream(_data_stream(device))
    for part in parts_of(batch):
        part.record_stream(stream)
