"""Ids made by an earlier version are made again: its runs are found by the same commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_net import StoredNet, mean_squared, rows

from flops_fit import WSD, find_optimal
from flops_fit.building.from_config import build_spec
from flops_fit.cli.compose import values_of
from flops_fit.cli.verbs import VERBS
from flops_fit.cli.words import for_hydra
from flops_fit.settings import SweepSettings, from_plain
from flops_fit.store.folder import StudyFolder

ASSETS = Path(__file__).parent / "assets"
COMMANDS = json.loads((ASSETS / "ids.json").read_text())
CALLS = json.loads((ASSETS / "python_ids.json").read_text())


def planned(words):
    """Experiments that `flops-fit plan` makes of these words."""
    values = values_of("plan", for_hydra(VERBS["plan"], [*words, "study=earlier"]))
    spec = build_spec(from_plain(SweepSettings, values), {})
    return spec.prepare(StudyFolder(Path("study"))).plan.experiments


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: " ".join(case["words"][-2:]))
def test_of_a_command(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 50, 20_000)
    tokens.astype(np.uint16).tofile(tmp_path / "tokens.bin")
    assert [e.id for e in planned(case["words"])] == case["ids"]


@pytest.mark.parametrize("case", CALLS, ids=lambda case: str(case["kwargs"]))
def test_of_a_call(case, tmp_path):
    objects = {"WSD()": WSD(), "torch.optim.SGD": torch.optim.SGD}
    keywords = {
        name: objects.get(value, value) if isinstance(value, str) else value
        for name, value in case["kwargs"].items()
    }
    sweep = {"num_sizes": 3, "span": 2, "center": 60, "min_steps": 10, "device": "cpu"}
    plan = find_optimal(
        model_cls=StoredNet,
        model_size_param="width",
        dataset=rows(),
        loss_fn=mean_squared,
        compute_budgets=[1e6, 3e6],
        train=False,
        output_dir=tmp_path,
        **sweep,
        **keywords,
    )
    assert [e.id for e in plan.experiments] == case["ids"]


def test_of_the_trunks_that_runs_share(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (stored,) = ASSETS.glob("studies/trunks/plans/*/plan.json")
    earlier = json.loads(stored.read_text(encoding="utf-8"))["experiments"]
    words = ["model=mlp", "dataset=toy", "budgets=[1e7,3e7,1e8]", "batch_size=64", "num_sizes=3"]
    words += ["span=4", "center=100", "min_steps=10", "schedule=wsd", "share_trunks=true"]
    assert {e.trunk for e in planned(words)} == {e["trunk"] for e in earlier}
    assert len({e["trunk"] for e in earlier}) == len({e["num_params"] for e in earlier})


def test_there_is_no_trunk_where_none_is_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["model=mlp", "dataset=toy", "budgets=[1e7]", "num_sizes=3", "min_steps=10"]
    assert {e.trunk for e in planned(words)} == {""}
