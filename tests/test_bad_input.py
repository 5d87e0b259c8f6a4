"""What a user gets for bad input: a message that says what to do, and exit code 1."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.table import Table

from flops_fit.cli import main
from flops_fit.report.documents import json_text
from flops_fit.report.screen import Screen

TINY = ["budgets=[3e6,6e6]", "batch_size=8", "min_steps=5", "num_sizes=3", "span=2", "workers=1"]

USER_PACKAGE = '''
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self, hidden, in_features=4, out_features=1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden), nn.GELU(), nn.Linear(hidden, out_features)
        )

    def forward(self, x):
        return self.layers(x)


class Fixed(Net):
    """Takes a size and ignores it."""

    def __init__(self, hidden, depth, **rest):
        super().__init__(hidden, **rest)


def data(samples=4096, dim=4):
    x = torch.randn(samples, dim, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x.pow(2).sum(1, keepdim=True))


def vector_loss(output, target):
    return (output - target) ** 2
'''

FILES = {
    "conf/model/net.yaml": "_target_: my_pkg.Net\nsize: {name: hidden, min: 2, max: 64}\n",
    "conf/model/typo.yaml": (
        "_target_: my_pkg.Net\nsize: {name: hidden, min: 2, max: 64}\nin_fetures: 4\n"
    ),
    "conf/model/unsized.yaml": "_target_: my_pkg.Net\nhidden: 8\n",
    "conf/model/other_size.yaml": "_target_: my_pkg.Net\nsize: {name: width, min: 2, max: 64}\n",
    "conf/model/fixed.yaml": (
        "_target_: my_pkg.Fixed\nhidden: 8\nsize: {name: depth, min: 1, max: 64}\n"
    ),
    "conf/model/targetless.yaml": "size: {name: hidden, min: 2, max: 64}\n",
    "conf/model/lost.yaml": "_target_: my_pkg.Nett\nsize: {name: hidden, min: 2, max: 64}\n",
    "conf/model/wide.yaml": (
        "_target_: my_pkg.Net\nsize: {name: hidden, min: 2, max: 64}\nin_features: 5\n"
    ),
    "conf/dataset/mine.yaml": "_target_: my_pkg.data\nsamples: 4096\n",
    "conf/loss/vector.yaml": "_target_: my_pkg.vector_loss\n_partial_: true\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a package and configs of their own, as the working directory."""
    package = tmp_path / "my_pkg.py"
    package.write_text(USER_PACKAGE)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_pkg", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def message(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command says while it fails with exit code 1."""
    capsys.readouterr()
    assert main(list(words)) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("0", "budget 0 is not a finite positive number of FLOPs"),
        ("-1e9", "budget -1e+09 is not a finite positive number of FLOPs"),
        ("inf", "budget inf is not a finite positive number of FLOPs"),
        ("1e400", "budget inf is not a finite positive number of FLOPs"),
        ("nan", "budget nan is not a finite positive number of FLOPs"),
        ("lots", "'lots'"),
    ],
)
def test_budget_that_is_no_amount_of_compute(folder, capsys, budget, expected):
    said = message(capsys, "plan", f"budgets=[{budget}]")
    assert expected in said


def test_no_budgets_for_a_pair_without_a_recipe(folder, capsys):
    said = message(capsys, "train", "model=net", "dataset=mine")
    assert "no budgets: `flops-fit plan` with the same words proposes some" in said
    assert "budgets=1e15,1e16" in said


def test_budget_that_leaves_no_size(folder, capsys):
    said = message(capsys, "plan", "budgets=[1e5]")
    assert "budget 1e5 leaves no size to train" in said
    assert "raise the budget or lower batch_size" in said


def test_unknown_model(folder, capsys):
    said = message(capsys, "plan", "model=mpl")
    assert "model=mpl: did you mean 'mlp'? there are fixed, gpt, lost, mlp" in said


def test_misspelt_setting(folder, capsys):
    said = message(capsys, "plan", "sed=1")
    assert "sed" in said


def test_missing_target(folder, capsys):
    said = message(capsys, "plan", "model=targetless", "dataset=mine", *TINY)
    assert "conf/model/targetless.yaml: model has no `_target_`" in said


