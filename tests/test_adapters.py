import itertools
import random

import numpy as np
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
from flops_fit.datasets.batches import TARGET_NAMES, num_samples, tensors_of
from flops_fit.datasets.draws import drawing
from flops_fit.errors import ConfigError

IN_WORKERS = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
"""Python from 3.12 on warns of every fork beside torch's threads."""

INPUTS = torch.arange(100.0)[:, None]  # sample i is the number i
TARGETS = -INPUTS


class Pairs(Dataset):
    """Map-style: (i, -i), counted from `first`."""

    def __init__(self, length=100, first=0):
        self.length, self.first = length, first

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        number = float(self.first + index)
        return torch.tensor([number]), torch.tensor([-number])


class Named(Pairs):
    """The same by name."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return {"y": y, "x": x}


class Augmented(Pairs):
    """(i, -i) and what each of the three global generators draws beside it."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        drawn = torch.tensor([np.random.rand(), random.random()])  # noqa: NPY002
        return torch.cat([x, torch.rand(1), drawn]), y


class Counting(IterableDataset):
    """A stream: (0, 0), (1, -1) .."""

    def __init__(self, length=1000):
        self.length = length

    def __iter__(self):
        for index in range(self.length):
            yield torch.tensor([float(index)]), torch.tensor([-float(index)])


class NamedCounting(Counting):
    """The same by name."""

    def __iter__(self):
        return ({"x": x, "target": y} for x, y in super().__iter__())


class NoisyCounting(Counting):
    """The same with noise beside the input."""

    def __iter__(self):
        return ((torch.cat([x, torch.rand(2)]), y) for x, y in super().__iter__())


class Constant(Dataset):
    """The same sample again and again."""

    def __init__(self, sample, length=100):
        self.sample, self.length = sample, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.sample


MAKE = {
    "tensors": lambda: as_source((INPUTS, TARGETS), batch_size=8),
    "tensor dataset": lambda: as_source(TensorDataset(INPUTS, TARGETS), batch_size=8),
    "dataset": lambda: as_source(Pairs(), batch_size=8),
    "shuffled loader": lambda: as_source(DataLoader(Pairs(), batch_size=8, shuffle=True)),
    "plain loader": lambda: as_source(DataLoader(Pairs(), batch_size=8)),
    "stream": lambda: as_source(Counting(), held_out=None, batch_size=8),
    "stream loader": lambda: as_source(DataLoader(Counting(), batch_size=8), held_out=None),
    "named tensors": lambda: as_source({"x": INPUTS, "target": TARGETS}, batch_size=8),
    "named inputs": lambda: as_source(({"x": INPUTS}, TARGETS), batch_size=8),
    "named dataset": lambda: as_source(Named(), batch_size=8),
    "named loader": lambda: as_source(DataLoader(Named(), batch_size=8, shuffle=True)),
    "stream, named": lambda: as_source(NamedCounting(), held_out=None, batch_size=8),
}


KINDS = list(MAKE)
STREAMS = [kind for kind in KINDS if kind.startswith("stream")]


@pytest.fixture
def source(kind):
    return MAKE[kind]()


def take(batches, count):
    return list(itertools.islice(batches, count))


def numbers(batches):
    """The samples' numbers; every target must belong to its input."""
    batches = [(*tensors_of(inputs), target) for inputs, target in batches]
    assert all(torch.equal(y, -x) for x, y in batches)
    return [int(value) for x, _ in batches for value in x]


def everything(batches):
    """All that is in the batches, as numbers that can be compared."""
    return [tensor.tolist() for batch in batches for c in batch for tensor in tensors_of(c)]


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
        again = MAKE[kind]()
        assert source.fingerprint == again.fingerprint
        assert numbers(take(source.training_batches(8, seed=3), 20)) == numbers(
            take(again.training_batches(8, seed=3), 20)
        )


RESIDENT_OR_NUMBERED = [
    "tensors",
    "tensor dataset",
    "dataset",
    "named tensors",
    "named inputs",
    "named dataset",
]


@pytest.mark.parametrize("kind", RESIDENT_OR_NUMBERED)
def test_an_epoch_has_every_training_sample_once_in_an_order_of_its_own(source):
    assert (source.unique_samples, source.held_out_samples) == (90, 10)
    order = numbers(take(source.training_batches(9, seed=0), 20))
    assert sorted(order[:90]) == sorted(order[90:])
    assert order[:90] != order[90:]
    assert order[:90] != numbers(take(source.training_batches(9, seed=1), 10))


