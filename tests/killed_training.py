"""Train the small study in forked children, killing each after a moment; prints the kills.

Imports torch once, so that a child starts in no time. Arguments: folder, number of kills, seed.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from small_study import planned, small_sweep

from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.spec import torch_trainer

SHORTEST, LONGEST = 0.01, 0.15  # seconds that a child may live


def train_small_study(path: Path, checkpoint_seconds: float) -> None:
    torch.set_num_threads(1)
    folder = StudyFolder(path)
    sweep = small_sweep(budgets=(2e6, 4e6))
    plan, recipe = planned(path, sweep=sweep, checkpoint_seconds=checkpoint_seconds)
    train_plan(plan, folder, Inline(torch_trainer(recipe, folder), folder), Unwatched())


def killed_child(path: Path, seconds: float) -> bool:
    """Whether the child was killed before it was through."""
    child = os.fork()
    if child == 0:
        train_small_study(path, checkpoint_seconds=0.005)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    draw = random.Random(seed)
    print(sum(killed_child(folder, draw.uniform(SHORTEST, LONGEST)) for _ in range(kills)))
    train_small_study(folder, checkpoint_seconds=30.0)
