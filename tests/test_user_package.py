"""A stranger's folder: own model, dataset, loss and configs, used with the installed command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILES = {
    "my_package/__init__.py": "",
    "my_package/parts.py": '''
import torch
from torch import nn
from torch.utils.data import Dataset


class Ridge(nn.Module):
    """Random features of a hidden size, then a linear layer; both are trained."""

    def __init__(self, hidden, in_features, act):
        super().__init__()
        self.inside = nn.Linear(in_features, hidden)
        self.outside = nn.Linear(hidden, 1)
        self.act = getattr(torch, act)

    def forward(self, x):
        return self.outside(self.act(self.inside(x)))


class Bumps(Dataset):
    def __init__(self, samples, dim):
        self.x = torch.randn(samples, dim, generator=torch.Generator().manual_seed(1))
        self.y = self.x.abs().sum(1, keepdim=True)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def huber(output, target):
    return nn.functional.huber_loss(output, target)
''',
    "conf/model/ridge.yaml": """
_target_: my_package.parts.Ridge
size: {name: hidden, min: 2, max: 512}
in_features: ${dataset.dim}
act: relu
""",
    "conf/dataset/bumps.yaml": """
_target_: my_package.parts.Bumps
samples: 100000
dim: 6
""",
    "conf/loss/huber.yaml": """
_target_: my_package.parts.huber
_partial_: true
""",
}

WORDS = ["model=ridge", "dataset=bumps", "loss=huber", "budgets=3e6,1e7,3e7", "center=100"]
WORDS += ["span=4", "num_sizes=5", "min_steps=20", "optimizer.lr=1e-2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def flops_fit(folder: Path, *words: str) -> str:
    """Standard output of the console script, run in the folder."""
    script = Path(sys.executable).parent / "flops-fit"
    done = subprocess.run([script, *words], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_planned_trained_and_fitted_in_two_processes(folder):
    plan = json.loads(flops_fit(folder, "plan", *WORDS, "json=true"))
    assert len(plan["experiments"]) == 15
    law = json.loads(flops_fit(folder, "train", *WORDS, "workers=2", "json=true"))
    assert len(law["rows_used"]) == 15
    again = json.loads(flops_fit(folder, "fit", "json=true"))
    assert again["surface"] == law["surface"]
    assert (folder / "outputs/ridge-bumps/latest/figures/isoflop.png").exists()
    status = json.loads(flops_fit(folder, "status", "json=true"))
    assert (status["completed"], status["missing"], status["failed"]) == (15, 0, 0)
