"""Words that mean something else than they say: one sentence with what was meant, and no run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from flops_fit.cli import main
from flops_fit.cli.mistakes import UsageError, check_words, unread_configs
from flops_fit.cli.verbs import VERBS
from flops_fit.cli.words import for_hydra
from flops_fit.errors import ConfigError

TINY = ["budgets=[1e7,2e7]", "batch_size=32", "min_steps=5", "num_sizes=3", "span=2", "center=10"]
TINY += ["workers=1", "draws=0"]

MODEL = "_target_: flops_fit.models.MLP\nsize: {name: width, min: 4}\nin_features: 8\n"

FILES = {
    "conf/model/mine.yaml": MODEL,
    "conf/model/part/small.yaml": "depth: 2\n",
    "conf/model/nan.yaml": MODEL,
    "conf/model/null.yaml": MODEL,
    "conf/model/yes.yaml": MODEL,
    "conf/model/empty.yaml": "",
    "conf/model/listed.yaml": "- one\n- two\n",
    "conf/model/broken.yaml": "_target_: flops_fit.models.MLP\nsize: {name: width\ndepth: 3\n",
    "conf/model/old.yml": MODEL,
    "conf/model/twice.yaml": f"{MODEL}in_features: 9\n",
    "conf/experiment/one.yaml": "# @package _global_\nbudgets: 1e9\n",
    "conf/experiment/keys.yaml": "# @package _global_\nclip_grad_nrm: 1\n",
    "conf/experiment/mien.yaml": "# @package _global_\ndefaults:\n  - override /trainer: mien\n",
    "conf/experiment/model.yaml": "# @package _global_\ndefaults:\n  - override /model: mien\n",
    "conf/experiment/on.yaml": "# @package _global_\ndefaults:\n  - override /model: on\n",
    "conf/trainer/mine.yaml": "defaults: [command]\ncommand: 'true {size}'\n",
    "conf/paths/home.yaml": "# @package _global_\nbudgets: [1e9]\n",
    "conf/optimizer/from_env.yaml": (
        "_target_: torch.optim.AdamW\n_partial_: true\nlr: ${oc.env:RATE,0.003}\n"
        "betas: ['${oc.env:BETA,0.9}', 0.95]\nweight_decay: ${.lr}\n"
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with configs of a user's own."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(line: str) -> str:
    """What is said of a command line, parted at its blanks, before Hydra starts."""
    verb, *words = line.split()
    with pytest.raises((UsageError, ConfigError)) as caught:
        check_words(VERBS[verb], words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def said_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 1) -> str:
    """What a whole command says that ends with this exit code and trains nothing."""
    capsys.readouterr()
    assert main(words) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "fault in flops-fit" not in said
    assert not [*Path().glob("outputs/*/runs/*")]
    return said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train trainer=mien", "did you mean 'mine'? there are command, mine, or write your own"),
        ("train metrics=nonsense", "metrics=nonsense: there are classification"),
        (
            "train learning_rate_rule=powr",
            "did you mean 'power'? there are gpt_by_size, power, step_law",
        ),
        ("train batch_rule=nope", "batch_rule=nope: there are power, step_law, step_law_by_size"),
        ("train budget=smok", "did you mean 'smoke'?"),
        ("train recipe=nope", "recipe=nope: there are gpt-tokens, mlp-toy"),
        ("train recipe=mine-toy", "recipe=mine-toy: did you mean 'mlp-toy'?"),
        ("train optimizer=adamv", "did you mean 'adamw'? there are adamw, from_env, muon, sgd"),
        ("train -m model=mlp,mein", "model=mein: did you mean 'mine'?"),
        ("train experiment=[one,tow]", "experiment=tow: there are keys, mien, model, on, one"),
        ("train model=old", "old.yml is read only by its whole name"),
        ("train model/part=smal", "model/part=smal: did you mean 'small'?"),
        ("train models/part=small", "no config group models/part"),
        ("fit fit=isoflap", "did you mean 'isoflop'?"),
        # Names that nothing reads.
        ("train clip_grad_nrm=1", "did you mean clip_grad_norm=1?"),
        ("train +clip_grad_nrm=1", "did you mean clip_grad_norm=1?"),
        ("train ++optimiser.lr=.5", "did you mean optimizer.lr=.5?"),
        ("train modle=net", "did you mean model=net?"),
        ("train lr=1e-3", "did you mean optimizer.lr=1e-3?"),
        ("train learning_rate=1e-3", "did you mean optimizer.lr=1e-3?"),
        ("train weight_decay=0.1", "did you mean optimizer.weight_decay=0.1?"),
        ("train depth=2", "did you mean model.depth=2?"),
        ("train num-sizes=3", "did you mean num_sizes=3?"),
        ("train SEED=3", "did you mean seed=3?"),
        ("train +nothing_like_it=3", "train has no setting 'nothing_like_it'"),
        ("train ~optimiser", "did you mean optimizer?"),
        ("fit lr=1e-3", "fit has no setting 'lr'"),
        ("status budget=1e9", "status has no setting 'budget'"),
        ("fit columns.N=params", "did you mean columns.num_params=params?"),
        ("fit +columns.val_loss=x", "did you mean columns.loss=x?"),
        ("fit columns.num_parms=x", "did you mean columns.num_params=x?"),
        ("train +experiment=one", "write experiment=one without the +"),
        ("train paths=home", "add it with +paths=home"),
        # Words without a name.
        ("fit mine.csv", "flops-fit fit runs=mine.csv"),
        ("fit --runs mine.csv", "runs=mine.csv"),
        ("train --workers 4", "workers=4"),
        ("train --workers=4", "workers=4"),
        ("train --num-sizes 4", "num_sizes=4"),
        ("train --workers", "workers=VALUE"),
        ("train --multirum", "did you mean '--multirun'?"),
        ("train mlp toy", "flops-fit train model=mlp"),
        ("train plan", "train and plan are two commands"),
        ("predict 1e18", "flops-fit predict budget=1e18"),
        ("compare one other", "studies=ONE,OTHER"),
        ("train num_sizes", "num_sizes stands without a value"),
        ("train what", "'what' is no setting with its value"),
        ("train –m seed=0,1", "write -m"),
        ("train —multirun seed=0,1", "write --multirun"),
        # What the shell parts.
        ("plan budgets=[1e15, 1e16]", "'budgets=[1e15, 1e16]'"),
        ("plan num_sizes = 3", "write num_sizes=3 without blanks"),
        ("plan num_sizes= 3", "write num_sizes=3 without a blank"),
        ("plan num_sizes =3", "write num_sizes=3 without blanks"),
        ("plan budgets=[1e15", "'budgets=[1e15]'"),
        # What looks like the right character, and numbers as people write them.
        ("plan “budgets=1e15”", "holds a quote of typography (“): type ' or"),
        ("plan optimizer.lr=1e–3", "type -"),
        ("plan budget=1,000,000", "commas part a list: write budgets=1000000 or 1e+06"),
        # Flags with values.
        ("plan --cfg", "give one of job, hydra, all"),
        ("plan --cfg jobs", "give one of job, hydra, all"),
        ("plan --info=all_of_it", "give one of all, config"),
        ("plan --config-dir", "--config-dir takes a value"),
        ("plan --multirun=3", "--multirun takes no value"),
        # Values of groups and of the study's name.
        ("train model=nan", "nan.yaml has a name that is read as a value: call it my_nan.yaml"),
        ("train model=null", "null.yaml has a name that is read as a value"),
        ("train dataset=null", "dataset=null: there must be one: cifar10"),
        ("train dataset=nan", "dataset=nan: there are cifar10"),
        ("train model=[mlp,mine]", "-m model=mlp,mine makes a sweep for each"),
        ("train study=../x", "give the name of a folder under output_root"),
        ("train study=/x", "give the name of a folder under output_root"),
        ("train study=", "give the name of a folder under output_root"),
    ],
)
def test_what_was_meant_is_said_before_anything_starts(line, said):
    assert said in refusal(line)


def test_words_of_no_command(capsys):
    assert "flops-fit train model=mlp" in said_of(capsys, "model=mlp", code=2)
    assert "did you mean 'train'?" in said_of(capsys, "Train", code=2)
    assert "did you mean '--info'?" in said_of(capsys, "train", "--inof", code=2)
    assert "workers=4" in said_of(capsys, "train", "--workers", "4", code=2)
    assert "recipe=nope" in said_of(capsys, "train", "recipe=nope")


@pytest.mark.parametrize(
    "line",
    [
        "train +metrics.mae={_target_:torch.nn.L1Loss}",
        "train metrics={mae:{_target_:torch.nn.L1Loss}}",
        "train +model.size.values=[1,2] ++model.bias=true ~model.depth",
        "train +dataset.cache_dir=x ~optimizer ~recipe recipe=null trainer= budget=smoke",
        "train hydra.run.dir=x hydra/launcher=basic hydra.verbose=true",
        "train -m model=mlp,mine optimizer.lr=1e-3,1e-2 budgets=1e9,2e9 seed=range(1,3)",
        "train -m model=glob(m*) model=choice(mlp,vit)",
        "train +model/part=small model/part=small +model/part@dataset=small +paths=home",
        "train model=yes experiment=[one,keys] model=old.yml model=mine.yaml model='nan'",
        "train +wide=64 model.depth=${wide}",
        "train optimizer=${oc.env:OPTIMIZER,adamw}",
        "train --cfg job --resolve --package model --multi --hydra-help --info config",
        "train --config-path elsewhere anything=1",
        "train hydra.searchpath=[file://elsewhere] model=elsewhere",
        "train trainer.command=a.sh[",
        "fit where={",
        "fit runs=a.csv columns.loss=nats budget=1e9,3e9 select=best_lr",
        "predict budget=1e18 study=a/b",
        "verify budget=1e11 model=mlp",
    ],
)
def test_what_means_something_is_let_through(line):
    verb, *words = line.split()
    check_words(VERBS[verb], words)


def test_configs_of_another_folder(folder, monkeypatch):
    (folder / "conf").rename(folder / "other")
    assert "trainer=mine: there are command" in refusal("train trainer=mine")
    check_words(VERBS["train"], ["--config-dir=other", "trainer=mine"])
    check_words(VERBS["train"], ["trainer=mine", "-cd", "other"])
    assert for_hydra(VERBS["train"], ["--config-dir=other"]) == ["--config-dir=other"]
    monkeypatch.setenv("HOME", "/home/them")
    assert (
        for_hydra(VERBS["train"], ["dataset.path=~/x.bin"])[-1] == "dataset.path=/home/them/x.bin"
    )


def test_a_file_that_loses_against_a_shipped_one_is_named(folder, capsys):
    assert not unread_configs(VERBS["train"], [])
    (folder / "conf/model/mlp.yaml").write_text(MODEL)
    (folder / "conf/train.yaml").write_text("seed: 3\n")
    (folder / "conf/select").mkdir()
    (folder / "conf/select/every.yaml").write_text("")
    own, model = unread_configs(VERBS["train"], [])
    assert re.search(r"conf/train.yaml is not read: \S*/configs/train.yaml, which ships", own)
    assert re.search(r"conf/model/mlp.yaml is not read: \S*/configs/model/mlp.yaml", model)
    assert "model=my_mlp" in model
    said = said_of(capsys, "train", "recipe=null")
    assert "warning: conf/model/mlp.yaml is not read" in said
    assert "no budgets" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=mien"], "trainer=mien: did you mean 'mine'? there are command, mine"),
        (["experiment=model"], "model=mien: did you mean 'mine'?"),
        (["experiment=on"], "quote one that YAML reads as a value"),
        (["experiment=keys"], "experiment/keys.yaml sets clip_grad_nrm, which is no setting: did"),
        (["model=broken"], "conf/model/broken.yaml, line 3, column 6: this is no YAML: while"),
        (["model=twice"], "conf/model/twice.yaml, line 4, column 1: this is no YAML"),
        (["model=empty"], "conf/model/empty.yaml: model has no `_target_`"),
        (["model=listed"], "conf/model/listed.yaml: model has no `_target_`"),
        (["model.dept=2"], "there is no model.dept: did you mean model.depth? There are size, in_"),
        (["++model.dept=2"], "takes no argument 'dept': did you mean 'depth'"),
        (["+seed=2"], "write seed=2 without the +"),
        (["num_sizes=seven"], "num_sizes is 'seven', a str: give a whole number (sizes at each"),
        (["num_sizes=null"], "num_sizes is null: give a whole number"),
        (["json=maybe"], "json is 'maybe': give true or false"),
        (["study=null"], "study is null: give one name"),
        (["retry=divergd"], "retry is 'divergd': did you mean 'diverged'? give diverged"),
        (["flops=exact"], "flops is 'exact': give formula or counted"),
        (["budgets=10^9"], "can't read budgets=[10^9]: numbers of FLOPs are written 1e9"),
        (["workers=0"], "workers is 0: it must be at least 1 (runs at once"),
        (["draws=-1"], "draws is -1: it must be at least 0"),
        (["micro_batch_size=0"], "micro_batch_size is 0: it must be at least 1"),
        (["seed=-1"], "seed is -1: it must be at least 0"),
        (
            ["clip_grad_norm=0"],
            "clip_grad_norm is 0: it must be at least 1e-12 (clips",
        ),
        (["threads=-1"], "threads is -1: it must be at least 1"),
        (
            ["dataset=text"],
            "model.in_features is read from dataset.dim, which is not there: with dataset=text "
            "choose model=gpt or model=transformer, or with model=mlp choose dataset=toy, or set "
            "model.in_features=VALUE",
        ),
        (["model=vit"], "with dataset=toy choose model=mlp, or with model=vit choose dataset="),
        (["optimizer.lr=${model.rate}"], "optimizer.lr is read from model.rate, which is not th"),
        (
            ["model=transformer", "dataset=tokens", "dataset.path=x.bin"],
            "dataset.vocab_size must be given, model.vocab_size is read from it: dataset.vocab_s",
        ),
        (["trainer=command"], "trainer.command must be given: trainer.command=VALUE"),
        (["seeds=-1"], "seeds is -1: it must be at least 1"),
        (["model=mlp,mine"], "model is given several values, mlp,mine: -m makes a sweep for each"),
        (["optimizer.betas=0.9,0.95"], "'optimizer.betas=[0.9,0.95]'"),
        (["budgets=1e15,,1e16"], "can't read budgets=[1e15,,1e16]"),
        (["budgets={1:2}"], "budgets holds {1: 2}: give numbers of FLOPs"),
        (["optimizer.lr=fast"], "optimizer.lr is the text 'fast': torch.optim.adamw.AdamW takes"),
        (["optimizer.lr=${oc.env:RATE,fast}"], "optimizer.lr is the text 'fast': torch.optim"),
        (["optimizer.lr=${oc.env:RATE}"], "read from the environment variable RATE, which is not"),
        (["optimizer.lr='0.003'"], "takes a number here; leave out the quotes"),
        (["model.depth=deep"], "model.depth is the text 'deep': flops_fit.models.mlp.MLP takes a"),
        (["precision=fp8"], "precision is 'fp8': use auto, fp32, bf16 or fp16"),
        (["device=gpu"], "device 'gpu' can't be used here"),
        (["output_root=/proc/x"], "can't use /proc/x"),
        (["--config-dir=nowhere"], "nowhere' not found"),
        (["hydra/launcher=jobli"], "hydra/launcher=jobli"),
    ],
)
def test_what_is_found_out_later_is_a_sentence_too(capsys, words, said):
    assert said in said_of(capsys, "train", *TINY, *words)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict]:
    capsys.readouterr()
    assert main(["plan", "json=true", *words]) == 0
    experiments: list[dict] = json.loads(capsys.readouterr().out)["experiments"]
    return experiments


def ids(capsys: pytest.CaptureFixture[str], *words: str) -> set[str]:
    return {experiment["id"] for experiment in planned(capsys, *TINY, *words)}


def test_numbers_from_the_environment_are_those_numbers(capsys, monkeypatch):
    monkeypatch.setenv("RATE", "4e-3")
    monkeypatch.setenv("SEED", "3")
    asked = ["optimizer.lr=${oc.env:RATE}", "seed=${oc.env:SEED}"]
    assert ids(capsys, *asked) == ids(capsys, "optimizer.lr=0.004", "seed=0.3e1")
    typed = ["optimizer.betas=[0.9,0.95]", "optimizer.lr=0.004", "+optimizer.weight_decay=0.004"]
    plain = "_target_: torch.optim.AdamW\n_partial_: true\nlr: 1\nbetas: []\n"
    Path("conf/optimizer/typed.yaml").write_text(plain)
    own = ids(capsys, "optimizer=from_env", "study=a")
    assert own == ids(capsys, "optimizer=typed", *typed, "study=b")


def test_nothing_is_a_choice_where_a_config_is_optional(capsys):
    words = ["recipe=null", "trainer=", "batch_rule=null", "fit=null"]
    assert for_hydra(VERBS["train"], words)[-4:] == [
        "~recipe",
        "~trainer",
        "~batch_rule",
        "fit=null",
    ]
    assert "no budgets" in said_of(capsys, "train", *words[:3], "metrics=null")


def test_a_pair_of_ones_own_needs_no_recipe(capsys):
    assert len(ids(capsys, "model=mine")) == 6


@pytest.mark.parametrize(
    ("budget", "budgets"),
    [
        ("1e9", {1e9}),
        ("1e9,3e9", {1e9, 3e9}),
        ("[1e9,3e9]", {1e9, 3e9}),
        ("smoke", {1e8, 2e8, 4e8}),
    ],
)
def test_budget_is_the_budget_and_its_group_stays_one(capsys, budget, budgets):
    assert {e["budget"] for e in planned(capsys, f"budget={budget}")} == budgets


def test_budget_is_the_budget_of_every_verb():
    for verb in ("plan", "train", "fit", "predict"):
        for value in ("1e9", "1e9,3e9", "[1e9,3e9]"):
            inner = value.strip("[]")
            assert for_hydra(VERBS[verb], [f"budget={value}"])[-1] == f"budgets=[{inner}]"
        assert for_hydra(VERBS[verb], ["-m", "budget=1e9,3e9"])[-1] == "budgets=[1e9],[3e9]"
    assert for_hydra(VERBS["verify"], ["budget=1e9"])[-1] == "target=1e9"


def test_a_sweep_over_single_budgets_trains_them_and_says_that_one_is_no_law(folder, capsys):
    assert main(["train", "-m", *TINY[1:], "budget=1e7,2e7"]) == 3
    said = capsys.readouterr()
    assert said.out.count("no law: 1 budget: ") == 2
    assert len([line for line in said.out.splitlines() if "budgets=[" in line]) == 2
    assert len([*folder.glob("outputs/mlp-toy/runs/*/result.json")]) == 6


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None,
    reason="needs hydra-joblib-launcher",
)
def test_a_multirun_in_other_processes_has_its_table_and_exit_code(folder, capfd):
    words = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *TINY]
    assert main(["train", *words, "seed=0,1"]) == 3  # no law of one of them
    said = capfd.readouterr().out
    assert [line.split()[:3] for line in said.splitlines() if "seed=" in line] == [
        ["seed=0", "6", "6"],
        ["seed=1", "6", "6"],
    ]
    assert len([*folder.glob("outputs/mlp-toy/runs/*/result.json")]) == 12
    assert main(["train", *words, "optimizer.lr=0.01,fast"]) == 1  # the larger of 0 and 1
    said = capfd.readouterr()
    assert "optimizer.lr is the text 'fast'" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cfg", "job"], "_target_: flops_fit.models.MLP"),
        (["--cfg", "job", "--package", "optimizer"], "lr: 0.01"),
        (["--info", "searchpath"], "Provider"),
        (["--hydra-help"], "hydra"),
        (["--config-dir", "conf", "model=mine", "--cfg", "job"], "study:"),
    ],
)
def test_flags_of_hydra(capsys, words, said):
    assert main(["plan", *words]) == 0
    assert said in capsys.readouterr().out
