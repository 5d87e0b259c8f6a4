"""Every kind of data in the real training loop, stopped and resumed."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_study import WatchedLoss, outcome, planned, rows
from torch.utils.data import DataLoader, Dataset, IterableDataset

from flops_fit.datasets import as_source
from flops_fit.store.protocols import Unwatched
from flops_fit.training.trainer import train


class Augmented(Dataset):
    """Rows, shifted at random by each of the three global generators."""

    def __init__(self):
        self.x, self.y = rows()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        shift = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return (self.x[index] + 0.1 * shift).float(), self.y[index]


class AugmentedStream(IterableDataset):
    """The same without numbers, five times over."""

    def __iter__(self):
        data = Augmented()
        return (data[index % len(data)] for index in range(5 * len(data)))


def loader(num_workers):
    settings = {"num_workers": num_workers, "shuffle": True}
    return as_source(DataLoader(Augmented(), batch_size=16, **settings))


DATA = {
    "dataset": lambda: as_source(Augmented(), batch_size=16),
    "loader": lambda: loader(num_workers=0),
    "loader with workers": lambda: loader(num_workers=2),
    "stream": lambda: as_source(AugmentedStream(), held_out=None, batch_size=16),
    "named tensors": lambda: as_source(dict(zip("xy", rows(), strict=True)), batch_size=16),
}


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("data", DATA)
def test_a_stopped_run_ends_as_it_would_have_without_the_stop(data, tmp_path):
    plan, recipe = planned(tmp_path / "whole", source=DATA[data]())
    experiment = plan.experiments[0]
    whole = train(experiment, recipe, tmp_path / "whole", Unwatched())
    assert whole.num_steps > 2 * 36  # of an epoch

    watcher = Unwatched()

    def stop(loss):
        watcher.stop_requested = True
        return loss

    _, recipe = planned(tmp_path / "a", source=DATA[data]())
    with pytest.raises(KeyboardInterrupt):
        train(experiment, replace(recipe, loss=WatchedLoss(50, stop)), tmp_path / "a", watcher)
    _, recipe = planned(tmp_path / "a", source=DATA[data]())
    rest = WatchedLoss()
    resumed = train(experiment, replace(recipe, loss=rest), tmp_path / "a", Unwatched())
    assert outcome(resumed) == outcome(whole)
    assert len(rest.values) == whole.num_steps - 50
