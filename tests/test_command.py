"""A stranger's training script as the trainer: `trainer=command`, alone and through the CLI."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flops_fit.cli import main
from flops_fit.cli.verbs import VERBS
from flops_fit.cli.words import for_hydra
from flops_fit.command import CommandTrainer
from flops_fit.errors import ConfigError
from flops_fit.models import MLP
from flops_fit.plan.experiment import Experiment, Size
from flops_fit.store.protocols import Unwatched

E, A, ALPHA, B, BETA = 1.5, 20.0, 0.35, 60.0, 0.3
"""The law that the script below follows to 0.02%."""

SCRIPT = f"""
import argparse, json, os, random, time

parser = argparse.ArgumentParser()
for name in ("width", "tokens", "seed"):
    parser.add_argument("--" + name, type=int)
parser.add_argument("--out")
args = parser.parse_args()
run = f"{{args.width}}-{{args.tokens}}"
with open("calls", "a") as calls:
    print(run, file=calls)
trouble = open("trouble/" + run).read() if os.path.exists("trouble/" + run) else ""
if trouble == "exit":
    raise ValueError("out of luck")
if trouble == "sleep":
    with open(args.out + "/pid", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
num_params = 12 * args.width**2
loss = {E} + {A} / num_params**{ALPHA} + {B} / args.tokens**{BETA}
loss *= 1 + random.Random(run).gauss(0, 2e-4)
with open(args.out + "/result.json", "w") as file:
    json.dump({{"loss": float("nan") if trouble == "nan" else loss}}, file)
"""

WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96)

MINE = """
defaults: [command]
command: {python} -S train.py --width {{size}} --tokens {{num_tokens}} --seed {{seed}} --out {{run_dir}}
sizes: {sizes}
"""  # noqa: E501

SWEEP = ["trainer=mine", "budgets=[1e9,4e9,1.6e10]", "span=4", "num_sizes=5", "center=60"]
SWEEP += ["min_steps=20"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a script and its config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "trouble").mkdir()
    (tmp_path / "conf/trainer").mkdir(parents=True)
    sizes = json.dumps([{"size": width, "num_params": 12 * width**2} for width in WIDTHS])
    mine = MINE.format(python=sys.executable, sizes=sizes)
    (tmp_path / "conf/trainer/mine.yaml").write_text(mine)
    return tmp_path


def results(folder: Path) -> dict[str, dict]:
    """Id -> record of every run on disk."""
    paths = folder.glob("outputs/*/runs/*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def planned(capsys, *words: str) -> list[dict]:
    """The experiments that `plan` shows."""
    assert main(["plan", *words, "json=true"]) == 0
    return json.loads(capsys.readouterr().out)["experiments"]


def make_trouble(folder: Path, experiment: dict, what: str) -> Path:
    """Let the script go wrong in this experiment; returns the file to delete for it to go well."""
    num_tokens = experiment["num_steps"] * experiment["batch_tokens"]
    path = folder / f"trouble/{experiment['size']['value']}-{num_tokens}"
    path.write_text(what)
    return path


def best_num_params(budget: float) -> float:
    """N of the lowest loss at the budget, by trying them all."""
    n = np.geomspace(1e2, 1e6, 20_001)
    return float(n[np.argmin(A / n**ALPHA + B / (budget / 6 / n) ** BETA)])


# The trainer by itself.


def an_experiment(**changes) -> Experiment:
    e = Experiment(
        budget=1e6,
        size=Size("size", 8),
        num_params=100,
        num_params_total=120,
        num_steps=26,
        batch_size=16,
        batch_tokens=64,
        flops_per_token=600.0,
        flops_per_token_counted=700.0,
        flops_per_token_formula=600.0,
        unique_tokens=None,
        seed=3,
        id="C1e06-N100-0",
    )
    return replace(e, **changes)


def python(code: str, *arguments: str) -> str:
    """A command that runs the code."""
    return shlex.join([sys.executable, "-S", "-c", code, *arguments])


def writing(text: str) -> str:
    """A command that writes the text as its result."""
    code = "import sys; open(sys.argv[1] + '/result.json', 'w').write(sys.argv[2])"
    return python(code, "{run_dir}", text.replace("{", "{{").replace("}", "}}"))


def trained(folder: Path, command: str, experiment: Experiment | None = None, **settings):
    run_folder = folder / "a run"  # with a blank in its name
    run_folder.mkdir(exist_ok=True)
    trainer = CommandTrainer(command, **settings)
    return trainer(experiment or an_experiment(), run_folder, Unwatched())


def test_a_run_holds_what_was_planned_and_the_loss_that_was_written(folder):
    run = trained(folder, writing('{"loss": 2.5}'))
    assert (run.status, run.loss, run.id, run.error) == ("completed", 2.5, "C1e06-N100-0", None)
    assert run.num_tokens == run.planned_tokens == 26 * 64
    assert run.num_steps == 26
    assert run.flops == run.flops_formula == 26 * 64 * 600
    assert run.flops_counted == 26 * 64 * 700
    assert 0 < run.wall_time_seconds < 60
    assert run.is_completed


@pytest.mark.parametrize(
    ("text", "key", "loss"),
    [
        ('{\n "loss": 2\n}', "loss", 2.0),
        ('{"loss": 3}\n\n{"loss": 2}\n{"step": 9}\n', "loss", 2.0),
        ('{"eval": {"all": {"loss": 2}}}', "eval.all.loss", 2.0),
        ('{"eval.loss": 2, "eval": {"loss": 3}}', "eval.loss", 2.0),
        ('{"eval": {"a.b": 2}}', "eval.a.b", 2.0),
    ],
)
def test_where_the_loss_may_stand(folder, text, key, loss):
    assert trained(folder, writing(text), loss_key=key).loss == loss


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"step": 1}\n{"val": 2, "lr": 3}', "has no loss: the keys in its last entry are val, lr"),
        ('{"loss": null}', "says loss is null: not a number"),
        ('{"loss": "2.5"}', 'says loss is "2.5": not a number'),
        ('{"loss": true}', "says loss is true: not a number"),
        ("2.5", "has no loss: the keys in its last entry are none"),
        ("", "has no loss"),
        ("loss: 2.5", "is neither JSON nor JSON lines"),
    ],
)
def test_a_result_without_a_loss_is_a_failed_run(folder, text, said):
    run = trained(folder, writing(text))
    assert run.status == "failed"
    assert run.loss is None
    assert said in run.error
    assert run.error.endswith("see " + str(folder / "a run/log.txt"))


def saying(text: str) -> str:
    """A command that prints the text."""
    return python("import sys; print(sys.argv[1])", text)


@pytest.mark.parametrize(
    ("text", "pattern", "loss"),
    [
        ("step:50 val_loss:4.1\nstep:100 val_loss:3.28", r"val_loss:(\S+)", 3.28),
        ("loss 3.5, acc 0.2\nloss 2.5, acc 0.4\nbye", r"loss (\S+)", 2.5),
        ("[eval] (loss=2.5)", r"loss=(?P<loss>[^ ]+)", 2.5),
        ("  1 | 9\n  2 | 2.5e0\n", r"^\s*\d+ \| (\S+)$", 2.5),
        ("\x1b[32mval_loss\x1b[0m: \x1b[1;31m2.5\x1b[0m", r"val_loss: (\S+)", 2.5),
        ("train 1\rtrain 2\rfinal loss: 2.5\n", r"final loss: ([\d.]+)", 2.5),
    ],
)
def test_a_loss_in_the_log_is_the_last_match(folder, text, pattern, loss):
    assert trained(folder, saying(text), loss_pattern=pattern).loss == loss


@pytest.mark.parametrize("pattern", [r"val_loss:(\S+)", r"val_loss:([\d.]+)"])
@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "NaN"])
def test_a_log_that_ends_in_nan_is_divergence_whatever_the_pattern(folder, pattern, word):
    said = f"step:50 val_loss:4.1\nstep:100 val_loss:{word}"
    run = trained(folder, saying(said), loss_pattern=pattern)
    assert (run.status, run.loss) == ("diverged", None)


def test_another_attempts_lines_do_not_count(folder):
    assert trained(folder, saying("val_loss:4.1"), loss_pattern=r"val_loss:(\S+)").loss == 4.1
    run = trained(folder, saying("no more"), loss_pattern=r"val_loss:(\S+)")
    assert run.status == "failed"
    assert r"log.txt matches 'val_loss:(\S+)': it ends with: no more; see" in run.error


def test_a_pattern_may_be_of_a_file(folder):
    code = "import sys; open(sys.argv[1] + '/log', 'w').write('loss 2.5')"
    command = python(code, "{run_dir}")
    settings = {"loss_pattern": r"loss (\S+)", "loss_file": "{run_dir}/log"}
    assert trained(folder, command, **settings).loss == 2.5
    run = trained(folder, saying("loss 3"), **settings)
    assert "ended well but wrote no" in run.error


def test_all_matches_with_a_step_are_the_curve(folder):
    said = "step:0 loss:9 acc:0\nstep:13 loss:3 acc:.1\nstep:26 loss:2.5 acc:.3\nseen 832"
    pattern = r"step:(?P<step>\d+) loss:(?P<loss>\S+) acc:(?P<acc>\S+)|seen (?P<seen>\d+)"
    settings = {"metrics": {"accuracy": "acc"}, "num_tokens_key": "seen"}
    run = trained(folder, saying(said), loss_pattern=pattern, **settings)
    assert (run.loss, run.metrics, run.num_tokens) == (2.5, {"accuracy": 0.3}, 832)
    lines = (folder / "a run/metrics.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    assert [point["held_out_loss"] for point in points] == [3.0, 2.5]
    assert [point["num_tokens"] for point in points] == [13 * 64, 26 * 64]
    assert [point["train_loss"] for point in points] == [None, None]


@pytest.mark.parametrize(
    ("text", "pattern", "said"),
    [
        ("loss 3,28", r"loss (\S+)", "says loss is '3,28': not a number"),
        ("", r"loss (\S+)", "it is empty"),
        ("step 3", r"step (?P<step>\d+)|(?P<loss>L\d)", "has no loss: the keys in its last entry"),
    ],
)
def test_a_log_without_a_loss_is_a_failed_run(folder, text, pattern, said):
    run = trained(folder, saying(text), loss_pattern=pattern)
    assert run.status == "failed"
    assert said in run.error


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity"])
def test_a_loss_that_is_not_finite_is_divergence(folder, loss):
    run = trained(folder, writing(f'{{"loss": {loss}}}'))
    assert (run.status, run.loss) == ("diverged", None)
    assert "says the loss is" in run.error
    json.dumps(run.to_json(), allow_nan=False)


def test_further_numbers_are_kept(folder):
    text = '{"loss": 2, "eval": {"accuracy": 0.5}, "odd": NaN}'
    run = trained(folder, writing(text), metrics={"accuracy": "eval.accuracy", "odd": "odd"})
    assert run.metrics == {"accuracy": 0.5}
    run = trained(folder, writing(text), metrics={"f1": "eval.f1"})
    assert run.status == "failed"
    assert "has no eval.f1" in run.error


def test_tokens_that_were_really_trained_count(folder):
    run = trained(folder, writing('{"loss": 2, "tokens": 832}'), num_tokens_key="tokens")
    assert run.num_tokens == 832 == run.planned_tokens / 2
    assert run.num_steps == 13
    assert (run.flops, run.flops_counted) == (832 * 600, 832 * 700)
    run = trained(folder, writing('{"loss": 2, "tokens": 0}'), num_tokens_key="tokens")
    assert run.status == "failed"
    assert "says that 0 tokens were trained" in run.error


def test_an_earlier_result_does_not_pass_for_this_one(folder):
    assert trained(folder, writing('{"loss": 2}')).status == "completed"
    run = trained(folder, python("pass"))
    assert run.status == "failed"
    assert "ended well but wrote no" in run.error
    assert (folder / "a run/output/result.json.earlier").read_text() == '{"loss": 2}'


def test_a_failed_command_says_its_exit_code_and_its_last_line(folder):
    run = trained(folder, python("print('so far so good'); raise ValueError('out of luck')"))
    assert run.status == "failed"
    assert "ended with exit code 1: ValueError: out of luck; see" in run.error
    run = trained(folder, python("import os; os.kill(os.getpid(), 9)"))
    assert "was killed by signal 9" in run.error


def test_a_command_that_takes_too_long_is_a_failed_run(folder):
    run = trained(folder, python("import time; time.sleep(60)"), timeout_seconds=0.1)
    assert run.status == "failed"
    assert "took longer than 0.1 seconds" in run.error


def told(folder: Path, *templates: str, **changes) -> list[str]:
    """What a command gets to see of the templates."""
    code = "import json, sys; json.dump(dict(loss=1, words=sys.argv[2:]), open(sys.argv[1], 'w'))"
    command = python(code, "{run_dir}/result.json", *templates)
    assert trained(folder, command, an_experiment(**changes)).status == "completed"
    return json.loads((folder / "a run/output/result.json").read_text())["words"]


def test_a_command_is_told_its_experiment(folder):
    names = ["size", "num_params", "num_tokens", "num_steps", "batch_size", "batch_tokens"]
    names += ["budget", "flops", "seed", "data_seed", "run_id", "run_dir", "learning_rate"]
    e = an_experiment(learning_rate=3e-4, data_seed=5)
    words = told(folder, *(f"{{{name}}}" for name in names), learning_rate=3e-4, data_seed=5)
    expected = [8, 100, e.num_tokens, 26, 16, 64, e.budget, e.flops, 3, 5, e.id]
    assert words == [*map(str, expected), str(folder / "a run/output"), "0.0003"]


def test_values_stay_whole_and_doubled_braces_are_braces(folder):
    templates = ["--out={run_dir}/x", "two words", '{{"width": {size:03d}}}', "$HOME", "a;b"]
    assert told(folder, *templates) == [
        f"--out={folder}/a run/output/x", "two words", '{"width": 008}', "$HOME", "a;b",
    ]  # fmt: skip


def test_a_whole_shape_is_told_by_its_names(folder):
    shape = Size("shape", {"width": 64, "depth": 4})
    assert told(folder, "{width}x{depth}", size=shape) == ["64x4"]
    assert told(folder, "{width}", "{size}", size=Size("width", 64)) == ["64", "64"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"command": "true {widht}"}, r"asks for \{widht\}, which is not known: did you mean"),
        ({"command": "true {} {num_params} {num_tokens}"}, r"asks for \{\}, which is not known"),
        ({"command": "true {size.value}"}, r"asks for \{size.value\}, which is not known"),
        ({"command": "true {size:x>q}"}, "can't be filled in"),
        ({"command": "true {size"}, "is no template"),
        ({"command": "true '{size}"}, "No closing quotation"),
        ({"command": " "}, "trainer.command is empty"),
        ({"command": "no-such-program {size} {num_tokens}"}, "there is no such program"),
        ({"command": "true {num_tokens}"}, "never says how large the model is"),
        ({"command": "true {size}"}, "never says how long to train"),
        ({"loss_file": "{run_dir}/{nmae}.json"}, r"asks for \{nmae\}"),
        ({"loss_file": "loss.json"}, "loss_file is 'loss.json' for all runs"),
        ({"loss_pattern": "loss ("}, "is 'loss \\(', no regular expression"),
        ({"loss_pattern": "loss .*"}, "put the loss in a group"),
        ({"loss_pattern": "(a|b) (.*)"}, "of several name it: '\\(\\?P<loss>"),
        ({"loss_pattern": "(?P<val>.*)"}, "of several name it: '\\(\\?P<loss>"),
        ({"loss_pattern": "(.)", "metrics": {"f": "acc"}}, "has no group acc"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0: it must be above 0"),
    ],
)
def test_a_command_that_cannot_work_is_refused(settings, said):
    settings = {"command": "true {size} {num_tokens}", **settings}
    with pytest.raises(ConfigError, match=said):
        CommandTrainer(**settings).check([an_experiment(size=Size("width", 8))])


def test_repeated_seeds_must_reach_the_command():
    seeds = [an_experiment(seed=seed) for seed in (0, 1)]
    CommandTrainer("true {size} {num_tokens} {seed}").check(seeds)
    with pytest.raises(ConfigError, match="never says which of several seeds to take"):
        CommandTrainer("true {size} {num_tokens}").check(seeds)


def test_a_shape_cannot_hide_what_a_run_is_told():
    experiment = an_experiment(size=Size("shape", {"width": 8, "seed": 1}))
    with pytest.raises(ConfigError, match="a size can't be called seed"):
        CommandTrainer("true {width} {num_tokens}").check([experiment])


def test_torch_is_not_needed_for_it(folder):
    code = "import sys, flops_fit.command; assert not {'torch', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Through the command line.


@pytest.mark.slow
def test_the_whole_chain(folder, capsys):
    """A script that first fails, hangs and diverges at one size each; then the rest of the way."""
    experiments = planned(capsys, *SWEEP)
    exits, sleeps, diverges = (experiments[i] for i in (1, 5, 9))
    troubles = [
        make_trouble(folder, exits, "exit"),
        make_trouble(folder, sleeps, "sleep"),
        make_trouble(folder, diverges, "nan"),
    ]
    limited = [*SWEEP, "trainer.timeout_seconds=3"]
    assert main(["train", *limited, "draws=100"]) == 3
    said = capsys.readouterr().err
    assert "ValueError: out of luck" in said
    assert "took longer than 3 seconds" in said
    assert f"{diverges['id']} diverged" in said
    statuses = {run_id: run["status"] for run_id, run in results(folder).items()}
    assert statuses == {
        **{e["id"]: "completed" for e in experiments},
        exits["id"]: "failed",
        sleeps["id"]: "failed",
        diverges["id"]: "diverged",
    }

    for trouble in troubles:
        trouble.unlink()
    assert main(["train", *limited, "draws=100"]) == 0
    assert f"+2 new, {len(experiments) - 2} completed already" in capsys.readouterr().err
    assert main(["train", *SWEEP, "retry=diverged", "draws=100", "json=true"]) == 0
    said = capsys.readouterr()
    assert f"+1 new, {len(experiments) - 1} completed already" in said.err
    assert len((folder / "calls").read_text().splitlines()) == len(experiments) + 3
    surface = json.loads(said.out)["surface"]
    assert surface["alpha"] == pytest.approx(ALPHA, abs=0.02)
    assert surface["beta"] == pytest.approx(BETA, abs=0.02)

    assert main(["predict", "budget=1.6e11", "json=true"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["num_params"] == pytest.approx(best_num_params(1.6e11), rel=0.1)
    assert main(["verify", *limited, "budget=3.2e10", "json=true"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["error"]) < 0.01
    assert main(["verify", *SWEEP, "budget=3.2e10", "trainer.loss_key=other"]) == 1
    assert "trainer.loss_key is loss there and other here" in capsys.readouterr().err

    assert main(["fit", "fit=isoflop", "draws=0"]) == 0
    assert main(["report"]) == 0
    capsys.readouterr()
    assert main(["status", "json=true"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["completed"] == status["planned"] == len(experiments)
    assert Path(status["study"]).name == "mine"


def test_the_command_may_stand_on_the_command_line(folder, capsys):
    command = (
        f"{sys.executable} -S train.py --width {{size}} --tokens {{num_tokens}} --out={{run_dir}}"
    )
    words = ["trainer=command", f"trainer.command='{command}'", "budgets=[1e9]", "draws=0"]
    words += ["trainer.sizes=[{size:16,num_params:3072},{size:24,num_params:6912}]", "center=60"]
    assert main(["plan", *words]) == 0
    assert "here (" not in capsys.readouterr().err  # nobody knows how long it takes
    assert main(["train", *words]) == 3  # no law of two runs
    (first, second) = sorted(results(folder).values(), key=lambda run: run["num_params"])
    assert (first["num_params"], second["num_params"]) == (3072, 6912)
    for run in (first, second):
        law = E + A / run["num_params"] ** ALPHA + B / run["num_tokens"] ** BETA
        assert run["loss"] == pytest.approx(law, rel=1e-3)
        assert run["num_tokens"] == run["planned_tokens"]
    assert (folder / "outputs/command/latest/plan.json").exists()


def test_tokens_off_the_plan_are_pointed_out(folder, capsys):
    text = '{{"loss": 2, "tokens": 64000}}'
    code = f"import sys; open(sys.argv[1] + '/result.json', 'w').write('{text}')"
    command = python(code, "{run_dir}", "{size}", "{num_tokens}")
    (folder / "conf/trainer/short.yaml").write_text(
        f"defaults: [command]\ncommand: {json.dumps(command)}\nnum_tokens_key: tokens\n"
        "sizes: [{size: 16, num_params: 3072}]\n"
    )
    assert main(["train", "trainer=short", "budgets=[1.2e9,4e9]", "draws=0"]) == 3  # no law
    said = capsys.readouterr().err
    assert "trained 64,000 tokens, 217,024 were planned" in said
    assert "65,088 were planned" in said


def test_ids_know_the_command_and_the_numbers_but_no_time_limit(folder, capsys):
    def ids(*words: str) -> set[str]:
        return {e["id"] for e in planned(capsys, *SWEEP, *words)}

    ours = ids()
    assert ids("trainer.timeout_seconds=60", "trainer.unique_tokens=1e9") == ours
    for change in ("trainer.loss_key=val", "trainer.command='true {size} {num_tokens}'", "seed=1"):
        assert not ids(change) & ours
    assert ids("trainer.metrics={accuracy: acc}").isdisjoint(ours)


def test_another_number_of_parameters_is_another_run(folder, capsys):
    def ids(*num_params: int) -> dict[int, str]:
        sizes = [
            {"size": i, "num_params": n, "flops_per_token": 3e4} for i, n in enumerate(num_params)
        ]
        text = json.dumps(sizes).replace('"', "").replace(" ", "")
        words = [*SWEEP, f"trainer.sizes={text}", "budgets=[1e9]", "sizes=[0,1]"]
        return {e["size"]["value"]: e["id"] for e in planned(capsys, *words)}

    before, after = ids(3000, 5000), ids(3000, 5001, 7000)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_listed_flops_are_the_rule(folder, capsys):
    one = "{size:1,num_params:3000,flops_per_token:3e4}"
    two = "{size:2,num_params:5000,flops_per_token:4e4}"
    words = [*SWEEP, f"trainer.sizes=[{one},{two}]", "sizes=[1,2]"]
    for e in planned(capsys, *words):
        assert e["flops_per_token"] == {1: 3e4, 2: 4e4}[e["size"]["value"]]
    for e in planned(capsys, *words, "flops=formula"):
        assert e["flops_per_token"] == 6 * e["num_params"]


def test_whole_shapes_and_data_that_repeat(folder, capsys):
    sizes = "[{size:{width:8,depth:2},num_params:3000},{size:{width:8,depth:3},num_params:5000}]"
    words = [*SWEEP, f"trainer.sizes={sizes}", "budgets=[1e9]", "trainer.unique_tokens=50000"]
    words += ["trainer.command='true {width} {depth} {num_tokens}'", "num_sizes=2"]
    small, large = planned(capsys, *words)
    assert small["size"] == {"name": "shape", "value": {"width": 8, "depth": 2}}
    assert {small["unique_tokens"], large["unique_tokens"]} == {50_000}
    (alone,) = planned(capsys, *words, "max_epochs=1")
    assert alone == large


def test_without_sizes_the_model_is_counted_and_no_data_are_needed(folder, capsys):
    text = (folder / "conf/trainer/mine.yaml").read_text()
    (folder / "conf/trainer/counted.yaml").write_text(text.partition("sizes:")[0])
    words = ["trainer=counted", "model=mlp", "model.in_features=5", "budgets=[1e9]"]
    assert main(["plan", *words, "json=true"]) == 0
    said = capsys.readouterr()
    assert "num_params are those of flops_fit.models.MLP" in said.err
    experiments = json.loads(said.out)["experiments"]
    assert len(experiments) >= 3
    for e in experiments:
        with torch.device("meta"):
            model = MLP(width=e["size"]["value"], in_features=5, depth=3)
        assert e["num_params"] == model.num_params()
        assert e["flops_per_token"] == 6 * e["num_params"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.command='true {size} {tokens}'"], "asks for {tokens}, which is not known"),
        (["trainer.sizes=[]"], "trainer.sizes is empty"),
        (["trainer.sizes=[{size:8}]"], "in trainer.sizes: write {size: 64, num_params: 49152}"),
        (["trainer.sizes=[{size:8,num_params:0}]"], "num_params is 0 in trainer.sizes"),
        (
            ["trainer.sizes=[{size:8,num_params:1e3},{size:8,num_params:2e3}]"],
            "trainer.sizes repeats a size",
        ),
        (
            ["trainer.sizes=[{size:1,num_params:1e3,flops_per_token:1e4},{size:2,num_params:2e3}]"],
            "1 of 2 trainer.sizes say flops_per_token",
        ),
        (["sizes=[8,9]"], "there is no size 9 in trainer.sizes, which lists 8; 12"),
        (["flops=counted"], "give flops_per_token in each of trainer.sizes"),
        (["share_trunks=true", "schedule=wsd"], "share_trunks=true is for our own training loop"),
        (["trainer.los_key=loss"], "los_key"),
        (["+trainer.los_key=loss"], "takes no argument 'los_key': did you mean 'loss_key'"),
        (["trainer._target_=builtins.dict"], "builtins.dict trains by no command"),
    ],
)
def test_what_cannot_be_planned_is_said(capsys, words, said):
    assert main(["plan", *SWEEP, *words]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_config_that_takes_our_recipe_along_is_refused(folder, capsys):
    text = (folder / "conf/trainer/mine.yaml").read_text()
    own = text.replace("defaults: [command]", "_target_: flops_fit.command.CommandTrainer")
    (folder / "conf/trainer/own.yaml").write_text(own)
    assert main(["plan", "trainer=own"]) == 1
    assert "own.yaml with `defaults: [command]`" in capsys.readouterr().err


# With other processes.


@pytest.mark.slow
def test_several_commands_at_once_give_the_same(folder, capsys):
    assert main(["train", *SWEEP, "draws=0"]) == 0
    assert main(["train", *SWEEP, "draws=0", "output_root=others", "workers=2"]) == 0
    one = {run_id: run["loss"] for run_id, run in results(folder).items()}
    paths = folder.glob("others/*/runs/*/result.json")
    assert {path.parent.name: json.loads(path.read_text())["loss"] for path in paths} == one
    assert len(one) >= 12


def start(folder: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flops_fit", "train", *SWEEP, "draws=0", *words],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


def pid_of_the_sleeper(folder: Path) -> int:
    """Of the script that is in trouble, once it has begun."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob("outputs/mine/runs/*/output/pid"):
            if text := path.read_text():
                return int(text)
        time.sleep(0.05)
    raise TimeoutError("no script has begun")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_and_then_the_same_command(folder, capsys, workers):
    """In this process the script outlives us and is ended by the next call; a worker ends it."""
    experiments = planned(capsys, *SWEEP)
    trouble = make_trouble(folder, experiments[-2], "sleep")
    process = start(folder, f"workers={workers}")
    pid = pid_of_the_sleeper(folder)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    trouble.unlink()
    done = results(folder)
    assert main(["train", *SWEEP, "draws=0"]) == 0
    assert not is_alive(pid)
    new = len(experiments) - len(done)
    assert f"+{new} new, {len(done)} completed already" in capsys.readouterr().err
    assert new >= 1
    assert [run["status"] for run in results(folder).values()] == ["completed"] * len(experiments)
    log = folder / f"outputs/mine/runs/{experiments[-2]['id']}/log.txt"
    assert log.read_text().count("=== flops-fit") == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_the_script(folder, capsys, workers):
    experiments = planned(capsys, *SWEEP)
    make_trouble(folder, experiments[-2], "sleep")
    process = start(folder, f"workers={workers}")
    pid = pid_of_the_sleeper(folder)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted; run the same command to continue" in said
    assert "Traceback" not in said
    assert not is_alive(pid)
    assert experiments[-2]["id"] not in results(folder)


REAL = '''
"""Gradient descent on the first --width of infinitely many features of a target."""
import argparse, json, os
import numpy as np

parser = argparse.ArgumentParser()
for name in ("width", "steps", "batch", "seed"):
    parser.add_argument("--" + name, type=int)
parser.add_argument("--out")
args = parser.parse_args()
rng = np.random.default_rng(args.seed)
scale = np.arange(1, args.width + 1) ** -0.75
unseen = (np.arange(args.width + 1, 4096) ** -1.5).sum() ** 0.5  # the features left out


def draw(num_samples):
    x = rng.standard_normal((num_samples, args.width)) * scale
    return x, x.sum(axis=1) + unseen * rng.standard_normal(num_samples)


held_out = draw(8192)
weights = np.zeros(args.width)
with open(os.path.join(args.out, "log.jsonl"), "w") as log:
    for step in range(args.steps):
        x, y = draw(args.batch)
        error = x @ weights - y
        weights -= 0.3 * (1 - step / args.steps) * x.T @ error / args.batch
        if step % 50 == 0:
            print(json.dumps({"step": step, "train": {"loss": (error**2).mean()}}), file=log)
    x, y = held_out
    loss = ((x @ weights - y) ** 2).mean()
    tokens = args.steps * args.batch
    print(json.dumps({"val": {"loss": loss}, "tokens": tokens}), file=log)
'''


@pytest.mark.slow
def test_a_script_that_really_trains(folder, capsys):
    """A regression by numpy: curves with interior minima, and a loss predicted beyond them."""
    (folder / "sgd.py").write_text(REAL)
    sizes = [{"size": w, "num_params": w} for w in (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)]
    command = "sgd.py --width {size} --steps {num_steps} --batch {batch_size} --seed {seed}"
    (folder / "conf/trainer/sgd.yaml").write_text(
        f"defaults: [command]\ncommand: {sys.executable} {command} --out {{run_dir}}\n"
        "loss_file: '{run_dir}/log.jsonl'\nloss_key: val.loss\nnum_tokens_key: tokens\n"
        f"sizes: {json.dumps(sizes)}\n"
    )
    words = ["trainer=sgd", "budgets=[5e5,1e6,2e6,4e6]", "batch_size=16", "min_steps=30"]
    words += ["center=150", "span=4", "num_sizes=5", "draws=200", "fit=isoflop"]
    assert main(["train", *words, "json=true"]) == 0
    budgets = json.loads(capsys.readouterr().out)["isoflop"]["budgets"]
    assert [budget["verdict"] for budget in budgets] == ["ok"] * 4
    optima = [budget["N_opt"] for budget in budgets]
    assert optima == sorted(optima)
    losses = [budget["loss"] for budget in budgets]
    assert losses == sorted(losses, reverse=True)
    assert main(["verify", *words, "budget=1e7", "json=true"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert abs(verified["error"]) < 0.15  # a squared error: no published law tells its asymptote
    assert verified["inside"]["95"]
    run = results(folder)[next(iter(results(folder)))]
    assert run["num_tokens"] == run["planned_tokens"]
    assert os.path.getsize(folder / f"outputs/sgd/runs/{run['id']}/output/log.jsonl") > 0


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        (
            "trainer.command=a.py {size} --out={run_dir}",
            "trainer.command='a.py {size} --out={run_dir}'",
        ),
        ("trainer.command=sh -c 'x y'", r"trainer.command='sh -c \'x y\''"),
        ("trainer.command='a.py {size}'", "trainer.command='a.py {size}'"),
        ("trainer.loss_file={run_dir}/a.json", "trainer.loss_file='{run_dir}/a.json'"),
    ],
)
def test_a_command_on_the_command_line_is_plain_text(word, becomes):
    assert for_hydra(VERBS["train"], [word])[-1] == becomes
