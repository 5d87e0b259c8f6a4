"""The Python face: a user's own torch objects in, a `Study` or a `Plan` out."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from flops_fit import Study, find_optimal, propose_budgets
from flops_fit.errors import ConfigError, PlanError, StudyError
from flops_fit.plan.experiment import Plan

FEATURES = 4


class Net(nn.Module):
    def __init__(self, width: int, out_features: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, out_features)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def waves(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (count, FEATURES) and targets (count, 1)."""
    x = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
    return x, x.abs().sum(1, keepdim=True)


class Mapped(Dataset):
    def __init__(self, count: int) -> None:
        self.x, self.y = waves(count)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


class Stream(IterableDataset):
    """Samples without end, or as many as `length`."""

    def __init__(self, length: int | None = None) -> None:
        self.length = length

    def __iter__(self):
        for block in itertools.count():
            x, y = waves(256, seed=block)
            if self.length is not None and 256 * (block + 1) > self.length:
                return
            yield from zip(x, y, strict=True)


SWEEP = {
    "model_cls": Net,
    "model_size_param": "width",
    "loss_fn": nn.functional.mse_loss,
    "compute_budgets": [2e6, 4e6],
    "batch_size": 16,
    "num_sizes": 3,
    "span": 2,
    "min_steps": 5,
    "center": 50,
}


@pytest.fixture
def sweep(tmp_path: Path) -> dict:
    return {**SWEEP, "output_dir": tmp_path / "study"}


@pytest.mark.parametrize(
    "dataset",
    [
        pytest.param(waves(20_000), id="tensors"),
        pytest.param(TensorDataset(*waves(20_000)), id="TensorDataset"),
        pytest.param(Mapped(20_000), id="map-style"),
        pytest.param(Stream(), id="stream"),
        pytest.param(DataLoader(Mapped(20_000), batch_size=16, shuffle=True), id="DataLoader"),
    ],
)
def test_every_kind_of_data_is_trained_on_to_the_planned_tokens(sweep, dataset):
    study = find_optimal(**sweep, dataset=dataset)
    assert isinstance(study, Study)
    assert [run.id for run in study] == [e.id for e in study.plan.experiments]
    assert len(study) == 6
    for run, experiment in zip(study, study.plan.experiments, strict=True):
        assert run.status == "completed"
        assert run.num_tokens == experiment.num_tokens
        assert 0 < run.loss < 10


def test_a_second_call_trains_nothing_and_a_deleted_result_only_itself(sweep):
    first = find_optimal(**sweep, dataset=waves(20_000))
    paths = sorted(sweep["output_dir"].glob("runs/*/result.json"))
    stamps = [path.stat().st_mtime_ns for path in paths]
    second = find_optimal(**sweep, dataset=waves(20_000))
    assert [run.loss for run in second] == [run.loss for run in first]
    assert [path.stat().st_mtime_ns for path in paths] == stamps
    paths[0].unlink()
    third = find_optimal(**sweep, dataset=waves(20_000))
    assert [run.loss for run in third] == [run.loss for run in first]
    assert [path.stat().st_mtime_ns for path in paths[1:]] == stamps[1:]


def test_resume_false_trains_again_and_loses_nothing(sweep):
    find_optimal(**sweep, dataset=waves(20_000))
    old = {p.parent.name: p.read_text() for p in sweep["output_dir"].glob("runs/*/result.json")}
    find_optimal(**sweep, dataset=waves(20_000), resume=False)
    kept = {
        p.parent.name: p.read_text() for p in sweep["output_dir"].rglob("superseded/*/*/*.json")
    }
    assert kept == old


@pytest.mark.parametrize(
    "left_out",
    [{"train": False}, {"dataset": None}, {"loss_fn": None}],
    ids=lambda d: next(iter(d)),
)
def test_plan_only(sweep, left_out):
    plan = find_optimal(**{**sweep, "dataset": waves(20_000), **left_out})
    assert isinstance(plan, Plan)
    assert repr(plan) == f"Plan(6 experiments, 2 budgets, total_flops={plan.total_flops:.2e})"
    assert not sweep["output_dir"].exists()


def test_predicts_where_there_is_a_law(sweep):
    wider = {"compute_budgets": [1e6, 3e6, 1e7], "num_sizes": 5, "span": 4, "learning_rate": 1e-2}
    study = find_optimal(**{**sweep, **wider}, dataset=waves(200_000))
    prediction = study.predict(1e8)
    assert prediction.num_params * prediction.num_tokens * 6 == pytest.approx(1e8)
    assert prediction.extrapolation == pytest.approx(10)
    assert study.law is not None


def test_says_why_there_is_no_law(sweep):
    study = find_optimal(**{**sweep, "compute_budgets": [2e6]}, dataset=waves(20_000))
    assert study.law is None
    with pytest.raises(StudyError, match="no law to predict with"):
        study.predict(1e9)


