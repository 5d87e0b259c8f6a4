import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from flops_fit.datasets import Tokens, as_source
from flops_fit.errors import ConfigError


def rows(count, first=0):
    """(i, -i), counted from `first`."""
    x = torch.arange(first, first + count, dtype=torch.float64)[:, None]
    return x, -x


def joined(*parts):
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def named(pair):
    return dict(zip(("x", "y"), pair, strict=True))


class Samples:
    """Map-style, not torch's; counts what is fetched and takes its time."""

    def __init__(self, pair, seconds=0.0):
        self.pair, self.seconds, self.fetched = pair, seconds, 0

    def __len__(self):
        return len(self.pair[0])

    def __getitem__(self, index):
        self.fetched += 1
        time.sleep(self.seconds)
        return self.pair[0][index], self.pair[1][index]


class NamedSamples(Samples):
    def __getitem__(self, index):
        return named(super().__getitem__(index))


class Stream(IterableDataset):
    def __init__(self, pair):
        self.pair = pair

    def __iter__(self):
        return zip(*self.pair, strict=True)


FORMS = {
    "tensors": lambda pair: pair,
    "tensor dataset": lambda pair: TensorDataset(*pair),
    "dataset": Samples,
    "loader": lambda pair: DataLoader(TensorDataset(*pair), batch_size=8),
}


@pytest.mark.parametrize("held_out", FORMS)
@pytest.mark.parametrize("training", [*FORMS, "stream"])
class TestEveryForm:
    def source(self, training, held_out, shared):
        own = rows(400, first=1000)
        evaluation = joined(rows(shared), rows(200 - shared, first=5000))
        made = {**FORMS, "stream": Stream}[training](joined(rows(50), own))
        return as_source(made, held_out=FORMS[held_out](evaluation), batch_size=8)

    def test_one_percent_of_held_out_copies_is_let_pass(self, training, held_out):
        assert self.source(training, held_out, shared=2).held_out_samples == 200

    def test_more_are_an_error_that_counts_them(self, training, held_out):
        looked_at = 264 if training == "stream" else 450  # the stream's first 33 batches
        message = f"3 of 200 held-out samples .*{looked_at} of {looked_at} .*held_out=0.1"
        with pytest.raises(ConfigError, match=message):
            self.source(training, held_out, shared=3)


@pytest.mark.parametrize("form", [named, lambda pair: NamedSamples(pair)])
def test_named_samples_are_compared_as_well(form):
    assert as_source(form(rows(100)), held_out=form(rows(20, first=100))).held_out_samples == 20
    with pytest.raises(ConfigError, match="20 of 20"):
        as_source(form(rows(100)), held_out=form(rows(20)))


def test_parts_of_one_dataset_are_compared():
    data = TensorDataset(*rows(200))
    apart = as_source(Subset(data, range(100)), held_out=Subset(data, range(100, 200)))
    assert apart.held_out_samples == 100
    with pytest.raises(ConfigError, match="5 of 100 held-out"):
        as_source(Subset(data, range(100)), held_out=Subset(data, range(95, 195)))


def test_one_input_with_two_targets_is_two_samples():
    x, y = rows(100)
    assert as_source((x, y), held_out=(x, y + 1)).held_out_samples == 100
    with pytest.raises(ConfigError, match="100 of 100"):
        as_source((x, y), held_out=(x, y))


def test_of_large_data_a_part_is_looked_at():
    with pytest.raises(ConfigError, match=r"of 4,096 held-out .*65,536 of 300,000 training"):
        as_source(rows(300_000), held_out=rows(9000, first=150_000))
    apart = as_source(rows(300_000), held_out=rows(9000, first=300_000))
    assert apart.held_out_samples == 9000


def test_where_a_part_is_looked_at_two_copies_may_be_chance():
    training = joined(rows(200_000), [part.expand(100_000, 1) for part in rows(1, first=-1)])
    held_out = joined(rows(100, first=300_000), rows(1, first=-1), rows(1, first=-1))
    assert as_source(training, held_out=held_out).held_out_samples == 102
    with pytest.raises(ConfigError, match="3 of 103"):
        as_source(training, held_out=joined(held_out, rows(1, first=-1)))


def test_slow_datasets_are_looked_at_for_a_short_time():
    training, held_out = Samples(rows(5000), 0.002), Samples(rows(5000, first=5000), 0.002)
    as_source(training, held_out=held_out)
    assert training.fetched < 400
    assert held_out.fetched < 400


def test_of_samples_made_one_by_one_few_are_fetched():
    training = Samples(rows(50_000))
    as_source(training, held_out=rows(500, first=50_000))
    assert training.fetched < 2100


@pytest.fixture
def token_file(tmp_path):
    def made(name, tokens):
        tokens.astype(np.uint16).tofile(tmp_path / name)
        return tmp_path / name

    return made


@pytest.mark.parametrize("context_length", [10, 64, 100])
def test_token_files_that_share_windows_are_an_error(token_file, context_length):
    ids = np.random.default_rng(0).integers(1000, size=(2, 20_000))
    training, held_out = token_file("train", ids[0]), token_file("own", ids[1])
    source = Tokens(training, 1000, context_length, held_out_path=held_out)
    assert source.held_out_samples == 19_999 // context_length
    with pytest.raises(ConfigError, match=r"(\d+) of \1 held-out samples"):
        Tokens(training, 1000, context_length, held_out_path=training)
    tail = token_file("tail", ids[0][6400:])
    with pytest.raises(ConfigError, match="held-out samples are in the training data"):
        Tokens(training, 1000, context_length, held_out_path=tail)


def test_short_windows_that_return_are_no_sign_of_copies(token_file):
    ids = np.random.default_rng(0).integers(2, size=(2, 5000))
    training, held_out = token_file("train", ids[0]), token_file("own", ids[1])
    assert Tokens(training, 2, 4, held_out_path=held_out).held_out_samples == 1249