def test_tensors_and_datasets_with_the_same_samples_train_alike():
    orders = [
        numbers(take(MAKE[kind]().training_batches(8, seed=0), 20)) for kind in RESIDENT_OR_NUMBERED
    ]
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize("kind", ["shuffled loader", "plain loader", "named loader"])
def test_a_loaders_batch_wins_and_its_short_last_batch_is_skipped(source):
    assert isinstance(source, FixedBatchSource)
    assert source.batch_size == 8
    assert source.unique_samples == 88  # of 90, in 11 batches of 8
    batches = take(source.training_batches(8, seed=0), 33)
    assert set(map(num_samples, batches)) == {8}
    assert len(set(numbers(batches[:11]))) == 88
    with pytest.raises(ConfigError, match=r"batch_size 16 asked of data .* batches of 8"):
        next(source.training_batches(16, seed=0))


def test_a_shuffled_loader_is_shuffled_anew_each_epoch_and_a_plain_one_never():
    shuffled = numbers(take(MAKE["shuffled loader"]().training_batches(8, seed=0), 22))
    plain = numbers(take(MAKE["plain loader"]().training_batches(8, seed=0), 22))
    assert shuffled[:88] != shuffled[88:] != sorted(shuffled[88:])
    assert plain[:88] == plain[88:] == sorted(plain[88:])


def test_a_loaders_order_follows_our_seed_and_nothing_else():
    source = MAKE["shuffled loader"]()
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
    source = as_source(loader, held_out=Pairs(5, first=100))
    assert (source.unique_samples, source.held_out_samples) == (48, 5)
    assert len(take(source.training_batches(8, seed=0), 20)) == 20


def test_a_loader_that_draws_with_replacement_keeps_its_own_sampler():
    loader = DataLoader(Pairs(), batch_size=8, sampler=RandomSampler(Pairs(), replacement=True))
    with pytest.raises(ConfigError, match="RandomSampler"):
        as_source(loader)


def test_a_loader_whose_collate_function_changes_the_number_of_rows_is_an_error():
    loader = DataLoader(
        Pairs(), batch_size=8, collate_fn=lambda s: torch.stack([x for x, _ in s])[::2]
    )
    with pytest.raises(ConfigError, match="makes 4 rows of a batch of 8"):
        next(as_source(loader).training_batches(8, seed=0))


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_is_never_shuffled_and_ends_where_it_ends(source):
    reserved = RESERVED_BATCHES * 8
    assert source.unique_samples is None
    assert sorted(numbers(source.held_out_batches(8, reserved))) == list(range(reserved))
    assert numbers(list(source.training_batches(8, seed=9))) == list(range(reserved, 1000))


def test_a_stream_with_a_held_out_dataset_is_trained_on_from_its_start():
    source = as_source(Counting(), held_out=Pairs(20, first=1000), batch_size=8)
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
    [
        (INPUTS, TARGETS),
        TensorDataset(INPUTS, TARGETS),
        Pairs(),
        DataLoader(Pairs()),
        {"x": INPUTS, "y": TARGETS},
    ],
    ids=["tensors", "tensor dataset", "dataset", "loader", "named tensors"],
)
def test_held_out_may_be_data_of_its_own(held_out):
    source = as_source(Pairs(50, first=100), held_out=held_out, batch_size=8)
    assert (source.unique_samples, source.held_out_samples) == (50, 100)
    assert sorted(numbers(source.held_out_batches(8, 100))) == list(range(100))


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
        ({"mask": torch.ones(4, dtype=torch.long), "input_ids": torch.ones(6).long()}, 6),
        ({"image": torch.zeros(3, 4, 4), "caption": torch.ones(6).long(), "label": 1}, 6),
        ({"row": torch.zeros(4), "label": torch.ones(6).long()}, 1),
    ],
    ids=[
        "ids",
        "ids with a label",
        "row",
        "flags",
        "image",
        "numbers",
        "named ids",
        "ids by another name",
        "named row",
    ],
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
        as_source((INPUTS, TARGETS), held_out=Pairs(10, first=100)),
        as_source((INPUTS, TARGETS), held_out=Pairs(10, first=200)),
        as_source({"x": INPUTS, "y": TARGETS}),
        as_source({"z": INPUTS, "y": TARGETS}),
        as_source({"x": INPUTS, "z": TARGETS}),
        as_source(Named()),
        as_source((INPUTS, TARGETS), tokens_per_sample=2),
        as_source(Pairs()),
        as_source(Pairs(101)),
        as_source(Constant(torch.zeros(1))),
        as_source(Constant(torch.ones(1))),
        as_source(DataLoader(Pairs(), batch_size=8)),
        as_source(DataLoader(Pairs(), batch_size=8, shuffle=True)),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)