def test_budgets_that_are_proposed_can_be_planned_as_they_are(sweep):
    del sweep["compute_budgets"]
    data = waves(2_000)
    proposed = propose_budgets(**{**sweep, "min_steps": 50}, dataset=data)
    assert len(proposed.budgets) >= 3
    assert proposed.arguments["batch_size"] < sweep["batch_size"]
    assert any("steps of fewer samples" in note for note in proposed.notes)
    assert 0 < proposed.estimate.seconds < 3600
    assert f"{proposed}".startswith("budgets=[")
    assert not sweep["output_dir"].exists()
    plan = find_optimal(
        **{**sweep, "min_steps": 50, **proposed.arguments}, dataset=data, train=False
    )
    assert plan.budgets == proposed.budgets
    shapes = [
        [(e.budget, e.size.value, e.num_tokens) for e in each.experiments]
        for each in (plan, proposed.plan)
    ]
    assert shapes[0] == shapes[1]
    elsewhere = propose_budgets(**sweep, dataset=waves(50_000), machine="h100")
    assert elsewhere.estimate.hardware == "h100"
    with pytest.raises(ConfigError, match="no setting 'bach_size'"):
        propose_budgets(**sweep, dataset=data, bach_size=8)


def test_compute_budgets_are_required():
    with pytest.raises(PlanError, match="compute_budgets"):
        find_optimal(model_cls=Net, model_size_param="width")


def test_a_misspelt_argument_is_refused(sweep):
    with pytest.raises(
        ConfigError, match="no setting 'learning_rat': did you mean 'learning_rate'"
    ):
        find_optimal(**sweep, dataset=waves(100), learning_rat=1e-3)


def test_a_misspelt_model_argument_is_refused(sweep):
    with pytest.raises(ConfigError, match="out_featurs"):
        find_optimal(**sweep, dataset=waves(20_000), model_kwargs={"out_featurs": 1})


def test_model_without_the_size_argument(sweep):
    with pytest.raises(ConfigError, match="takes no argument 'hidden'"):
        find_optimal(**{**sweep, "model_size_param": "hidden"}, dataset=waves(20_000))


def test_shapes_that_do_not_fit_are_named_before_training(sweep):
    x, y = waves(20_000)
    with pytest.raises(ConfigError, match=r"input \(16, 3\) float32"):
        find_optimal(**sweep, dataset=(x[:, :3], y))
    assert not sweep["output_dir"].exists()


def test_epochs_limits_how_often_data_repeats(sweep):
    plan = find_optimal(**sweep, dataset=waves(20_000), train=False)
    assert max(e.epochs for e in plan.experiments) < 1
    with pytest.raises(PlanError, match="more than max_epochs=1"):
        find_optimal(**sweep, dataset=waves(1000), epochs=1)


def test_a_loader_keeps_its_batch_size(sweep):
    loader = DataLoader(Mapped(20_000), batch_size=24)
    plan = find_optimal(**sweep, dataset=loader, train=False)
    assert {e.batch_size for e in plan.experiments} == {24}


def test_a_stream_that_ends_early_is_a_failed_run(sweep):
    study = find_optimal(**sweep, dataset=Stream(length=2048))
    failed = [run for run in study if run.status == "failed"]
    assert failed
    assert all("the data ended after" in run.error for run in failed)


def test_held_out_dataset_of_its_own(sweep):
    study = find_optimal(**sweep, dataset=waves(20_000), held_out=waves(500, seed=1))
    assert all(run.held_out_samples <= 500 for run in study)


def test_other_rate_or_data_is_another_run(sweep):
    ids = [
        {e.id for e in find_optimal(**sweep, train=False, **changed).experiments}
        for changed in (
            {"dataset": waves(20_000)},
            {"dataset": waves(20_000), "learning_rate": 1e-2},
            {"dataset": waves(20_000, seed=1)},
            {"dataset": waves(20_000), "seed": 1},
        )
    ]
    assert all(not a & b for a, b in itertools.combinations(ids, 2))


def test_changed_code_under_an_old_name_is_a_warning(sweep, tmp_path, monkeypatch):
    code = "from torch.nn.functional import mse_loss\n\n\ndef loss(output, target):\n    return "
    module = tmp_path / "fickle.py"
    module.write_text(code + "mse_loss(output, target)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fickle = importlib.import_module("fickle")
    find_optimal(**{**sweep, "loss_fn": fickle.loss}, dataset=waves(20_000))
    module.write_text(code + "2 * mse_loss(output, target)\n")
    fickle = importlib.reload(fickle)
    with pytest.warns(UserWarning, match=r"the code of fickle\.loss has changed"):
        find_optimal(**{**sweep, "loss_fn": fickle.loss}, dataset=waves(20_000))
