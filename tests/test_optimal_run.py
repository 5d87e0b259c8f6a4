"""From a prediction to the run of the study's own model that comes closest, and its config."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from flops_fit.answers.optimal_run import KnownSizes, note_on_size, optimal_experiment
from flops_fit.cli import main
from flops_fit.errors import PlanError
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.experiment import Experiment, Plan, Size
from flops_fit.plan.rules import PowerRule, Rules
from flops_fit.plan.run import Run
from flops_fit.settings import SweepSettings, stored
from flops_fit.store.folder import StudyFolder

SIX = FlopRule.constant()
BATCH, TOKENS = 8, 16  # samples per step, tokens per sample
SURFACE = LossSurface(E=1.0, A=20.0, B=30.0, alpha=0.3, beta=0.3)


def params(width: int) -> int:
    """Of a net with embeddings, squares and biases."""
    return 12 * width**2 + 70 * width + 3


def experiment(width: int, budget: float, **changes) -> Experiment:
    n = params(width)
    made = Experiment(
        budget=budget,
        size=Size("width", width),
        num_params=n,
        num_params_total=n,
        num_steps=round(budget / (6 * n * BATCH * TOKENS)),
        batch_size=BATCH,
        batch_tokens=BATCH * TOKENS,
        flops_per_token=6.0 * n,
        flops_per_token_counted=None,
        flops_per_token_formula=6.0 * n,
        unique_tokens=None,
        seed=3,
        id=f"w{width}-{budget:g}",
    )
    return replace(made, **changes)


def plan(widths=(8, 16, 32, 64), budgets=(1e9,), size=None, **changes) -> Plan:
    size = {"name": "width", "min": 4, "max": 4096, "multiple_of": 4} if size is None else size
    experiments = tuple(experiment(w, b, **changes) for b in budgets for w in widths)
    return Plan(
        experiments, SIX, study="net", settings=stored(SweepSettings, {"model": {"size": size}})
    )


def prediction(num_params: float, budget: float) -> Prediction:
    num_tokens = budget / 6 / num_params
    ratio = num_tokens / num_params
    return Prediction("surface", budget, num_params, num_tokens, ratio, 2.0, 10.0, {})


@pytest.mark.parametrize("num_params", [300.0, 1e4, 33_333.0, 1e6, 3.7e7])
def test_closest_size_is_that_of_all_legal_ones_far_beyond_the_planned(num_params):
    best = min(range(4, 4097, 4), key=lambda w: abs(math.log(params(w) / num_params)))
    found = KnownSizes.of(plan()).nearest(num_params)
    assert found.size == Size("width", best)
    assert found.num_params == params(best)


def test_sizes_that_grow_in_another_way_are_those_measured():
    """A family whose N is no quadratic: exact where it was measured, in order in between."""
    bent = plan()
    experiments = tuple(
        replace(e, num_params=round(e.num_params ** (1 + e.size.value / 500)))
        for e in bent.experiments
    )
    family = KnownSizes.of(replace(bent, experiments=experiments))
    for e in experiments:
        assert family.nearest(e.num_params).size == e.size
    between = [family.at(w).num_params for w in (16, 20, 24, 28, 32)]
    assert between == sorted(between)


def test_size_ends_at_the_models_own_limit_and_says_so():
    limited = plan(size={"name": "width", "max": 100, "multiple_of": 8})
    asked = prediction(params(400), 1e13)
    found = optimal_experiment(limited, asked, Rules())
    assert found.size.value == 96
    assert "times the optimal N" in note_on_size(found, asked)
    smallest = optimal_experiment(limited, prediction(10.0, 1e9), Rules())
    assert smallest.size.value == 8
    assert note_on_size(smallest, prediction(params(8), 1e9)) is None


def test_of_whole_shapes_only_the_planned_ones_are_known():
    shapes = plan(size={"values": [{"width": 8, "depth": 1}]})
    experiments = tuple(
        replace(e, size=Size("shape", {"width": e.size.value, "depth": 2}))
        for e in shapes.experiments
    )
    found = KnownSizes.of(replace(shapes, experiments=experiments)).nearest(params(40))
    assert found.size.value == {"width": 32, "depth": 2}


def test_sizes_that_a_command_lists_are_all_known():
    listed = [{"size": w, "num_params": params(w)} for w in (16, 256, 512)]
    study = replace(plan(), settings=stored(SweepSettings, {"trainer": {"sizes": listed}}))
    assert KnownSizes.of(study).nearest(params(300)).size.value == 256


def test_steps_spend_the_budget_with_the_studys_batch_and_seed():
    found = optimal_experiment(plan(), prediction(params(100), 1e13), Rules())
    assert (found.size.value, found.batch_size, found.seed) == (100, BATCH, 3)
    assert found.flops == pytest.approx(1e13, rel=0.5 / found.num_steps)


def test_rules_for_batch_and_learning_rate_are_asked_for_that_run():
    rules = Rules(
        batch_tokens=PowerRule(2.0, num_tokens_exponent=0.5),
        learning_rate=PowerRule(1.0, num_params_exponent=-0.5),
    )
    found = optimal_experiment(plan(), prediction(params(100), 1e13), rules)
    num_tokens = 1e13 / 6 / params(100)
    assert found.batch_tokens == pytest.approx(2 * num_tokens**0.5, rel=0.01)
    assert found.learning_rate == pytest.approx(params(100) ** -0.5)


def test_too_little_data_are_refused_with_what_to_do():
    with pytest.raises(PlanError, match=r"would see its 16,000 tokens .* bring more data"):
        optimal_experiment(plan(unique_tokens=16_000), prediction(params(100), 1e13), Rules())


# On the command line, of a study that was planned and whose losses are a known surface's.

WORDS = ["budgets=[1e9,4e9,1.6e10]", "center=10", "span=6", "num_sizes=5", "batch_size=4"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch, capsys) -> StudyFolder:
    """A plan of the shipped mlp on toy, every run of it done, and its law."""
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *WORDS, "optimizer.lr=0.02", "optimizer.betas=[0.8,0.9]"]) == 0
    folder = StudyFolder(tmp_path / "outputs/mlp-toy")
    for e in folder.read_plan().experiments:
        loss = float(SURFACE(e.num_params, e.num_tokens))
        run = Run(
            e.id, "completed", e.num_params, e.num_tokens, e.flops, loss, e.budget, size=e.size
        )
        folder.write_run(run)
    folder.pin({"precision": "fp32", "held_out_samples": 77})
    assert main(["fit", "draws=50"]) == 0
    capsys.readouterr()
    return folder


def composed(command: str, capsys) -> dict:
    """The config that a printed command trains."""
    words = shlex.split(command)
    assert words[:2] == ["flops-fit", "train"]
    assert main([*words[1:], "--cfg", "job"]) == 0
    return OmegaConf.to_container(OmegaConf.create(capsys.readouterr().out))


def test_predict_writes_a_config_that_composes_to_the_studys_own_settings(study, capsys):
    assert main(["predict", "budget=1e11", "json=true"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    run = answer["optimal_run"]
    assert run["num_params"] == pytest.approx(answer["num_params"], rel=0.1)
    assert run["learning_rate"] == 0.02
    config, settings = composed(run["command"], capsys), study.read_plan().settings
    for group in ("model", "dataset", "loss", "optimizer", "schedule"):
        assert config[group] == getattr(settings, group)
    assert config["budgets"] == [1e11]
    assert config["sizes"] == [run["size"]["value"]]
    assert config["batch_size"] == run["batch_size"] == 4
    assert (config["study"], config["precision"]) == ("mlp-toy-optimum", "fp32")
    assert config["held_out_samples"] == 77
    assert OmegaConf.load(run["config"]).sizes == [run["size"]["value"]]
    named = {"low", "high"}
    assert answer["flat_band"]["intervals"].keys() == named
    assert answer["instead"] is None


def test_predict_says_the_run_and_the_command_that_trains_it(study, capsys):
    assert main(["predict", "budget=1e11,1e12"]) == 0
    said = capsys.readouterr().err.splitlines()
    commands = [line.removeprefix("to train it: ") for line in said if "to train it" in line]
    budgets = [composed(command, capsys)["budgets"] for command in commands]
    assert budgets == [[1e11], [1e12]]
    assert sum("steps of 4 samples, learning rate 0.02" in line for line in said) == 2


def test_choices_of_the_sweep_leave_nothing_behind_in_the_config(study, tmp_path, capsys):
    """A model of the user's own has none of the arguments of the model chosen by default."""
    (tmp_path / "my_nets.py").write_text(
        "from flops_fit.models import MLP\n"
        "def net(hidden, act='relu'):\n"
        "    return MLP(width=hidden, in_features=8, out_features=1)\n"
    )
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/net.yaml").write_text(
        "_target_: my_nets.net\nsize: {name: hidden, min: 4, max: 512}\nact: gelu\n"
    )
    assert main(["plan", *WORDS, "model=net", "study=mine"]) == 0
    mine = StudyFolder(tmp_path / "outputs/mine")
    for e in mine.read_plan().experiments:
        loss = float(SURFACE(e.num_params, e.num_tokens))
        mine.write_run(Run(e.id, "completed", e.num_params, e.num_tokens, e.flops, loss, e.budget))
    assert main(["fit", "study=mine", "draws=0"]) == 0
    capsys.readouterr()
    assert main(["predict", "study=mine", "budget=1e11", "json=true"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    config = composed(answer["optimal_run"]["command"], capsys)
    assert set(config["model"]) == {"_target_", "size", "act"}
    assert config["model"]["act"] == "gelu"


def test_of_a_study_of_several_seeds_the_optimum_is_one_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *WORDS, "seeds=2", "study=twice"]) == 0
    folder = StudyFolder(tmp_path / "outputs/twice")
    for e in folder.read_plan().experiments:
        loss = float(SURFACE(e.num_params, e.num_tokens)) + 1e-3 * e.seed
        folder.write_run(
            Run(e.id, "completed", e.num_params, e.num_tokens, e.flops, loss, e.budget, seed=e.seed)
        )
    assert main(["fit", "study=twice", "draws=0"]) == 0
    capsys.readouterr()
    assert main(["predict", "study=twice", "budget=1e11", "json=true"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    _, _, *words = shlex.split(answer["optimal_run"]["command"])
    assert main(["plan", *words, "json=true"]) == 0
    (experiment,) = json.loads(capsys.readouterr().out)["experiments"]
    assert experiment["num_params"] == answer["optimal_run"]["num_params"]
    assert experiment["num_steps"] == answer["optimal_run"]["num_steps"]


def test_a_budget_beyond_the_model_is_answered_without_a_config(study, capsys):
    path = study.latest_plan_folder() / "plan.json"
    planned = json.loads(path.read_text())
    for e in planned["experiments"]:
        e["unique_tokens"] = 1000
    path.write_text(json.dumps(planned))
    assert main(["predict", "budget=1e11", "json=true"]) == 0
    said = capsys.readouterr()
    (answer,) = json.loads(said.out)["predictions"]
    assert answer["optimal_run"] is None
    assert "bring more data" in said.err


def test_without_a_target_the_laws_own_predictions_are_shown(study, capsys):
    assert main(["predict", "json=true"]) == 0
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    assert {p["method"] for p in predictions} == {"combined"}
    others = {other["method"] for p in predictions for other in p["others"]}
    assert others == {"isoflop", "surface"}
    assert not (study.latest_plan_folder() / "conf").exists()


@pytest.mark.slow
def test_the_printed_command_trains_the_predicted_optimum(tmp_path, monkeypatch, capsys):
    """A sweep, a prediction, and the command as printed: one run at the size stated."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "budget=smoke", "workers=1"]) == 0
    capsys.readouterr()
    assert main(["predict", "budget=8e8", "json=true"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["predictions"]
    promised = answer["optimal_run"]
    assert main(shlex.split(promised["command"])[1:]) == 0
    (result,) = tmp_path.glob("outputs/mlp-toy-optimum/runs/*/result.json")
    run = json.loads(result.read_text())
    assert run["status"] == "completed"
    assert run["size"]["value"] == promised["size"]["value"]
    assert run["num_params"] == promised["num_params"]
    assert run["num_steps"] == promised["num_steps"]
    assert run["flops"] == pytest.approx(8e8, rel=0.01)
    assert run["loss"] < 1.0
    capsys.readouterr()
    assert main(["predict", "budget=8e8", "json=true"]) == 0  # still of the sweep, which has a law
    assert json.loads(capsys.readouterr().out)["predictions"] == [answer]
