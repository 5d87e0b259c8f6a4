"""Every setting, from both faces: it arrives, and changes runs' ids as its kind says."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from stored_net import StoredNet, mean_squared, rows
from torch.nn import functional as F

from flops_fit import find_optimal
from flops_fit.building.from_config import build_spec
from flops_fit.cli.compose import values_of
from flops_fit.cli.schema import schema
from flops_fit.cli.verbs import VERBS
from flops_fit.cli.words import for_hydra
from flops_fit.errors import ConfigError
from flops_fit.files import shipped_configs
from flops_fit.learning.schedules import WSD, Constant
from flops_fit.plan.experiment import Plan
from flops_fit.plan.rules import PowerRule
from flops_fit.settings import (
    FaceSettings,
    Kind,
    Setting,
    SweepSettings,
    declared,
    from_plain,
    plain,
    stored,
)
from flops_fit.store.folder import StudyFolder
from flops_fit.training.family import SizeSpec
from flops_fit.training.kernels import KernelPlan
from flops_fit.training.spec import StudySpec

ROOT = Path(__file__).parent.parent

SMALL = ["model=mlp", "dataset=toy", "budgets=[1e7,2e7]", "num_sizes=3", "min_steps=10"]
SMALL += ["device=cpu", "study=small", "held_out_samples=64"]  # else it follows from the plan


@dataclass(frozen=True)
class Case:
    """Another value of a setting: `words` of the command line, `keyword` from Python.

    `arrives` says where the value must be found: of the spec, and what must be there.
    """

    words: tuple[str, ...]
    keyword: Any = None
    arrives: Any = None
    also: tuple[str, ...] = ()  # words that both the changed and the unchanged sweep have
    also_keywords: Any = None


def of_spec(name: str, value: Any):
    return lambda spec, plan: (getattr(spec, name), value)


def of_sweep(name: str, value: Any):
    return lambda spec, plan: (getattr(spec.sweep, name), value)


def of_plan(holds):
    return lambda spec, plan: (holds(plan), True)


def kept(name: str, value: Any):
    """In the settings that are stored with the plan, where verbs and workers read it."""
    return lambda spec, plan: (getattr(plan.settings, name), value)


def rates(plan: Plan) -> list[float | None]:
    return [e.learning_rate for e in plan.experiments]


WSD_WORDS, WSD_KEYWORDS = ("schedule=wsd",), {"schedule": WSD()}
MAE = "+metrics.mae={_target_: torch.nn.functional.l1_loss, _partial_: true}"

CASES: dict[str, Case] = {
    "model": Case(("model.depth=2",), arrives=of_plan(lambda p: p.settings.model["depth"] == 2)),
    "dataset": Case(("dataset.noise=0.1",), arrives=lambda s, p: (s.source.noise, 0.1)),
    "loss": Case(
        ("loss._target_=torch.nn.functional.l1_loss",), arrives=of_spec("loss", F.l1_loss)
    ),
    "optimizer": Case(
        ("optimizer.lr=0.5",), arrives=lambda s, p: (s.optimizer.keywords["lr"], 0.5)
    ),
    "schedule": Case(("schedule=constant",), Constant(), lambda s, p: (type(s.schedule), Constant)),
    "trainer": Case(
        (
            "trainer=command", "trainer.command=echo {size} {num_tokens}", "study=small",
            "trainer.sizes=[{size:8,num_params:80},{size:16,num_params:300}]", "sizes=[8,16]",
        ),
        arrives=lambda s, p: (s.trainer.command, "echo {size} {num_tokens}"),
    ),
    "learning_rate_rule": Case(
        ("learning_rate_rule=power", "learning_rate_rule.coefficient=0.2"), PowerRule(0.2),
        lambda s, p: (set(rates(p)), {0.2}),
    ),
    "batch_rule": Case(
        ("batch_rule=power", "batch_rule.coefficient=32"), PowerRule(32),
        of_plan(lambda p: {e.batch_size for e in p.experiments} == {32}),
    ),
    "metrics": Case((MAE,), {"mae": F.l1_loss}, lambda s, p: (list(s.metrics), ["mae"])),
    "budgets": Case(("budgets=[1e7,4e7]",), arrives=of_plan(lambda p: p.budgets == (1e7, 4e7))),
    "sizes": Case(("sizes=[8,16]",), [8, 16], of_sweep("sizes", (8, 16))),
    "num_sizes": Case(("num_sizes=5",), 5, of_sweep("num_sizes", 5)),
    "ladder": Case(("ladder=true",), True, of_sweep("ladder", True)),
    "span": Case(("span=3",), 3.0, of_sweep("span", 3.0)),
    "center": Case(("center=33",), 33.0, of_sweep("center", 33.0)),
    "min_steps": Case(("min_steps=60",), 60, of_sweep("min_steps", 60)),
    "max_epochs": Case(("max_epochs=7",), 7.0, of_sweep("max_epochs", 7.0)),
    "seeds": Case(("seeds=2",), 2, of_plan(lambda p: {e.seed for e in p.experiments} == {0, 1})),
    "flops": Case(
        ("flops=counted",), "counted",
        of_plan(lambda p: {e.flops / e.flops_counted for e in p.experiments} == {1}),
    ),
    "flops_per_param_per_token": Case(
        ("flops_per_param_per_token=5",), 5.0,
        of_plan(lambda p: all(e.flops_per_token == 5 * e.num_params for e in p.experiments)),
    ),
    "batch_size": Case(("batch_size=32",), 32, of_sweep("batch_size", 32)),
    "seed": Case(("seed=3",), 3, of_sweep("seed", 3)),
    "data_seed": Case(("data_seed=3",), 3, of_sweep("data_seed", 3)),
    "clip_grad_norm": Case(("clip_grad_norm=0.5",), 0.5, of_spec("clip_grad_norm", 0.5)),
    "share_trunks": Case(
        ("share_trunks=true",), True, of_plan(lambda p: all(e.trunk for e in p.experiments)),
        WSD_WORDS, WSD_KEYWORDS,
    ),
    "micro_batch_size": Case(("micro_batch_size=16",), 16, of_spec("micro_batch_size", 16)),
    "held_out": Case(("held_out=0.2",), 0.2, kept("held_out", 0.2)),
    "held_out_samples": Case(("held_out_samples=128",), 128, of_spec("held_out_samples", 128)),
    "tokens_per_sample": Case(
        ("tokens_per_sample=2",), 2, kept("tokens_per_sample", 2)
    ),
    "device": Case(("device=cpu",), "cpu", of_spec("device", "cpu")),
    "precision": Case(("precision=bf16",), "bf16", of_spec("precision", "bf16")),
    "kernels": Case(
        ("kernels={matmul: default, attention: fused}",),
        {"matmul": "default", "attention": "fused"},
        of_spec("kernels", KernelPlan("default", "fused")),
    ),
    "compile_above": Case(("compile_above=1e30",), 1e30, of_spec("compile_above", 1e30)),
    "cuda_graphs": Case(("cuda_graphs=false",), False, of_spec("cuda_graphs", False)),
    "together": Case(("together=false",), False, of_spec("together", False)),
    "runs_per_gpu": Case(("runs_per_gpu=2",), 2, kept("runs_per_gpu", 2)),
    "workers": Case(("workers=2",), 2, kept("workers", 2)),
    "threads": Case(("threads=2",), 2, kept("threads", 2)),
    "rank": Case(("rank=1", "of=2"), arrives=kept("rank", None)),  # no plan keeps it
    "of": Case(("rank=0", "of=2"), arrives=kept("of", None)),
    "gpus_per_run": Case(("gpus_per_run=2",), 2, kept("gpus_per_run", 2)),
    "spread": Case(("spread=shards",), "shards", kept("spread", "shards")),
    "retry": Case(("retry=diverged",), "diverged", kept("retry", "diverged")),
    "timeout_seconds": Case(("timeout_seconds=9e4",), 9e4, kept("timeout_seconds", 9e4)),
    "fail_fast": Case(("fail_fast=true",), True, kept("fail_fast", True)),
    "checkpoint_seconds": Case(("checkpoint_seconds=5",), 5.0, of_spec("checkpoint_seconds", 5.0)),
    "logger": Case(  # of the training at hand alone: no plan keeps it
        ("logger=tensorboard",), "tensorboard", kept("logger", None)
    ),
    "executor": Case(("executor=slurm",), "slurm", kept("executor", None)),  # likewise
    "dry_run": Case(("dry_run=true",), arrives=kept("dry_run", False)),
    "fit": Case(
        ("fit=isoflop",),
        arrives=of_plan(lambda p: p.settings.fit["_target_"] == "flops_fit.fitting.IsoflopFit"),
    ),
    "draws": Case(("draws=7",), 7, kept("draws", 7)),
    "study": Case(("study=other",), arrives=kept("study", "other")),
    "output_root": Case(("output_root=elsewhere",), arrives=kept("output_root", "elsewhere")),
    "json": Case(("json=true",), arrives=kept("json", True)),
    "predicted": Case(("predicted=said.json",), arrives=kept("predicted", "said.json")),
}  # fmt: skip

WITHOUT_EFFECT_ON_TOY = {"held_out", "tokens_per_sample"}
"""Settings of data that don't say themselves what is held out and what a token is."""