def test_target_that_does_not_exist(folder, capsys):
    said = message(capsys, "plan", "model=lost", "dataset=mine", *TINY)
    assert "conf/model/lost.yaml: can't import model._target_ 'my_pkg.Nett'" in said


def test_constructor_typo(folder, capsys):
    said = message(capsys, "plan", "model=typo", "dataset=mine", *TINY)
    assert "my_pkg.Net takes no argument 'in_fetures': did you mean 'in_features'?" in said
    assert "conf/model/typo.yaml" in said


def test_model_without_size(folder, capsys):
    said = message(capsys, "plan", "model=unsized", "dataset=mine", *TINY)
    assert "conf/model/unsized.yaml: the model has no size to scale" in said


def test_model_that_does_not_take_the_size_argument(folder, capsys):
    said = message(capsys, "plan", "model=other_size", "dataset=mine", *TINY)
    assert "conf/model/other_size.yaml: my_pkg.Net takes no argument 'width'" in said
    assert "which should set its size" in said
    assert "hidden" in said


def test_size_argument_that_changes_nothing(folder, capsys):
    said = message(capsys, "plan", "model=fixed", "dataset=mine", *TINY)
    assert "size argument 'depth' doesn't change the number of parameters" in said


def test_loss_that_returns_a_vector(folder, capsys):
    said = message(capsys, "plan", "model=net", "dataset=mine", "loss=vector", *TINY)
    assert "the loss returns a tensor (8, 1) float32, expected one number" in said


def test_shapes_that_do_not_fit(folder, capsys):
    said = message(capsys, "train", "model=wide", "dataset=mine", *TINY)
    assert "input (8, 4) float32, target (8, 1) float32" in said
    assert "conf/model/wide.yaml sets model.in_features=5" in said
    assert "conf/dataset/mine.yaml" in said
    assert not list(folder.glob("outputs/*/runs/*"))


def test_optimizer_settings_that_are_no_numbers(folder, capsys):
    path = folder / "conf/optimizer/mine.yaml"
    path.parent.mkdir()
    path.write_text("_target_: torch.optim.SGD\n_partial_: true\nlr: fast\nmomentum: 0.9\n")
    words = ["train", "model=net", "dataset=mine", "optimizer=mine", *TINY]
    said = message(capsys, *words)
    assert "conf/optimizer/mine.yaml: optimizer.lr is the text 'fast': torch.optim.sgd.SGD" in said
    said = message(capsys, *words, "optimizer.lr=0.1", "optimizer.momentum=much")
    assert "optimizer.momentum is the text 'much'" in said
    said = message(capsys, *words, "optimizer.lr=0.1", "optimizer.momentum=-1")
    assert "SGD(lr=0.1, momentum=-1) can't be built for the model's parameters" in said
    assert "conf/optimizer/mine.yaml sets optimizer.lr=0.1, optimizer.momentum=-1" in said
    assert not list(folder.glob("outputs/*/runs/*"))


def test_a_config_that_is_no_utf_8_is_named(folder, capsys):
    (folder / "conf/model/latin.yaml").write_bytes(
        FILES["conf/model/net.yaml"].encode() + "# für Größen\n".encode("latin-1")
    )
    said = message(capsys, "plan", "model=latin", "dataset=mine", *TINY)
    assert "conf/model/latin.yaml is no UTF-8 text: save it as UTF-8" in said


def test_a_strangers_text_moves_no_cursor(folder, capsys):
    """Ids, column names and errors of a table may hold what terminals obey."""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m"
    rows = [f"{n}e6,{d}e8,{2 + n / d}" for n in (1, 2, 4) for d in (1, 2, 4)]
    (folder / "runs.csv").write_text("\n".join([f"N,D,val {evil}loss", *rows]), encoding="utf-8")
    said = message(capsys, "fit", "runs=runs.csv")
    assert "owned" in said
    assert main(["fit", "runs=runs.csv", f"columns.loss='val {evil}loss'", "draws=0"]) in (0, 3)
    assert main(["fit", "runs=runs.csv", f"columns.loss='{evil}'", "json=true"]) == 1
    for text in (said, *capsys.readouterr()):
        assert not {"\x1b", "\x07", "\x9b"} & set(text)


