"""Which of several runs of one (N, D) enter a fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sweeps import CHINCHILLA, points, sweep

from flops_fit.cli import main
from flops_fit.fitting import AllRuns, EveryRun, FitError, LowestLoss, SurfaceFit, fit_runs
from flops_fit.fitting.noise import seed_noise
from flops_fit.tables import write_runs


def with_rates(worse=(1.0, 1.04, 1.2)):
    """The sweep, each run with learning rates of which all but the first are worse."""
    return [
        replace(run, id=f"{run.id}-{i}", loss=run.loss * factor, learning_rate=10.0**-i)
        for run in sweep(CHINCHILLA)
        for i, factor in enumerate(worse)
    ]


def test_rates_far_apart_are_no_seeds_and_the_limit_is_named():
    with pytest.raises(FitError, match=r"further apart than select\.conflict = 0\.05.*select=all"):
        EveryRun()(points(with_rates()))
    assert len(EveryRun(conflict=0.25)(points(with_rates()))[0]) == 120


def test_a_limit_that_is_none_is_refused():
    with pytest.raises(FitError, match=r"select\.conflict is 0"):
        EveryRun(conflict=0)


def test_all_runs_enter_and_tell_no_noise_of_seeds():
    everything, dropped = AllRuns()(points(with_rates()))
    assert (len(everything), dropped) == (120, ())
    assert seed_noise(everything) is None
    assert seed_noise(everything.where(everything.budget > 1e19)) is None
    seeds = points(with_rates(worse=(1.0, 1.001)))
    assert seed_noise(seeds).value == pytest.approx(0.001 / np.sqrt(2), rel=1e-3)


def test_a_law_of_all_runs_lies_between_those_of_single_rates():
    runs = with_rates()
    law = fit_runs(runs, answer=SurfaceFit(), select=AllRuns(), draws=50)
    assert len(law.rows_used) == 120
    assert law.provenance["select"] == {"type": "AllRuns"}
    assert law.diagnostics.numbers.seed_noise is None
    best = fit_runs(runs, answer=SurfaceFit(), select=LowestLoss(), draws=0)
    assert best.predict(1e21).loss < law.predict(1e21).loss < 1.2 * best.predict(1e21).loss


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "sweep.csv", with_rates())
    words = ["fit", "runs=sweep.csv", "fit=surface", "draws=0", "json=true"]
    assert main(words) == 1
    assert "select.conflict" in capsys.readouterr().err
    for more in ("select=all", "select.conflict=0.25"):
        assert main([*words, more]) == 0
        assert len(json.loads(capsys.readouterr().out)["rows_used"]) == 120