@pytest.mark.parametrize("name", TARGET_NAMES)
def test_of_named_tensors_one_is_the_target_and_the_rest_is_the_input(name):
    sample = {"weight": torch.ones(2), name: torch.tensor(3.0), "x": torch.zeros(5)}
    for data in (Constant(sample), Constant((sample,))):
        inputs, target = next(as_source(data, batch_size=4).training_batches(4, seed=0))
        assert {key: tuple(t.shape) for key, t in inputs.items()} == {"weight": (4, 2), "x": (4, 5)}
        assert target.tolist() == [3.0] * 4


def test_the_first_of_two_names_for_a_target_is_the_target():
    sample = {"y": torch.ones(1), "labels": torch.zeros(1)}
    inputs, target = next(as_source(Constant(sample), batch_size=4).training_batches(4, seed=0))
    assert list(inputs) == ["y"]
    assert target.eq(0).all()


def test_named_tensors_without_a_target_are_input_and_target():
    sample = {"a": torch.ones(3), "b": 2}
    inputs, target = next(as_source(Constant(sample), batch_size=4).training_batches(4, seed=0))
    assert inputs is target
    assert {key: tuple(tensor.shape) for key, tensor in inputs.items()} == {"a": (4, 3), "b": (4,)}


def test_in_a_pair_the_input_keeps_its_names_and_the_target_may_have_some():
    sample = ({"x": torch.ones(3), "y": torch.ones(1)}, {"boxes": torch.ones(2), "y": 5})
    inputs, target = next(as_source(Constant(sample), batch_size=4).training_batches(4, seed=0))
    assert list(inputs) == ["x", "y"]
    assert list(target) == ["boxes", "y"]


class TestDraws:
    """What samples draw at random."""

    SOURCES = (
        lambda: as_source(Augmented(), batch_size=8),
        lambda: as_source(DataLoader(Augmented(), batch_size=8, shuffle=True)),
        lambda: as_source(NoisyCounting(), held_out=None, batch_size=8),
    )

    @pytest.fixture(params=SOURCES, ids=["dataset", "loader", "stream"])
    def source(self, request):
        return request.param()

    @pytest.mark.parametrize("start_step", [1, 14])
    def test_a_resumed_run_draws_what_it_would_have_drawn(self, source, start_step):
        straight = everything(take(source.training_batches(8, seed=3), start_step + 12))
        self.draw_elsewhere()
        resumed = everything(take(source.training_batches(8, 3, start_step=start_step), 12))
        assert resumed == straight[2 * start_step :]

    def test_held_out_samples_are_the_same_in_batches_of_any_size(self, source):
        samples = [
            [row.tolist() for x, _ in source.held_out_batches(size, 9) for row in x]
            for size in (9, 4, 1)
        ]
        assert samples[0] == samples[1] == samples[2]

    def test_every_batch_draws_anew_and_every_sample_of_it(self, source):
        batches = take(source.training_batches(8, seed=3), 24)  # two epochs
        drawn = torch.cat([x[:, 1:] for x, _ in batches])  # (192, num_draws)
        assert all(len(column.unique()) == len(column) for column in drawn.T)

    def test_the_runs_own_draws_go_on_as_if_there_were_no_data(self, source):
        self.draw_elsewhere(seed=0)
        expected = self.draw_elsewhere()
        self.draw_elsewhere(seed=0)
        take(source.training_batches(8, seed=3), 12)
        list(source.held_out_batches(8, 9))
        assert self.draw_elsewhere() == expected

    def test_the_fingerprint_is_the_same_every_time(self, source, request):
        self.draw_elsewhere()
        again = request.node.callspec.params["source"]()
        assert source.fingerprint == again.fingerprint

    def draw_elsewhere(self, seed=None):
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
        return float(torch.rand(1)), float(np.random.rand()), random.random()  # noqa: NPY002

    def test_an_error_of_the_users_code_leaves_the_generators_as_they_were(self):
        self.draw_elsewhere(seed=0)
        expected = self.draw_elsewhere()
        self.draw_elsewhere(seed=0)
        with pytest.raises(ZeroDivisionError):
            self.fail_after_a_draw()
        assert self.draw_elsewhere() == expected

    @drawing(1)
    def fail_after_a_draw(self):
        self.draw_elsewhere()
        raise ZeroDivisionError

    def test_a_sampler_that_draws_from_the_global_generator_resumes(self):
        def batches(start_step):
            sampler = WeightedRandomSampler(torch.ones(100), num_samples=48)
            loader = DataLoader(Pairs(), batch_size=8, sampler=sampler)
            source = as_source(loader, held_out=Pairs(5, first=100))
            return numbers(take(source.training_batches(8, 3, start_step), 20 - start_step))

        assert batches(8) == batches(0)[8 * 8 :]
        assert len(set(batches(0)[:48])) < 48  # drawn with replacement


