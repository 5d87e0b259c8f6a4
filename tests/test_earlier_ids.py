"""Ids made by an earlier version are made again: its runs are found by the same commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from stored_net import StoredNet, mean_squared, rows

from flops_fit import WSD, find_optimal
from flops_fit.building.from_config import build_spec
from flops_fit.cli.schema import register_schemas
from flops_fit.cli.verbs import VERBS
from flops_fit.cli.words import for_hydra
from flops_fit.files import shipped_configs
from flops_fit.settings import SweepSettings, from_plain
from flops_fit.store.folder import StudyFolder

ASSETS = Path(__file__).parent / "assets"
COMMANDS = json.loads((ASSETS / "ids.json").read_text())
CALLS = json.loads((ASSETS / "python_ids.json").read_text())


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: " ".join(case["words"][-2:]))
def test_of_a_command(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 50, 20_000)
    tokens.astype(np.uint16).tofile(tmp_path / "tokens.bin")
    register_schemas()
    words = for_hydra(VERBS["plan"], [*case["words"], "study=earlier"])
    with initialize_config_dir(str(shipped_configs()), version_base="1.3"):
        config = OmegaConf.to_container(compose("plan", words), resolve=True)
    spec = build_spec(from_plain(SweepSettings, config), {})
    plan = spec.prepare(StudyFolder(tmp_path / "study")).plan
    assert [e.id for e in plan.experiments] == case["ids"]


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
