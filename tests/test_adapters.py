import itertools

import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from flops_fit.datasets import FixedBatchSource, Source, Toy, as_source
from flops_fit.datasets.adapters import RESERVED_BATCHES
from flops_fit.errors import ConfigError

INPUTS = torch.arange(100.0)[:, None]  # sample i is the number i
TARGETS = -INPUTS


class Pairs(Dataset):
    """Map-style: (i, -i)."""

    def __init__(self, length=100):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.tensor([-float(index)])


class Counting(IterableDataset):
    """A stream: (0, 0), (1, -1) .."""

    def __init__(self, length=1000):
        self.length = length

    def __iter__(self):
        for index in range(self.length):
            yield torch.tensor([float(index)]), torch.tensor([-float(index)])


class Constant(Dataset):
    """The same sample again and again."""

    def __init__(self, sample, length=100):
        self.sample, self.length = sample, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.sample


def make_sources():
    return {
        "tensors": as_source((INPUTS, TARGETS), batch_size=8),
        "tensor dataset": as_source(TensorDataset(INPUTS, TARGETS), batch_size=8),
        "dataset": as_source(Pairs(), batch_size=8),
        "shuffled loader": as_source(DataLoader(Pairs(), batch_size=8, shuffle=True)),
        "plain loader": as_source(DataLoader(Pairs(), batch_size=8)),
        "stream": as_source(Counting(), held_out=None, batch_size=8),
        "stream loader": as_source(DataLoader(Counting(), batch_size=8), held_out=None),
    }


KINDS = list(make_sources())
FINITE = [kind for kind in KINDS if not kind.startswith("stream")]


@pytest.fixture
def source(kind):
    return make_sources()[kind]


def take(batches, count):
    return list(itertools.islice(batches, count))


def numbers(batches):
    """The samples' numbers; every target must belong to its input."""
    batches = list(batches)
    assert all(torch.equal(y, -x) for x, y in batches)
    return [int(value) for x, _ in batches for value in x]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_is_a_source_of_float_rows(self, source):
        assert isinstance(source, Source)
        assert source.tokens_per_sample == 1

    @pytest.mark.parametrize("start_step", [1, 10, 25])
    def test_starting_at_a_step_equals_skipping_to_it(self, source, start_step):
        straight = numbers(take(source.training_batches(8, seed=3), start_step + 12))
        resumed = numbers(take(source.training_batches(8, 3, start_step=start_step), 12))
        assert resumed == straight[8 * start_step :]

    def test_held_out_samples_are_never_trained_on(self, source):
        held_out = numbers(source.held_out_batches(8, source.held_out_samples))
        assert len(set(held_out)) == len(held_out) == source.held_out_samples
        assert set(held_out).isdisjoint(numbers(take(source.training_batches(8, seed=0), 40)))

    def test_held_out_samples_are_the_same_every_time(self, source):
        assert numbers(source.held_out_batches(4, 9)) == numbers(source.held_out_batches(9, 9))

    def test_a_source_made_again_is_the_same_source(self, source, kind):
        again = make_sources()[kind]
        assert source.fingerprint == again.fingerprint
        assert numbers(take(source.training_batches(8, seed=3), 20)) == numbers(
            take(again.training_batches(8, seed=3), 20)
        )


@pytest.mark.parametrize("kind", ["tensors", "tensor dataset", "dataset"])
def test_an_epoch_has_every_training_sample_once_in_an_order_of_its_own(source):
    assert (source.unique_samples, source.held_out_samples) == (90, 10)
    order = numbers(take(source.training_batches(9, seed=0), 20))
    assert sorted(order[:90]) == sorted(order[90:])
    assert order[:90] != order[90:]
    assert order[:90] != numbers(take(source.training_batches(9, seed=1), 10))


def test_tensors_and_datasets_with_the_same_samples_train_alike():
    sources = make_sources()
    orders = [
        numbers(take(sources[kind].training_batches(8, seed=0), 20))
        for kind in ("tensors", "tensor dataset", "dataset")
    ]
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("kind", ["shuffled loader", "plain loader"])
def test_a_loaders_batch_wins_and_its_short_last_batch_is_skipped(source):
    assert isinstance(source, FixedBatchSource)
    assert source.batch_size == 8
    assert source.unique_samples == 88  # of 90, in 11 batches of 8
    batches = take(source.training_batches(8, seed=0), 33)
    assert {len(x) for x, _ in batches} == {8}
    assert len(set(numbers(batches[:11]))) == 88
    with pytest.raises(ConfigError, match=r"batch_size 16 asked of data .* batches of 8"):
        next(source.training_batches(16, seed=0))


