"""Two studies of `gpu_check` through `flops_fit.find_optimal`, each a program of its own.

python gpu_nets.py uncapturable|dropout --device DEVICE --folder FOLDER --steps STEPS
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flops_fit import find_optimal

FEATURES = 8
BATCH_SIZE = 64
NO_RATE = 1e-30
"""A learning rate that moves no weight of size 1e-6 or more in fp32."""


class ReadsDevice(nn.Module):
    """What it computes depends on a number that Python reads, so no graph can be captured of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()  # (B, width)
        if not x.is_meta and hidden.mean().item() > 1.0:
            hidden = hidden / 2
        y: Tensor = self.last(hidden)
        return y


class Drops(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.dropout(self.first(x).relu()))
        return y


def rows(*, equal: bool) -> tuple[Tensor, Tensor]:
    """Inputs (4096, FEATURES) and targets (4096, 1): any, or one row again and again."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, FEATURES, generator=generator)
    if equal:
        x = x[:1].expand_as(x).contiguous()
    return x, x.sum(1, keepdim=True).sin()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("uncapturable", "dropout"))
    parser.add_argument("--device", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    asked = parser.parse_args()
    drops = asked.what == "dropout"
    widths = [32] if drops else [16, 32]
    num_params = widths[0] * (FEATURES + 2) + 1
    find_optimal(
        model_cls=Drops if drops else ReadsDevice,
        model_size_param="width",
        dataset=rows(equal=drops),
        loss_fn=F.mse_loss,
        compute_budgets=[6.0 * num_params * BATCH_SIZE * asked.steps],
        optimizer_cls=partial(torch.optim.SGD) if drops else torch.optim.AdamW,
        learning_rate=NO_RATE if drops else 1e-3,
        sizes=widths,
        batch_size=BATCH_SIZE,
        max_epochs=1e6,
        min_steps=1,
        device=asked.device,
        precision="fp32",
        draws=0,
        output_dir=asked.folder,
    )


if __name__ == "__main__":
    main()
