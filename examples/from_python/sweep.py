"""A law of small networks from Python objects, then a run that puts it to the test."""

import torch
from torch import nn

from flops_fit import find_optimal


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x)


x = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(0))
y = x.abs().sum(1, keepdim=True)

study = find_optimal(
    model_cls=Net,
    model_size_param="width",
    dataset=(x, y),
    loss_fn=nn.functional.mse_loss,
    compute_budgets=[3e6, 1e7, 3e7],
    learning_rate=1e-2,
    center=100,  # tokens per parameter in the middle of the grid
    span=4,
    num_sizes=5,
    output_dir="outputs/net",
)
for run in study:
    print(f"{run.budget:.0e} {run.size.label:>4} {run.loss:.4f}")
if study.law:
    print(study.law.diagnostics.verdict)
    print(study.predict(1e8))
    print(study.verify(1e8))
