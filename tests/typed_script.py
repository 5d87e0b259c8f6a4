"""A user's script, for mypy --strict alone: every type is as they would write it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from flops_fit import (
    WSD,
    Answer,
    Plan,
    Proposed,
    Run,
    ScalingLaw,
    Study,
    find_optimal,
    fit_table,
    load_law,
    propose_budgets,
)


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


def mean_squared(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((output - target) ** 2).mean()


x = torch.randn(100, 8)
plan: Plan = find_optimal(model_cls=Net, model_size_param="width", compute_budgets=[1e9])
for experiment in plan.experiments:
    num_params: int = experiment.num_params
    num_tokens: int = experiment.num_tokens

planned: Plan = find_optimal(
    model_cls=Net,
    model_size_param="width",
    dataset=(x, x[:, :1]),
    loss_fn=mean_squared,
    compute_budgets=[1e9],
    train=False,
)
proposed: Proposed = propose_budgets(
    model_cls=Net,
    model_size_param="width",
    dataset=(x, x[:, :1]),
    loss_fn=mean_squared,
    machine="h100",
    num_sizes=5,
)
budgets: tuple[float, ...] = proposed.budgets
seconds: float | None = proposed.estimate.seconds
study: Study = find_optimal(
    model_cls=Net,
    model_size_param="width",
    dataset=(x, x[:, :1]),
    loss_fn=mean_squared,
    compute_budgets=[1e9],
    schedule=WSD(),
    learning_rate_rule=lambda num_params, num_tokens: 0.01,
    metrics={"again": mean_squared},
    workers=2,
    fit="isoflop",
    draws=100,
    output_dir=Path("outputs/typed"),
)
runs: list[Run] = list(study)
loss: float | None = study.runs[0].loss
answer: Answer = study.predict(1e12)
best: float = answer.num_params
measured: float = study.verify(1e12).measured
files: list[Path] = study.report()
opened: Study = Study.open("outputs/typed")
law: ScalingLaw = load_law(Path("outputs/typed"))
table: Study = fit_table("runs.csv", columns={"loss": "val_loss"}, where="kind = a")

# What is wrong is said by the checker: strict mode refuses an ignore that is not needed.
find_optimal(model_cls=Net, model_size_param="width", compute_budgets=[1e9], batch_sise=3)  # type: ignore[call-overload]
find_optimal(model_cls=Net, model_size_param="width", compute_budgets=1e9)  # type: ignore[call-overload]
propose_budgets(model_cls=Net, model_size_param="width", dataset=x)  # type: ignore[call-arg]
study.predict("1e9")  # type: ignore[arg-type]
fit_table("runs.csv", colums={})  # type: ignore[call-arg]
