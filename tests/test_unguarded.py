"""Scripts whose processes would each start further ones are told what to do, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from torch import nn
from flops_fit import find_optimal


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x):
        return self.net(x)


def train():
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    sweep = dict(compute_budgets=[2e5], sizes=[4, 8], min_steps=5, max_epochs=100, draws=0)
    mse = nn.functional.mse_loss
    study = find_optimal(
        Net, "width", dataset=(x, x.sum(1, keepdim=True)), loss_fn=mse, device="cpu", WAY, **sweep
    )
    print([run.error or "completed" for run in study])


GUARD
"""


def ran(folder: Path, way: str, guard: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT.replace("WAY", way).replace("GUARD", guard))
    words = [sys.executable, str(script)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["workers=2", "gpus_per_run=2"])
def test_a_script_that_is_not_guarded_is_told_to_be(tmp_path, way):
    done = ran(tmp_path, way, "train()")
    said = done.stdout + done.stderr
    assert 'put the call under `if __name__ == "__main__":`' in said
    assert "bootstrapping phase" not in said
    assert "BrokenPipeError" not in said
    assert not list(tmp_path.glob("outputs/*/runs/*/checkpoint.pt"))
    done = ran(tmp_path, way, 'if __name__ == "__main__":\n    train()')
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['completed', 'completed']\n"


@pytest.mark.slow
def test_the_same_in_a_process_of_others(tmp_path):
    others = """
import multiprocessing
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
else:
    train()
"""
    done = ran(tmp_path, "workers=1", others)
    assert "ConfigError: each process that is started begins by running your script" in done.stderr
