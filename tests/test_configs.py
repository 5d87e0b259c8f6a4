"""The shipped configs: every option composes and builds, every leaf is read by code."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf
from test_images import cifar10_folder, mnist_folder

from flops_fit.api import DEFAULT_FIT, DEFAULT_SELECT
from flops_fit.building.from_config import build_spec
from flops_fit.building.node import FLOPS, SIZE
from flops_fit.cli.compose import values_of
from flops_fit.cli.verbs import VERBS
from flops_fit.files import shipped_configs
from flops_fit.plan.rules import PowerRule
from flops_fit.settings import ColumnNames, SweepSettings, from_plain
from flops_fit.store.folder import StudyFolder
from flops_fit.tables import COMMON_NAMES
from flops_fit.training.family import SizeSpec

GROUPS = ("model", "dataset", "loss", "optimizer", "schedule", "fit", "learning_rate_rule")
GROUPS += ("batch_rule", "metrics")
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "defaults"}


def composed(verb: str, *overrides: str) -> dict:
    return values_of(verb, [*overrides, "study=test"])


def options(*groups: str) -> list[tuple[str, str]]:
    return [
        (group, path.stem)
        for group in groups
        for path in sorted((shipped_configs() / group).glob("*.yaml"))
    ]


@pytest.fixture
def words(tmp_path: Path) -> dict[str, list[str]]:
    """What an option needs beside itself, such as a file to read."""
    text, tokens, rows = tmp_path / "text", tmp_path / "tokens.bin", tmp_path / "rows.jsonl"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_text(f"{i}. Müller's scaling law. " * 40)
    lines = (f"{i}. Müller's scaling law. " * 40 for i in range(40))
    rows.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    np.arange(50_000, dtype=np.uint16).__mod__(500).tofile(tokens)
    own = [
        "budgets=[1e10]",
        "min_steps=1",
        "num_sizes=3",
        "span=2",
        "max_epochs=1e9",
        "batch_size=4",
    ]
    return {
        "transformer": ["dataset=python_source", "budgets=[1e11]"],
        "gpt": ["dataset=python_source", "budgets=[1e13]", "batch_size=8", "max_epochs=1e9"],
        "vit": ["dataset=images"],
        "images": ["model=vit"],
        "digits": ["model=vit"],
        "classification": ["model=vit", "dataset=images"],
        "cifar10": ["model=vit", f"dataset.folder={cifar10_folder(tmp_path / 'cifar10')}", *own],
        "mnist": ["model=vit", f"dataset.folder={mnist_folder(tmp_path / 'mnist')}", *own],
        "text": ["model=transformer", f"dataset.files={text}", *own],
        "tokens": [
            "model=transformer", f"dataset.path={tokens}", "dataset.vocab_size=500",
            "dataset.context_length=64", *own,
        ],
        "hub": [
            "model=transformer", f"dataset.name={rows}", f"dataset.cache_dir={tmp_path / 'cache'}",
            *own,
        ],
        "python_source": ["model=transformer"],
        "cross_entropy": ["model=transformer", "dataset=python_source"],
        "own": ["model._target_=models_with_loss.MLPWithLoss"],
        "smoke": [],
    }  # fmt: skip


@pytest.mark.parametrize(("group", "option"), options(*GROUPS, "budget"))
def test_every_option_composes_builds_and_plans(group, option, words, tmp_path):
    if option == "hub":
        pytest.importorskip("datasets", reason="the datasets library is not installed")
    if option == "digits":
        pytest.importorskip(
            "sklearn", reason="scikit-learn, which has the digits, is not installed"
        )
    config = composed("plan", f"{group}={option}", *words.get(option, []))
    spec = build_spec(from_plain(SweepSettings, config), {})
    plan = spec.prepare(StudyFolder(tmp_path / "study")).plan
    assert len(plan) >= 3


@pytest.mark.parametrize(("group", "option"), options(*GROUPS, "select", "logger", "executor"))
def test_every_leaf_of_an_option_is_an_argument_of_its_target(group, option):
    node = OmegaConf.to_container(OmegaConf.load(shipped_configs() / group / f"{option}.yaml"))
    size = node.pop(SIZE, {}) if group == "model" else {}
    node.pop(FLOPS, None)
    assert size.keys() <= inspect.signature(SizeSpec).parameters.keys()
    for target, keys in targets(node):
        assert keys <= inspect.signature(get_object(target)).parameters.keys(), target


def targets(node: dict) -> Iterator[tuple[str, set[str]]]:
    """Each `_target_` in the node with the keys beside it."""
    if "_target_" in node:
        yield node["_target_"], node.keys() - HYDRA_KEYS
    for value in node.values():
        if isinstance(value, dict):
            yield from targets(value)


def test_the_python_face_means_the_same_methods_where_none_is_named():
    config = composed("fit")
    assert Path(config["fit"]["_target_"]).suffix == ".CombinedFit"
    for group, option in (("fit", DEFAULT_FIT), ("select", DEFAULT_SELECT)):
        file = OmegaConf.to_container(OmegaConf.load(shipped_configs() / group / f"{option}.yaml"))
        assert config[group] == file


@pytest.mark.parametrize("recipe", sorted((shipped_configs() / "recipe").glob("*.yaml")))
def test_every_leaf_of_a_recipe_is_a_setting(recipe):
    model, _, dataset = recipe.stem.partition("-")
    needed = ["dataset.path=t.bin", "dataset.vocab_size=8"] if dataset == "tokens" else []
    with_recipe = composed("train", f"model={model}", f"dataset={dataset}", *needed)
    text = OmegaConf.load(recipe)
    assert set(text) - {"defaults"} <= with_recipe.keys()
    assert with_recipe["budgets"] == text.budgets


def gpt_on_tokens(*words: str) -> dict:
    pair = ["model=gpt", "dataset=tokens", "dataset.path=t.bin", "dataset.vocab_size=50304"]
    return composed("train", *pair, *words)


def test_gpt_on_tokens_picks_wsd_and_rules_of_d_that_the_command_line_may_replace():
    config = gpt_on_tokens()
    rules = config["batch_rule"], config["learning_rate_rule"]
    assert [rule["num_params_exponent"] for rule in rules] == [0, 0]
    assert min(rule["num_tokens_exponent"] for rule in rules) > 0
    assert Path(config["schedule"]["_target_"]).suffix == ".WSD"
    assert gpt_on_tokens("optimizer=muon")["learning_rate_rule"] is None
    own = gpt_on_tokens("batch_rule=power", "learning_rate_rule=gpt_by_size", "schedule=cosine")
    assert own["batch_rule"]["coefficient"] == 64
    assert own["learning_rate_rule"]["num_tokens_exponent"] == 0
    assert Path(own["schedule"]["_target_"]).suffix == ".Cosine"


def test_gpt_on_tokens_takes_the_step_law_s_batch():
    file = OmegaConf.load(shipped_configs() / "batch_rule" / "step_law.yaml")
    assert gpt_on_tokens()["batch_rule"] == OmegaConf.to_container(file)


def test_rules_by_size_are_those_of_the_recipe_at_7_tokens_per_parameter():
    config = gpt_on_tokens()
    by_size = gpt_on_tokens("batch_rule=step_law_by_size", "learning_rate_rule=gpt_by_size")
    for name in ("batch_rule", "learning_rate_rule"):
        rule, of_size = (
            PowerRule(**{k: v for k, v in c[name].items() if k not in HYDRA_KEYS})
            for c in (config, by_size)
        )
        for num_params in (1e7, 1e9):
            at_7 = rule(num_params, 7 * num_params)
            assert of_size(num_params, math.nan) == pytest.approx(at_7, rel=0.02)


def test_transformer_on_python_source_picks_its_own_loss_and_rate():
    config = composed("train", "model=transformer", "dataset=python_source")
    assert config["loss"]["_target_"] == "flops_fit.learning.losses.cross_entropy"
    assert config["model"]["vocab_size"] == config["dataset"]["vocab_size"] == 256
    assert len(config["budgets"]) >= 4
    own = composed("train", "model=transformer", "dataset=text", "dataset.files=x")
    assert config["optimizer"]["lr"] != own["optimizer"]["lr"]


def test_the_command_line_wins_over_the_recipe():
    config = composed("train", "budgets=[1e12]", "optimizer.lr=0.5", "batch_size=7")
    assert (config["budgets"], config["optimizer"]["lr"], config["batch_size"]) == ([1e12], 0.5, 7)


def test_columns_are_those_of_a_table_of_runs():
    names = inspect.get_annotations(ColumnNames).keys()
    units = {name for name in names if name.endswith("_unit")}
    assert names - units == COMMON_NAMES.keys()
    assert {unit.removesuffix("_unit") for unit in units} < COMMON_NAMES.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_config(verb):
    assert (shipped_configs() / f"{verb}.yaml").exists()


@pytest.mark.parametrize("path", sorted(shipped_configs().rglob("*.yaml")))
def test_every_file_says_what_it_is(path):
    lines = path.read_text().splitlines()
    comment = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert comment.startswith("# ")
