"""Time on machines that one is not on: against measured steps, and by the command line."""

import json
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_study import planned

from flops_fit.cli import main
from flops_fit.errors import ConfigError
from flops_fit.models.mlp import MLP
from flops_fit.models.transformer import Transformer
from flops_fit.training.dry_step import Parts, dry_step
from flops_fit.training.hardware import KNOWN, named
from flops_fit.training.roofline import on, seconds_on, step_seconds, step_times_on

ADAMW = partial(torch.optim.AdamW, lr=1e-3, fused=True)

MEASURED = {
    # width, depth, heads, vocabulary, context, sequences: ms of a captured step, and of a compiled
    # and captured one, on an H200 SXM in bf16 with torch 2.11
    (64, 4, 4, 256, 256, 16): (0.994, 0.666),
    (256, 4, 4, 256, 256, 32): (2.06, 1.3),
    (512, 8, 8, 256, 256, 32): (7.01, 4.4),
    (768, 12, 12, 50304, 1024, 32): (103.5, 58.0),
}


def in_fp32(prediction, target):
    return F.cross_entropy(prediction.flatten(0, 1).float(), target.flatten())


@pytest.mark.parametrize("shape", MEASURED, ids=str)
def test_steps_on_an_h200_take_what_was_measured(shape):
    width, depth, heads, vocabulary, context, samples = shape
    ids = torch.empty(samples, context, dtype=torch.int64, device="meta")
    build = partial(Transformer, width, vocabulary, context, depth=depth, num_heads=heads)
    step = dry_step(Parts(build, (ids, ids), in_fp32, ADAMW, "cuda", "bf16"))
    eager, compiled = (1e3 * step_seconds(step, KNOWN["h200"], c) for c in (False, True))
    assert eager == pytest.approx(MEASURED[shape][0], rel=0.25)
    assert compiled == pytest.approx(MEASURED[shape][1], rel=0.25)


def test_a_small_step_is_all_launches():
    batch = torch.empty(64, 8, device="meta"), torch.empty(64, 1, device="meta")
    step = dry_step(Parts(partial(MLP, 32, 8), batch, F.mse_loss, ADAMW, "cuda", "fp32"))
    assert 1e3 * step_seconds(step, KNOWN["h200"]) == pytest.approx(0.103, rel=0.25)


def test_a_faster_card_takes_less_and_compiling_helps(tmp_path):
    plan, recipe = planned(tmp_path)
    seconds = {}
    for name in ("t4", "a100", "b200"):
        there = on(KNOWN[name], recipe, "fp32")
        of = step_times_on(KNOWN[name], plan.experiments, there)
        seconds[name] = [of(e) for e in plan.experiments]
    assert seconds["t4"] >= seconds["a100"] >= seconds["b200"]


def test_two_at_once_take_half(tmp_path):
    plan, recipe = planned(tmp_path)
    there = on(KNOWN["h100"], recipe, "auto")
    step = step_times_on(KNOWN["h100"], plan.experiments, there)
    one, two = (seconds_on(KNOWN["h100"], plan, there, workers, step) for workers in (1, 2))
    assert 0.5 <= two / one < 0.7


def test_a_precision_that_the_machine_lacks(tmp_path):
    _, recipe = planned(tmp_path)
    with pytest.raises(ConfigError, match=r"T4 \(t4\) computes fp32, fp16"):
        on(KNOWN["t4"], recipe, "bf16")
    assert on(KNOWN["t4"], recipe, "auto").precision == "fp32"
    assert on(KNOWN["h100"], recipe, "auto").precision == "bf16"


MINE = "device: cuda\npeaks: {fp32: 50e12, bf16: 400e12}\nmemory_bytes: 48e9\nbandwidth: 2e12\n"


class TestYours:
    def test_a_file_is_a_machine(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(MINE)
        hardware = named(str(path))
        assert (hardware.name, hardware.title, hardware.memory_bytes) == ("mine", "mine", 48e9)
        assert hardware.peaks == {"fp32": 50e12, "bf16": 400e12}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (MINE.replace("bandwidth", "bandwith"), "has device, peaks, memory_bytes, bandwith"),
            (MINE.replace("cuda", "tpu"), "device is 'tpu': give cuda, mps, cpu"),
            (MINE.replace("fp32", "fp8"), "give FLOP/s of fp32"),
            (MINE.replace("48e9", "48 GB"), "memory_bytes is '48 GB': give a number above 0"),
            (MINE.replace("400e12", "-1"), "peaks.bf16 is -1"),
            ("- 1", r"has \[1\]"),
            ("a: [", "is no YAML"),
        ],
    )
    def test_what_is_odd_is_said(self, tmp_path, text, said):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            named(str(path))

    def test_a_file_that_is_not_there(self):
        with pytest.raises(ConfigError, match=r"machine no\.yaml can't be read: No such file"):
            named("no.yaml")

    def test_a_name_that_nobody_knows(self):
        with pytest.raises(ConfigError, match=r"no machine 'h10': did you mean 'h100'\? There are"):
            named("h10")


SMALL = ["model=mlp", "dataset=toy", "budgets=[1e8,2e8]", "num_sizes=3", "min_steps=10"]


def test_plan_for_another_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *SMALL, "machine=h100", "json=true"]) == 0
    said = capsys.readouterr()
    estimate = json.loads(said.out)["estimate"]
    assert estimate["machine"] == "h100"
    assert 0 < estimate["seconds"] < 60
    assert " on h100 (estimate for H100 SXM, bf16, 1 at once)" in said.err
    there = [e["id"] for e in json.loads(said.out)["experiments"]]
    assert main(["plan", *SMALL, "json=true"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert here["estimate"]["machine"] is None
    assert [e["id"] for e in here["experiments"]] == there


def test_plan_names_what_fits_nowhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(MINE.replace("48e9", "4e7"))
    words = ["budgets=[1e12]", "sizes=[64,512]", "batch_size=1024", "max_epochs=1e6"]
    assert main(["plan", "model=mlp", "dataset=toy", *words, "machine=tiny.yaml"]) == 0
    said = capsys.readouterr().err
    assert "width 512 (" in said
    assert "doesn't fit on tiny" in said
    assert "leave it out" in said