def test_a_shuffled_loader_is_shuffled_anew_each_epoch_and_a_plain_one_never():
    sources = make_sources()
    shuffled = numbers(take(sources["shuffled loader"].training_batches(8, seed=0), 22))
    plain = numbers(take(sources["plain loader"].training_batches(8, seed=0), 22))
    assert shuffled[:88] != shuffled[88:] != sorted(shuffled[88:])
    assert plain[:88] == plain[88:] == sorted(plain[88:])


def test_a_loaders_order_follows_our_seed_and_nothing_else():
    source = make_sources()["shuffled loader"]
    orders = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        orders.append(numbers(take(source.training_batches(8, seed=5), 11)))
    assert orders[0] == orders[1] != numbers(take(source.training_batches(8, seed=6), 11))


def test_the_users_loader_stays_as_it_was():
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(Pairs(), batch_size=8, shuffle=True, generator=generator)
    before = generator.get_state()
    take(as_source(loader).training_batches(8, seed=0), 30)
    assert torch.equal(generator.get_state(), before)


def test_a_loader_keeps_its_collate_function():
    def doubled(samples):
        return torch.stack([2 * x for x, _ in samples])

    source = as_source(DataLoader(Pairs(), batch_size=4, collate_fn=doubled))
    x, y = next(source.training_batches(4, seed=0))
    assert x is y
    assert (x % 2 == 0).all()
    assert all((x % 2 == 0).all() for x, _ in source.held_out_batches(4, 10))


def test_a_loader_with_a_sampler_of_its_own_needs_a_held_out_dataset():
    sampler = WeightedRandomSampler([1.0] * 100, num_samples=48)
    loader = DataLoader(Pairs(), batch_size=8, sampler=sampler)
    with pytest.raises(ConfigError, match=r"WeightedRandomSampler.*held_out=a dataset"):
        as_source(loader)
    source = as_source(loader, held_out=Pairs(5))
    assert (source.unique_samples, source.held_out_samples) == (48, 5)
    assert len(take(source.training_batches(8, seed=0), 20)) == 20


def test_a_loader_that_draws_with_replacement_keeps_its_own_sampler():
    loader = DataLoader(Pairs(), batch_size=8, sampler=RandomSampler(Pairs(), replacement=True))
    with pytest.raises(ConfigError, match="RandomSampler"):
        as_source(loader)


def test_a_loader_with_workers_gives_the_same_batches():
    in_process = make_sources()["shuffled loader"]
    by_worker = as_source(DataLoader(Pairs(), batch_size=8, shuffle=True, num_workers=1))
    orders = [
        numbers(take(source.training_batches(8, seed=0), 13)) for source in (in_process, by_worker)
    ]
    assert orders[0] == orders[1]


@pytest.mark.parametrize("kind", ["stream", "stream loader"])
def test_a_stream_is_never_shuffled_and_ends_where_it_ends(source):
    reserved = RESERVED_BATCHES * 8
    assert source.unique_samples is None
    assert sorted(numbers(source.held_out_batches(8, reserved))) == list(range(reserved))
    assert numbers(list(source.training_batches(8, seed=9))) == list(range(reserved, 1000))


def test_a_stream_with_a_held_out_dataset_is_trained_on_from_its_start():
    source = as_source(Counting(), held_out=Pairs(20), batch_size=8)
    assert numbers(take(source.training_batches(8, seed=0), 2)) == list(range(16))
    assert source.held_out_samples == 20


def test_a_stream_ignores_the_size_of_a_fraction():
    by_fraction, by_none = (
        as_source(Counting(), held_out=held_out, batch_size=8) for held_out in (0.3, None)
    )
    assert by_fraction.fingerprint == by_none.fingerprint


@pytest.mark.parametrize("length", [0, 5, RESERVED_BATCHES * 8 + 7])
def test_a_stream_too_short_to_train_on_is_an_error(length):
    with pytest.raises(ConfigError, match=r"the stream ended after .* batches of 8"):
        as_source(Counting(length), held_out=None, batch_size=8)


@pytest.mark.parametrize(
    "held_out",
    [(INPUTS, TARGETS), TensorDataset(INPUTS, TARGETS), Pairs(), DataLoader(Pairs())],
    ids=["tensors", "tensor dataset", "dataset", "loader"],
)
def test_held_out_may_be_data_of_its_own(held_out):
    source = as_source(Pairs(50), held_out=held_out, batch_size=8)
    assert (source.unique_samples, source.held_out_samples) == (50, 100)