OF_A_CALL = ("logger", "executor")
"""Settings that no plan keeps."""

CHOOSE_NOTHING_HERE = {"max_epochs", "retry"}
"""Settings that choose among what a sweep of endless data without failures does not have."""


def settings_of(*words: str) -> SweepSettings:
    return from_plain(SweepSettings, values_of("train", for_hydra(VERBS["train"], words)))


def planned(folder: Path, *words: str) -> tuple[Any, Plan]:
    spec = build_spec(settings_of(*SMALL, *words), {})
    return spec, spec.prepare(StudyFolder(folder)).plan


def from_python(folder: Path, **keywords: Any) -> Plan:
    sweep = {"compute_budgets": [1e6, 3e6], "num_sizes": 3, "span": 2, "center": 60}
    sweep |= {"min_steps": 10, "device": "cpu", "train": False, "output_dir": folder}
    sweep |= {"held_out_samples": 64}  # else it follows from the plan
    return find_optimal(
        model_cls=StoredNet,
        model_size_param="width",
        dataset=rows(),
        loss_fn=mean_squared,
        **{**sweep, **keywords},
    )


def ids(plan: Plan) -> dict[Any, str]:
    """What an experiment is to the planner -> its id."""
    return {(e.budget, e.size.label, e.seed): e.id for e in plan.experiments}


