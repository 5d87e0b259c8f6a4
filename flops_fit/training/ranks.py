"""The processes that train one run together: what each does of a step, and how they agree.

Each makes the same batches and takes its rows of them. The first one, of rank 0, decides and
writes; the others do as it says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch.distributed as dist
from torch import Tensor

from flops_fit.datasets.batches import Batch, changed, micro_batches, num_samples
from flops_fit.plan.experiment import Experiment
from flops_fit.training.portions import Portions

T = TypeVar("T")

Spread = Literal["replicas", "shards"]
"""What each process holds: the whole model, or a part of each of its parameters."""

MEETING_SECONDS = 0.1
"""Between two agreements on whether to go on: what a request to stop waits for at most."""

FASTER = 4
"""Times as many steps at most lie between the next two meetings as between the last two."""


@dataclass(frozen=True)
class Ranks:
    """A process of a run among the others: the `rank`-th of `count`. Alone it does everything.

    `group` is the way of their words, which travel between CPUs whatever they train on.
    """

    rank: int = 0
    count: int = 1
    spread: Spread = "replicas"
    group: dist.ProcessGroup | None = None

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    @property
    def writes(self) -> bool:
        """Whether results, curves and checkpoints are its to write."""
        return self.rank == 0

    @property
    def shards(self) -> bool:
        return not self.is_alone and self.spread == "shards"

    def own_parts(
        self, batch: Batch, size: int | None, portions: Portions
    ) -> list[tuple[Batch, float | Tensor]]:
        """What this process computes of a batch, at most `size` samples at once: parts, with the
        share of each in the loss of the whole batch.

        As many in every process, since all have to be there when gradients are added: one without
        rows or labels of its own computes those of another, for a share of nothing.
        """
        of_each = [
            list(micro_batches(rows, size)) if num_samples(rows) else []
            for rows in self._rows_of_each(batch)
        ]
        parts = [part for of_one in of_each for part in of_one]
        shared = list(zip(parts, portions.shares(parts), strict=True))
        telling = [(part, share) for part, share in shared if isinstance(share, Tensor) or share]
        if self.is_alone:
            return telling
        start = sum(map(len, of_each[: self.rank]))
        mine = shared[start : start + len(of_each[self.rank])]
        mine = [one for one in mine if isinstance(one[1], Tensor) or one[1]]
        missing = max(map(len, of_each)) - len(mine)
        return [*[(telling[0][0], 0.0)] * missing, *mine]

    def _rows_of_each(self, batch: Batch) -> Iterator[Batch]:
        """The batch in as many parts as there are processes, equal to a row."""
        if self.is_alone:
            yield batch
            return
        edges = [rank * num_samples(batch) // self.count for rank in range(self.count + 1)]
        for start, end in pairwise(edges):
            yield changed(batch, lambda tensor, start=start, end=end: tensor[start:end])  # type: ignore[misc]

    def part_of(self, experiment: Experiment) -> Experiment:
        """The experiment with as much of its batch as one process has at most."""
        return part_of(experiment, self.count)

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all processes in its place."""
        if not self.is_alone and tensor.numel():
            dist.all_reduce(tensor)

    def as_first(self, value: T) -> T:
        """What the first process has here."""
        if self.is_alone:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0, group=self.group)
        return told[0]

    def of_each(self, value: T) -> list[T]:
        """What all processes have here, by rank."""
        if self.is_alone:
            return [value]
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, value, group=self.group)
        return told


ALONE = Ranks()


def part_of(experiment: Experiment, count: int) -> Experiment:
    """The experiment with as much of its batch as one of `count` processes has at most."""
    if count == 1:
        return experiment
    return replace(
        experiment,
        batch_size=-(-experiment.batch_size // count),
        batch_tokens=-(-experiment.batch_tokens // count),
    )


class Meetings:
    """The steps at which the processes of a run agree on what to do next, so that all do the same
    at the same step. They lie so far apart that a meeting costs nothing."""

    def __init__(self, ranks: Ranks, step: int) -> None:
        self._ranks = ranks
        self._gap = 1
        self._next = step + 1
        self._last = time.perf_counter()

    def first_of(self, step: int) -> int:
        """The next meeting, or this step where it comes earlier."""
        return step if self._ranks.is_alone else min(step, self._next)

    def is_at(self, step: int) -> bool:
        """Whether it is time to agree; a process alone may change its mind at any step."""
        return self._ranks.is_alone or step >= self._next

    def agreed(self, step: int, wishes: T) -> T:
        """What the first process wishes."""
        if self._ranks.is_alone:
            return wishes
        now = time.perf_counter()
        ahead = round(self._gap * MEETING_SECONDS / max(now - self._last, 1e-6))
        gap = max(1, min(FASTER * self._gap, ahead))
        agreed, self._gap = self._ranks.as_first((wishes, gap))
        self._next, self._last = step + self._gap, time.perf_counter()
        return agreed
