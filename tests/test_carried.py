"""What models carry from step to step in plain attributes goes into checkpoints and out of them."""

from collections import deque

import pytest
import torch
from small_study import IN_FEATURES, WatchedLoss, outcome, planned, small_sweep
from torch import nn

from flops_fit.errors import StudyError, StudyWarning
from flops_fit.store.protocols import Unwatched
from flops_fit.training.carried import Carried
from flops_fit.training.trainer import train


class Remembering(nn.Module):
    """Hands a mean of what it has seen to the next step, in one of the ways people do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(IN_FEATURES, width), nn.Linear(width, 1)
        self.steps = 0

    def forward(self, x):
        h = torch.tanh(self.first(x))
        seen = self.recalled(h)
        if self.training:
            self.keep((0.9 * seen + 0.1 * h.mean(0)).detach())
            self.steps += 1
        return self.last(h + seen) / (1 + self.steps)

    def recalled(self, h):
        return self.state if hasattr(self, "state") else torch.zeros_like(h[0])

    def keep(self, seen):
        self.state = seen


class InPlace(Remembering):
    def __init__(self, width):
        super().__init__(width)
        self.state = torch.zeros(width)

    def keep(self, seen):
        self.state.copy_(seen)


class Pair(Remembering):
    """As an LSTM's."""

    hidden = None

    def recalled(self, h):
        return torch.zeros_like(h[0]) if self.hidden is None else self.hidden[0] + self.hidden[1]

    def keep(self, seen):
        self.hidden = (seen / 3, seen / 5)


class Queue(Remembering):
    def __init__(self, width):
        super().__init__(width)
        self.last.memory = deque(maxlen=3)

    def recalled(self, h):
        return sum(self.last.memory, torch.zeros_like(h[0]))

    def keep(self, seen):
        self.last.memory.append(seen / 4)


@pytest.mark.parametrize("factory", [Remembering, InPlace, Pair, Queue])
def test_a_run_that_was_stopped_goes_on_with_what_its_model_carried(factory, tmp_path):
    parts = {"factory": factory, "sweep": small_sweep()}
    plan, recipe = planned(tmp_path, **parts)
    experiment = plan.experiments[0]
    whole = train(experiment, recipe, tmp_path / "whole", Unwatched())
    watcher = Unwatched()

    def stop(loss):
        watcher.stop_requested = True
        return loss

    stopped = planned(tmp_path, **parts, loss=WatchedLoss(40, stop))[1]
    rest = planned(tmp_path, **parts, loss=WatchedLoss())[1]
    for one in (stopped, rest):
        one.loss.values.clear()
    with pytest.raises(KeyboardInterrupt):
        train(experiment, stopped, tmp_path / "parts", watcher)
    again = train(experiment, rest, tmp_path / "parts", Unwatched())
    assert outcome(again) == outcome(whole)
    assert len(rest.loss.values) == whole.num_steps - 40


def test_what_no_step_changes_is_not_in_the_checkpoint():
    model = InPlace(8)
    model.table, model.first.name = torch.arange(8), "first"
    carried = Carried.now(model)
    model.eval()(torch.zeros(2, IN_FEATURES))
    assert carried.changed() == {}
    model.train()(torch.ones(2, IN_FEATURES))
    assert sorted(carried.changed()) == ["state", "steps"]


def test_more_than_the_model_itself_is_said_and_left_out(monkeypatch):
    monkeypatch.setattr("flops_fit.training.carried.MOST_BYTES", 0)
    model = nn.Linear(2, 2)
    carried = Carried.now(model)
    model.attention = torch.zeros(100)
    with pytest.warns(StudyWarning, match="attention: attributes of the model with .* MB"):
        assert carried.changed() == {}


@pytest.mark.parametrize(
    "content",
    [[1], {"forward": 1}, {"nothing.state": 1}, {"_parameters": {}}, {"__class__": 1},
     {"state": object()}],
)  # fmt: skip
def test_a_checkpoint_can_not_set_what_no_model_carries(content):
    with pytest.raises(StudyError, match="carries"):
        Carried.now(InPlace(8)).restore(content, torch.device("cpu"))