def check_kind(setting: Setting, before: Plan, after: Plan) -> None:
    old, new = ids(before), ids(after)
    shared = old.keys() & new.keys()
    same = {key for key in shared if old[key] == new[key]}
    if setting.kind is Kind.DECIDES or (setting.kind is Kind.PINNED and setting.in_id):
        assert not same
    else:
        assert same == shared
    if setting.kind in (Kind.MACHINE, Kind.ANSWER, Kind.PINNED):
        assert old.keys() == new.keys()
    if setting.kind is Kind.CHOOSES and setting.name not in CHOOSE_NOTHING_HERE:
        assert old.keys() != new.keys()


def test_every_setting_has_a_case():
    assert CASES.keys() == {setting.name for setting in declared(SweepSettings)}


BY_NAME = {setting.name: setting for setting in declared(SweepSettings)}


@pytest.mark.parametrize("name", CASES)
def test_on_the_command_line(name, tmp_path):
    case = CASES[name]
    if name == "flops":  # the shipped model on the shipped data: both ways give other FLOPs
        assert planned(tmp_path)[1].experiments[0].counted_over_formula != 1
    _, before = planned(tmp_path, *case.also)
    spec, after = planned(tmp_path, *case.also, *case.words)
    found, expected = case.arrives(spec, after)
    assert found == expected
    if name not in WITHOUT_EFFECT_ON_TOY:
        check_kind(BY_NAME[name], before, after)


@pytest.mark.parametrize("name", [name for name in CASES if BY_NAME[name].python])
def test_from_python(name, tmp_path):
    case, setting = CASES[name], BY_NAME[name]
    also = case.also_keywords or {}
    keyword = "isoflop" if name == "fit" else case.keyword
    before, after = from_python(tmp_path, **also), from_python(tmp_path, **also, **{name: keyword})
    check_kind(setting, before, after)
    if name in ("schedule", "learning_rate_rule", "batch_rule", "metrics", "fit", *OF_A_CALL):
        return  # objects, which the stored settings leave out
    as_tuple = tuple(keyword) if isinstance(keyword, list) else keyword
    assert getattr(after.settings, name) == as_tuple


def test_a_plan_keeps_the_defaults_of_the_settings_from_both_faces(tmp_path):
    """Both faces plan alike where nothing is said: no default stands in two places."""
    given = {"budgets", "num_sizes", "span", "center", "min_steps", "device", "study", "workers"}
    given |= {"held_out_samples"}
    objects = {s.name for s in declared(SweepSettings) if s.is_required} | {"fit", "schedule"}
    python = from_python(tmp_path).settings
    from_schema = OmegaConf.to_container(OmegaConf.structured(schema(SweepSettings)))
    for setting in declared(SweepSettings):
        if setting.name in given | objects:
            continue
        assert getattr(python, setting.name) == setting.default, setting.name
        typed = from_plain(SweepSettings, {**dict.fromkeys(objects), **from_schema})
        assert getattr(typed, setting.name) == setting.default, setting.name
    shipped = OmegaConf.load(shipped_configs() / "base.yaml")
    assert shipped.keys() & {s.name for s in declared(SweepSettings)} == {"study"}


def test_help_of_find_optimal_tells_every_setting_with_its_default():
    parameters = inspect.signature(find_optimal).parameters
    for setting in (*declared(FaceSettings), *declared(SweepSettings)):
        if setting.python and setting.name != "model_kwargs":
            assert parameters[setting.name].default == setting.default, setting.name


def test_what_follows_from_the_settings_is_of_today():
    """docs/settings.md and the types of the Python face's arguments."""
    script = ROOT / "scripts/write_settings.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout


def test_stored_settings_come_back_as_they_were():
    settings = settings_of(*SMALL, MAE, "sizes=[8,16]", "data_seed=4")
    assert stored(SweepSettings, plain(settings)) == settings


def test_a_spec_sent_to_a_worker_is_the_same_there(tmp_path):
    """From Python a worker gets the objects themselves, from a config the config."""
    spec, plan = planned(tmp_path)
    again = spec.in_worker()()
    assert again.prepare(StudyFolder(tmp_path)).plan == plan
    sent = replace(spec, remade=None, factory=partial(StoredNet), size=SizeSpec("width"))
    assert isinstance(sent.in_worker()(), StudySpec)


def test_what_cannot_be_sent_to_a_worker_is_said(tmp_path):
    spec, _ = planned(tmp_path)
    with pytest.raises(ConfigError, match=r"worker processes can't be given this study.*workers=1"):
        replace(spec, remade=None, loss=lambda output, target: torch.zeros(())).in_worker()