@IN_WORKERS
class TestWorkers:
    @pytest.fixture
    def source(self):
        settings = {"num_workers": 2, "shuffle": True, "persistent_workers": True}
        return as_source(DataLoader(Augmented(), batch_size=8, **settings))

    def test_their_order_is_that_of_one_process(self, source):
        in_process = as_source(DataLoader(Augmented(), batch_size=8, shuffle=True))
        by_worker, alone = (
            [int(row[0]) for x, _ in take(s.training_batches(8, seed=0), 13) for row in x]
            for s in (source, in_process)
        )
        assert by_worker == alone

    def test_a_resumed_run_draws_what_it_would_have_drawn(self, source):
        straight = everything(take(source.training_batches(8, seed=3), 18))
        resumed = everything(take(source.training_batches(8, 3, start_step=13), 5))
        assert resumed == straight[2 * 13 :]  # 13 is in the second epoch

    def test_a_stream_in_workers_draws_the_same_every_time(self):
        sources = [
            as_source(DataLoader(NoisyCounting(), batch_size=8, num_workers=2), held_out=None)
            for _ in range(2)
        ]
        first, again = (everything(take(s.training_batches(8, seed=0), 4)) for s in sources)
        assert first == again == everything(take(sources[0].training_batches(8, seed=0), 4))
        assert sources[0].fingerprint == sources[1].fingerprint


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
        ({"a": 1}, {}, r"\{'a': builtins\.int\} is no dataset.*dict of tensors"),
        ({"x": INPUTS, "y": TARGETS[:5]}, {}, r"\{'x': \(100, 1\), 'y': \(5, 1\)\} is no dataset"),
        ({"y": TARGETS}, {}, "nothing but 'y'"),
        ((INPUTS, TARGETS[:5]), {}, r"\(100, 1\), \(5, 1\) is no dataset.*two tensors"),
        ((INPUTS, TARGETS, TARGETS), {}, r"\(100, 1\), \(100, 1\), \(100, 1\) is no dataset"),
        ((INPUTS.numpy(), TARGETS.numpy()), {}, "ndarray"),
        (Constant({"x": 1, "id": "a", "b": [""]}), {}, r"no tensors: 'id' \(list\), 'b' \(list\)"),
        (Constant({}), {}, "no tensors: there are none"),
        (Constant((1.0, "a")), {}, r"a part of a batch is .*pair \(input, target\)"),
        (Constant({"label": 1}), {}, "nothing but 'label'"),
        (Constant("text"), {}, "pair"),
        (Constant((1, 2, 3)), {}, "a sample has 3 parts"),
        (DataLoader(Pairs(), batch_size=None), {}, "the DataLoader has no batch_size"),
    ],
)
def test_what_cannot_be_trained_on_is_said_at_once(data, arguments, message):
    with pytest.raises(ConfigError, match=message):
        as_source(data, **arguments)


class Once(Counting):
    """Hands out one iterator."""

    def __init__(self, length=1000):
        super().__init__(length)
        self.kept = super().__iter__()

    def __iter__(self):
        return self.kept


class OwnGenerator(Counting):
    """Draws from a generator that goes on from reading to reading."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def __iter__(self):
        return ((x + self.rng.random(), y) for x, y in super().__iter__())


def test_a_stream_that_can_be_read_once_is_refused():
    with pytest.raises(ConfigError, match="is at its end when it is read for the second time"):
        as_source(Once(40), held_out=TensorDataset(INPUTS[:, :1], TARGETS), batch_size=8)
    with pytest.raises(ConfigError, match="what is held out would be trained on"):
        as_source(Once(), held_out=None, batch_size=8)


def test_a_stream_that_differs_each_time_says_what_that_does_to_resuming():
    with pytest.raises(ConfigError, match="what is held out would be trained on"):
        as_source(OwnGenerator(), held_out=None, batch_size=8)
    held_out = TensorDataset(torch.full((64, 1), -5.0), torch.zeros(64, 1))
    source = as_source(OwnGenerator(), held_out=held_out, batch_size=8)
    assert any("goes on with other data" in note for note in source.notes)
