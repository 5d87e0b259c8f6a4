"""Scripts that ask for results under names of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_runs import completed_run, experiment

from flops_fit.plan.experiment import Size

SCRIPT = """
import torch
from torch import nn
from flops_fit import find_optimal


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x)


x = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
sweep = {
    "model_cls": Net,
    "model_size_param": "width",
    "compute_budgets": [1e6, 2e6],
    "sizes": [2, 4, 8],
    "min_steps": 10,
    "dataset": (x, x.abs().sum(1, keepdim=True)),
    "loss_fn": nn.functional.mse_loss,
    "output_dir": "out",
}
plan = find_optimal(**sweep, train=False)
print(plan.num_experiments, plan.total_flops)
for exp in plan.experiments:
    print(exp.num_params, exp.num_tokens, exp.compute_budget)
    print(exp.experiment_id, exp.size_param_value, exp.tokens_per_param)
results = find_optimal(**sweep)
for result, exp in zip(results, plan.experiments):
    print(result['model_size'], result['final_loss'])
    print(result['actual_flops'], result['wall_time_seconds'])
    assert result['status'] == result.status == "completed"
    assert result['error_message'] is None
    assert result['experiment_id'] == exp.experiment_id
    assert result['compute_budget'] == exp.compute_budget
    assert result['num_tokens'] == exp.num_tokens
    assert result['model_size'] == exp.num_params == exp.size_param_value * 6 + 1
    assert result['actual_flops'] == 6 * result['model_size'] * result['num_tokens']
    assert 0 < result['final_loss'] < 20 and result['wall_time_seconds'] > 0
"""


def test_a_script_of_a_user_runs_as_it_is_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert int(first.split()[0]) * 4 == len(lines) == 24


def test_a_run_answers_to_our_names_and_to_theirs():
    run = completed_run(error="said")
    assert (run["num_params"], run["loss"], run["error"]) == (100, 0.5, "said")
    assert run["tokens_per_param"] == run.num_tokens / 100
    for theirs, ours in {
        "experiment_id": "id",
        "model_size": "num_params",
        "final_loss": "loss",
        "compute_budget": "budget",
        "actual_flops": "flops",
        "error_message": "error",
    }.items():
        assert run[theirs] == getattr(run, theirs) == run[ours]
        assert theirs not in run.to_json()


def test_an_experiment_answers_to_theirs_too():
    shape = {"width": 8, "depth": 2}
    planned = experiment("C1-N2-3", size=Size("shape", shape))
    assert planned.experiment_id == "C1-N2-3"
    assert (planned.compute_budget, planned.size_param_value) == (1e9, shape)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("final_los", "no 'final_los': did you mean 'final_loss'"),
        ("num_param", "no 'num_param': did you mean 'num_params'"),
        ("to_json", "no 'to_json': It has id, status"),
        ("__class__", "no '__class__'"),
        (0, "a Run has no 0"),
    ],
)
def test_another_name_is_an_error_that_guesses(name, message):
    with pytest.raises(KeyError, match=message):
        completed_run()[name]
