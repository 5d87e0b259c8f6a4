"""Training curves: their shape is found, what doesn't fit is named, the rest is left alone."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flops_fit import Study
from flops_fit.cli import main
from flops_fit.fitting import FitError
from flops_fit.fitting.collapse import Collapse, Curve, collapse, shape_of

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "tests/assets/studies"

BUDGETS = (1e8, 3e8, 1e9, 3e9)


def curve(
    budget: float = 1e9, noise: float = 0.5, *, name: str = "", reducible: float = 0.2,
    floor: float = 1.0, points: int = 50, num_steps: int = 2000, warmup: float = 0.05,
    end_rate: float = 0.0, descent: float = 0.5, scatter: float = 0.0, seed: int = 0,
) -> Curve:  # fmt: skip
    """A curve of the model itself, in points evenly spaced in the logarithm of steps."""
    x = (np.arange(num_steps) + 1) / num_steps
    decay = 0.5 * (1 + np.cos(np.pi * (x - warmup) / (1 - warmup)))
    rate = np.where(x <= warmup, x / warmup, end_rate + (1 - end_rate) * decay)
    spent = np.cumsum(rate) / rate.sum()
    expected = floor + reducible * (spent**-descent + noise * (rate - rate[-1]))
    seen = expected * (1 + scatter * np.random.default_rng(seed).standard_normal(num_steps))
    steps = np.unique(np.round(num_steps ** (np.arange(points + 1) / points)).astype(int))
    sums = np.concatenate([[0], np.cumsum(seen)])
    before = np.concatenate([[0], steps[:-1]])
    loss = (sums[steps] - sums[before]) / (steps - before)
    name = name or f"{budget:.0e}-{seed}"
    share, rates = steps / num_steps, 3e-3 * rate[steps - 1]
    return Curve(name, budget, budget**0.5, share, loss, rates, floor + reducible, num_steps)


def sweep(drift: float, *, scatter: float = 0.02, growth: float = 0.0) -> list[Curve]:
    """Three curves at each budget; ln of the noise share changes by `drift` over them."""
    along = np.linspace(0, 1, len(BUDGETS))
    return [
        curve(c, 0.5 * float(np.exp(drift * a)), scatter=scatter, seed=3 * i + k)
        for i, (c, a) in enumerate(zip(BUDGETS, along, strict=True))
        for k in range(3)
    ]


@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("floor", [0.0, 1.0, 5.0])
def test_the_planted_shape_comes_back_whatever_the_floor(noise, floor):
    shape = shape_of(curve(noise=noise, floor=floor))
    assert shape.reducible == pytest.approx(0.2, rel=0.02)
    assert shape.noise_share == pytest.approx(noise, rel=0.05)


def test_units_of_loss_and_rate_change_nothing():
    plain = curve(scatter=0.02)
    scaled = replace(plain, loss=7 * plain.loss, final=7 * plain.final, rate=1e3 * plain.rate)
    assert shape_of(scaled).noise_share == pytest.approx(shape_of(plain).noise_share)
    assert shape_of(scaled).reducible == pytest.approx(7 * shape_of(plain).reducible)


def test_a_longer_warm_up_is_left_out():
    assert shape_of(curve(warmup=0.2)).noise_share == pytest.approx(0.5, rel=0.1)


def test_a_curve_that_rises_has_no_shape():
    rising = curve(noise=0.0)
    assert shape_of(replace(rising, loss=2 * rising.final - rising.loss)) is None


@pytest.mark.parametrize(("drift", "drifts"), [(-1.4, True), (-0.2, False), (0.0, False),
                                               (1.0, False), (2.2, True)])  # fmt: skip
def test_a_drift_of_the_noise_share_is_found_beyond_what_good_rates_show(drift, drifts):
    found = collapse(sweep(drift))
    assert found.drift == pytest.approx(drift, abs=0.35)
    assert found.drifts is drifts
    assert bool(found.finding) is drifts
    low, high = found.allowed
    assert low == pytest.approx(-0.6)
    assert high == pytest.approx(0.6 + 0.25 * np.log(30))


def test_the_sentence_says_which_way_and_what_to_try():
    high, low = collapse(sweep(2.2)).finding, collapse(sweep(-1.4)).finding
    assert "at 1e8 FLOPs" in high
    assert "at 3e9" in high
    assert "too high for the large sizes: try half that" in high
    assert "too low for the large sizes: try twice that" in low


def test_a_drift_that_noise_may_explain_is_not_said():
    noisy = Collapse(drift=-1.0, stderr=0.8, freedom=9, allowed=(-0.6, 1.45), runs=())
    assert not noisy.drifts
    assert replace(noisy, stderr=0.3).drifts
    assert replace(noisy, drift=1.5, stderr=0.3).drifts
    assert not replace(noisy, drift=1.4, stderr=0.3).drifts


def test_a_single_curve_apart_is_named():
    curves = sweep(0.0)
    bad = curve(1e9, 3.0, name="spiky", scatter=0.02, seed=50)
    found = collapse([*curves, bad])
    (off,) = found.off
    assert off.id == "spiky"
    assert off.deviation > 0.1
    assert "but for spiky (+" in found.finding
    assert not collapse(curves).off


def test_a_curve_that_shows_no_noise_weighs_no_more_than_others():
    """Its logarithm would be far below that of all others."""
    curves = sweep(0.0)
    without = curve(1e8, 0.0, scatter=0.02, seed=60)
    found = collapse([*curves, without])
    assert found.drift == pytest.approx(collapse(curves).drift, abs=0.35)


def test_one_noisy_budget_is_in_the_standard_error():
    calm = collapse(sweep(0.0, scatter=0.002)).stderr
    assert collapse(sweep(0.0, scatter=0.05)).stderr > 3 * calm


@pytest.mark.parametrize(
    "curves",
    [
        [],
        sweep(0.0)[:5],  # of two budgets
        [curve(c, seed=k) for c in BUDGETS[:3] for k in range(1)],
        [curve(c, seed=k) for c in (1e8, 3e8, 9e8) for k in range(4)],
        [curve(c, points=6, seed=k) for c in BUDGETS for k in range(3)],
        [curve(c, num_steps=300, seed=k) for c in BUDGETS for k in range(3)],
        [curve(c, end_rate=0.6, seed=k) for c in BUDGETS for k in range(3)],
    ],
)
def test_too_little_to_tell_is_none(curves):
    assert collapse(curves) is None


def test_everything_goes_into_json():
    found = collapse(sweep(2.2))
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["drifts"] is True
    assert data["finding"] == found.finding
    assert len(data["runs"]) == 12


@pytest.fixture
def study(tmp_path, monkeypatch):
    shutil.copytree(STUDIES, tmp_path / "outputs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flops_fit.fitting.collapse.FEWEST_STEPS", 30)
    return Study.open("outputs/toy")


def test_a_study_knows_the_collapse_of_its_runs(study):
    found = study.collapse()
    assert found is not None
    ids = {run.id for run in study}
    assert {run.id for run in found.runs} <= ids
    assert len({run.budget for run in found.runs}) == 3


def test_runs_that_see_samples_twice_are_left_out(study):
    from flops_fit.study.curves import collapse_of

    runs = [replace(run, unique_tokens=int(run.num_tokens) // 2) for run in study.runs]
    assert collapse_of(runs, study.fitted.folder, study.law) is None


def test_without_a_law_the_best_runs_stand_for_the_optima(study):
    from flops_fit.study.curves import collapse_of

    assert collapse_of(study.runs, study.fitted.folder, None) is not None


def test_curves_that_are_not_there_or_none_are_answered(study):
    for path in Path("outputs/toy/runs").glob("*/metrics.jsonl"):
        path.write_text("[]\n{}")
    with pytest.raises(FitError, match="is no training curve"):
        study.collapse()
    for path in Path("outputs/toy/runs").glob("*/metrics.jsonl"):
        path.unlink()
    assert study.collapse() is None


def test_report_warns_of_curves_that_do_not_collapse(study, capsys, monkeypatch):
    monkeypatch.setattr("flops_fit.fitting.collapse.FEWEST_STEPS", 400)
    assert study.collapse() is None  # runs of 30 to 300 steps say nothing
    assert main(["report", "study=toy"]) == 0
    assert "shape" not in capsys.readouterr().err
    monkeypatch.setattr("flops_fit.cli.report.collapse_finding", lambda *_: "they don't")
    assert main(["report", "study=toy"]) == 0
    assert "warning: they don't (docs/collapse.md)" in capsys.readouterr().err


def check():
    spec = importlib.util.spec_from_file_location(
        "collapse_check", ROOT / "scripts/collapse_check.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_simulated_sweeps_are_told_apart(monkeypatch):
    """Where the noise share grows as C^0.125 by itself, a factor of 4 shows either way."""
    script = check()
    monkeypatch.setattr(script, "SIMULATED", 25)
    said = {
        row.rates: np.mean([one.drifts for one in row.found])
        for row in script.simulated_rows()
        if row.kind.endswith("C^0.125")
    }
    right, high, low = said.values()
    assert right <= 0.05
    assert high >= 0.9
    assert low >= 0.9


@pytest.mark.slow
def test_real_sweeps_are_trained_with_the_planted_rates(monkeypatch, tmp_path):
    script = check()
    monkeypatch.setattr(script, "REAL_BUDGETS", (1e7, 3e7, 1e8))
    for factor in (1.0, 4.0):
        curves = script.real_sweep(script.RECIPES[0], factor, 0, tmp_path)
        assert len(curves) == 9
        (folder,) = tmp_path.iterdir()
        results = [json.loads(p.read_text()) for p in folder.glob("runs/*/result.json")]
        rates = {round(run["learning_rate"], 3) for run in results if run["budget"] == 1e8}
        assert round(0.01 * factor, 3) in rates