def test_the_split_follows_the_seed():
    splits = [
        sorted(numbers(as_source(Pairs(), seed=seed).held_out_batches(10, 10)))
        for seed in (0, 0, 1)
    ]
    assert splits[0] == splits[1] != splits[2]


def test_a_source_passes_through():
    toy = Toy()
    assert as_source(toy) is toy


@pytest.mark.parametrize(
    ("sample", "tokens"),
    [
        (torch.zeros(7, dtype=torch.long), 7),
        ((torch.zeros(5, dtype=torch.int32), 3), 5),
        (torch.zeros(7), 1),
        (torch.zeros(7, dtype=torch.bool), 1),
        ((torch.zeros(3, 4, 4), 2), 1),
        ((1.5, 2.5), 1),
    ],
    ids=["ids", "ids with a label", "row", "flags", "image", "numbers"],
)
def test_tokens_per_sample_is_inferred(sample, tokens):
    assert as_source(Constant(sample), batch_size=4).tokens_per_sample == tokens
    assert as_source(Constant(sample), batch_size=4, tokens_per_sample=9).tokens_per_sample == 9
    loader = DataLoader(Constant(sample), batch_size=4)
    assert as_source(loader).tokens_per_sample == tokens


@pytest.mark.parametrize(
    "data", [torch.ones(100, 3), (torch.ones(100, 3),), Constant(torch.ones(3))]
)
def test_a_single_tensor_is_input_and_target(data):
    x, y = next(as_source(data, batch_size=4).training_batches(4, seed=0))
    assert x is y
    assert x.shape == (4, 3)


def test_fingerprints_tell_data_and_cuts_apart():
    changed = INPUTS.clone()
    changed[17] += 1
    sources = [
        as_source((INPUTS, TARGETS)),
        as_source((changed, TARGETS)),
        as_source((INPUTS, TARGETS), seed=1),
        as_source((INPUTS, TARGETS), held_out=0.2),
        as_source((INPUTS, TARGETS), held_out=Pairs(10)),
        as_source((INPUTS, TARGETS), tokens_per_sample=2),
        as_source(Pairs()),
        as_source(Pairs(101)),
        as_source(Constant(torch.zeros(1))),
        as_source(Constant(torch.ones(1))),
        as_source(DataLoader(Pairs(), batch_size=8)),
        as_source(DataLoader(Pairs(), batch_size=8, shuffle=True)),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)


def test_randomly_augmented_data_have_one_fingerprint():
    class Noisy(Pairs):
        def __getitem__(self, index):
            return torch.randn(3), torch.zeros(3)

    torch.manual_seed(0)
    state = torch.get_rng_state()
    hashes = {as_source(Noisy(), tokens_per_sample=1).fingerprint for _ in range(2)}
    assert len(hashes) == 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (Pairs(0), {}, "dataset is empty"),
        (torch.zeros(0, 3), {}, "dataset is empty"),
        (DataLoader(Pairs(8), batch_size=8), {}, "7 samples to train on, one batch takes 8"),
        (Pairs(20), {"batch_size": 64}, "18 samples to train on, one batch takes 64.*batch_size"),
        (Pairs(4), {"batch_size": 1}, "held_out=0.1 of 4 samples leaves 4 to train on and 0"),
        (Pairs(), {"held_out": 1.0}, "held_out is 1:"),
        (Pairs(), {"held_out": 0.0}, "held_out is 0:"),
        (Pairs(), {"held_out": None}, "held_out=None is for streams"),
        (Pairs(), {"held_out": "x"}, r"dataset is builtins\.str: give a torch Dataset"),
        (42, {}, r"dataset is builtins\.int: give a torch Dataset"),
        ({"a": 1}, {}, r"dataset is builtins\.dict"),
        ((INPUTS, TARGETS[:5]), {}, r"\(100, 1\), \(5, 1\).*two tensors"),
        ((INPUTS, TARGETS, TARGETS), {}, "a tuple of"),
        ((INPUTS.numpy(), TARGETS.numpy()), {}, "ndarray"),
        (Constant({"x": 1, "y": 2}), {}, r"\['x', 'y'\].*pair \(input, target\)"),
        (Constant("text"), {}, "pair"),
        (Constant((1, 2, 3)), {}, "a sample has 3 parts"),
        (DataLoader(Pairs(), batch_size=None), {}, "the DataLoader has no batch_size"),
    ],
)
def test_what_cannot_be_trained_on_is_said_at_once(data, arguments, message):
    with pytest.raises(ConfigError, match=message):
        as_source(data, **arguments)
