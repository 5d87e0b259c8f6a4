"""How many tokens a sample of a user's data adds to D: measured, without padding where it tells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flops_fit.datasets.batches import Batch, token_rows, told_tokens
from flops_fit.datasets.samples import ANY_KEY, device_bytes_of
from flops_fit.datasets.source import Samples

LOOKED_AT = 1_000
"""Samples that user code makes one by one, evenly spread."""

FIRST_LOOK = 64
"""Of them, where these are all of one length."""

LOOKED_AT_IDS = 2**24
"""Token ids of tensors, which are there already."""

SUSPECT_RUN = 4
SUSPECT_SHARE = 0.1
"""Rows that end in so many of one id, and their share, from which the id may be padding."""

PAD_NAMES = ("pad_id", "pad_token_id")
"""What datasets, collate functions and their tokenizers call the id of padding."""

HELD_BY = ("dataset", "tokenizer", "collator")
"""Under these names a dataset or a collate function holds what may know it."""

MOST_LEVELS = 5


@dataclass(frozen=True)
class TokenCount:
    """The mean of a sample, whole where it is one; `notes` say what a person should know of it."""

    mean: float
    notes: tuple[str, ...] = ()


@dataclass
class _Rows:
    """What was seen of rows so far."""

    tokens: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    ends: Counter[int] = field(default_factory=Counter)  # id -> rows that end in several of it

    def add(self, batch: Batch, pad_id: int | None) -> None:
        rows = token_rows(batch)
        assert rows is not None
        length = rows.shape[1]
        told = told_tokens(batch, pad_id)
        self.tokens += [length] * len(rows) if told is None else told.tolist()
        self.lengths += [length] * len(rows)
        if told is None:
            self.ends.update(rows[_end_in_one_id(rows), -1].tolist())

    @property
    def are_alike(self) -> bool:
        return len({*self.tokens, *self.lengths}) == 1

    def count(self, total: int | None) -> TokenCount:
        mean = round(sum(self.tokens) / len(self.tokens), 2)
        notes = []
        if not self.are_alike:
            of = "" if total in (None, len(self.tokens)) else f" of {total:,}"
            notes.append(
                f"a sample counts as {mean:g} tokens: the mean of {len(self.tokens):,}{of}, which "
                f"have {min(self.tokens):,} to {max(self.tokens):,} without padding; "
                "tokens_per_sample sets another"
            )
        suspect = self.ends.most_common(1)
        if suspect and suspect[0][1] >= SUSPECT_SHARE * len(self.lengths):
            pad, rows = suspect[0]
            notes.append(
                f"{rows / len(self.lengths):.0%} of the samples end in several of id {pad}: if "
                "that is padding, D counts it; give an attention_mask beside the ids, the dataset "
                "an attribute pad_id, or set tokens_per_sample"
            )
        return TokenCount(int(mean) if mean.is_integer() else mean, tuple(notes))


def _end_in_one_id(rows: Tensor) -> Tensor:
    """Which rows (B,) end in SUSPECT_RUN of one id, and begin with others."""
    if rows.shape[1] <= SUSPECT_RUN:
        return torch.zeros(len(rows), dtype=torch.bool)
    ended = (rows[:, -SUSPECT_RUN:] == rows[:, -1:]).all(1)
    return ended & (rows != rows[:, -1:]).any(1)


def count_of_rows(batch: Batch, pad_id: int | None, total: int) -> TokenCount:
    """Of samples that lie in tensors, of `total`."""
    if token_rows(batch) is None:
        return TokenCount(1)
    rows = _Rows()
    rows.add(batch, pad_id)
    return rows.count(total)


def count_of_samples(samples: Iterable[Batch], pad_id: int | None, total: int | None) -> TokenCount:
    """Of `total` samples that are made one by one, each of them a batch by itself: so none is
    padded to the length of another. Takes as many as it needs, LOOKED_AT at most."""
    rows = _Rows()
    for number, sample in enumerate(samples):
        if token_rows(sample) is None:
            return TokenCount(1)
        rows.add(sample, pad_id)
        if number + 1 == LOOKED_AT or (number + 1 == FIRST_LOOK and rows.are_alike):
            break
    return rows.count(total)


def places(total: int, most: int) -> Tensor:
    """Numbers of samples (min(total, most),), int64, evenly spread in an order that is spread as
    well, so that its beginning tells of all."""
    count = min(total, most)
    spread = torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()
    return spread[torch.randperm(count, generator=torch.Generator().manual_seed(0))]


def pad_id_of(*known: Any) -> int | None:
    """The id of padding, by what a dataset or a collate function calls so itself."""
    for held in (h for k in known for h in _holders(k, MOST_LEVELS)):
        for name in PAD_NAMES:
            value = getattr(held, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _holders(known: Any, levels: int) -> Iterator[Any]:
    if known is None or levels == 0:
        return
    yield known
    for name in HELD_BY:
        yield from _holders(getattr(known, name, None), levels - 1)


def token_count(training: Samples, pad_id: int | None, given: int | None) -> TokenCount:
    """What a sample adds to D: as given, else measured on samples that are spread evenly."""
    if given is not None:
        return TokenCount(given)
    total = len(training)
    if not math.isfinite(device_bytes_of(training)):
        each = (training.batch(i[None], ANY_KEY) for i in places(total, LOOKED_AT))
        return count_of_samples(each, pad_id, total)
    rows = token_rows(training.batch(torch.tensor([0]), ANY_KEY))
    most = 1 if rows is None else max(1, LOOKED_AT_IDS // rows.shape[1])
    return count_of_rows(training.batch(places(total, most), ANY_KEY), pad_id, total)
