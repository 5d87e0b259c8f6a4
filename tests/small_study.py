"""A study that trains in a fraction of a second, and parts that notice what is done to them."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flops_fit.datasets.adapters import as_source
from flops_fit.learning.schedules import Cosine
from flops_fit.plan.sweep import Sweep
from flops_fit.store.folder import StudyFolder
from flops_fit.training.family import SizeSpec
from flops_fit.training.spec import StudySpec, plan_study

IN_FEATURES = 4
ADAMW = partial(torch.optim.AdamW, lr=0.01)


class Net(nn.Module):
    """Two layers and dropout; nothing declared."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(IN_FEATURES, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class WatchedLoss:
    """Mean squared error that keeps its values in training and gives the one of `at` to `act`."""

    def __init__(
        self, at: int | None = None, act: Callable[[Tensor], Tensor] = lambda loss: loss
    ) -> None:
        self.at = at
        self.act = act
        self.values: list[float] = []

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        loss = F.mse_loss(prediction, target)
        if torch.is_grad_enabled():
            self.values.append(float(loss.detach()))
            if len(self.values) == self.at:
                return self.act(loss)
        return loss


def rows(num_rows: int = 640, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A wave in four dimensions with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, IN_FEATURES, generator=generator)
    noise = torch.randn(num_rows, 1, generator=generator)
    return x, torch.sin(2 * x.sum(dim=1, keepdim=True)) + 0.1 * noise


def small_sweep(**changes: object) -> Sweep:
    """Six runs of 21 to 170 steps."""
    knobs = {
        "budgets": (2e5, 4e5),
        "batch_size": 16,
        "sizes": (4, 8, 16),
        "min_steps": 10,
        "max_epochs": 100.0,
    }
    return Sweep(**{**knobs, **changes})


def small_spec(**changes: object) -> StudySpec:
    parts = {
        "factory": Net,
        "size": SizeSpec("width", max=64),
        "source": as_source(rows()),
        "loss": F.mse_loss,
        "optimizer": ADAMW,
        "schedule": Cosine(),
        "sweep": small_sweep(),
        "identity": {},
        "device": "cpu",
    }
    return StudySpec(**{**parts, **changes})


def planned(folder, **changes):
    """Plan and recipe of the small study with some parts changed."""
    return plan_study(small_spec(**changes), StudyFolder(folder))


def outcome(run):
    """What of a run is the same however often, wherever and how interrupted it is trained."""
    return run.id, run.status, run.num_tokens, run.flops, run.loss, run.loss_stderr, run.train_loss