def test_what_is_drawn_on_a_screen_is_without_commands_of_a_terminal():
    screen = Screen(width=40, force_terminal=True, legacy_windows=False)
    table = Table()
    table.add_column("id\x1b[5m")
    table.add_row("a\x1b[2Jb", style="red")
    with screen.capture() as shown:
        screen.print(table)
        screen.print("name \x9b2J")
    assert re.sub(r"\x1b\[[\d;]*m", "", shown.get()).count("\x1b") == 0  # but our own colours
    assert "\x1b[5m" not in shown.get()
    assert "\x9b" not in shown.get()
    assert json_text({"id": "a\x1b\x9b\x7f"}) == '{\n  "id": "a\\u001b\\u009b\\u007f"\n}'


def test_a_setting_of_thousands_of_digits(folder, capsys):
    said = message(capsys, "predict", "law=chinchilla", f"budget={'1' * 5000}")
    assert "budgets holds a number of thousands of digits: write numbers as 1e21" in said
    (folder / "conf/model/long.yaml").write_text(FILES["conf/model/net.yaml"] + f"x: {'1' * 5000}")
    said = message(capsys, "plan", "model=long", "dataset=mine", *TINY)
    assert "a config holds a number of thousands of digits" in said


def test_a_table_with_a_number_of_thousands_of_digits(folder, capsys):
    line = '{"N": 1e8, "D": 1e9, "loss": 2, "seed": ' + "1" * 5000 + "}"
    (folder / "runs.jsonl").write_text(line)
    said = message(capsys, "fit", "runs=runs.jsonl")
    assert "runs.jsonl is no table that can be read (it holds a number of 5,000 digits)" in said


def test_metric_of_another_kind_of_target(folder, capsys):
    metric = "+metrics.entropy={_target_: flops_fit.learning.losses.cross_entropy, _partial_: true}"
    said = message(capsys, "plan", "model=net", "dataset=mine", metric, *TINY)
    assert "metric entropy can't compare the model's output (8, 1) float32" in said


def test_empty_dataset(folder, capsys):
    said = message(capsys, "plan", "model=net", "dataset=mine", "dataset.samples=0", *TINY)
    assert "the dataset is empty" in said


def test_dataset_smaller_than_one_batch(folder, capsys):
    words = ["model=net", "dataset=mine", "dataset.samples=20", *TINY, "batch_size=64"]
    said = message(capsys, "plan", *words)
    assert "18" in said
    assert "64" in said
    assert "batch_size" in said


def test_too_little_data(folder, capsys):
    said = message(capsys, "plan", "model=net", "dataset=mine", "dataset.samples=64", *TINY)
    assert "more than max_epochs=4" in said


def test_output_folder_that_cannot_be_written(folder, capsys):
    (folder / "taken").write_text("a file where a folder should be")
    said = message(capsys, "plan", "output_root=taken", *TINY)
    assert "taken" in said
    assert "output_root=FOLDER" in said


def test_plan_of_another_schema_version(folder, capsys):
    assert main(["plan", *TINY, "study=s"]) == 0
    path = next(folder.glob("outputs/s/plans/*/plan.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    said = message(capsys, "status", "study=s")
    assert "plan.json has schema version 99, this flops-fit reads up to 1" in said


def test_corrupted_result_is_said_and_trained_again(folder, capsys):
    assert main(["train", *TINY, "study=s"]) == 3  # no law of so few sizes
    path = next(folder.glob("outputs/s/runs/*/result.json"))
    path.write_text('{"id": "half a fi')
    capsys.readouterr()
    assert main(["train", *TINY, "study=s"]) == 3
    said = capsys.readouterr().err
    assert f"{path.relative_to(folder)} is not readable JSON" in said
    assert "+1 new" in said
    assert json.loads(path.read_text())["status"] == "completed"


def test_study_that_is_not_there(folder, capsys):
    assert "no study under" in message(capsys, "status")
    assert "no study 'gone'" in message(capsys, "predict", "study=gone")


def test_prediction_before_there_is_a_law(folder, capsys):
    assert main(["plan", *TINY, "study=s"]) == 0
    assert "run `flops-fit fit study=s`" in message(capsys, "predict", "study=s", "budget=1e9")


def test_device_that_is_not_there(folder, capsys):
    assert "device 'cuda:7' can't be used here" in message(capsys, "plan", *TINY, "device=cuda:7")
