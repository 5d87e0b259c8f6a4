"""The verbs that fit and predict, with what users bring: a method, curves, metrics, odd tables."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flops_fit.cli import main
from flops_fit.fitting.simulation import simulate_sweep, simulate_trunks
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.store.folder import StudyFolder
from flops_fit.tables import write_runs
from flops_fit.training.curve import CurvePoint, write_curve

SURFACE = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BUDGETS = (1e18, 1e19, 1e20)
RUNS = simulate_sweep(SURFACE, BUDGETS, sizes=(1 / 6, 0.4, 1, 2.5, 6), noise=0.002)

OWN_FIT = '''
from dataclasses import dataclass
from flops_fit.laws import PowerLaw


@dataclass(frozen=True)
class Answer:
    size: PowerLaw
    loss: PowerLaw
    rule: object

    def N_opt(self, flops):
        return self.size(flops)

    def D_opt(self, flops):
        return self.rule.tokens(flops, self.size(flops))

    def loss_opt(self, flops):
        return self.loss(flops)


@dataclass(frozen=True)
class BestRun:
    """A line through the best runs, N times `factor`."""

    factor: float = 1.0

    def __call__(self, runs, flop_rule):
        best = {}
        for run in sorted(runs, key=lambda run: run.loss):
            best.setdefault(run.budget, run)
        flops = list(best)
        size = PowerLaw.through(flops, [self.factor * best[c].num_params for c in flops])
        return Answer(size, PowerLaw.through(flops, [best[c].loss for c in flops]), flop_rule)
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the runs as a table."""
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "sweep.csv", RUNS)
    return tmp_path


def fitted(capsys, *words: str) -> dict:
    """law.json as printed."""
    assert main(["fit", "runs=sweep.csv", "draws=60", "json=true", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_users_own_fit_answers_by_its_yaml(folder, capsys):
    (folder / "my_fits.py").write_text(OWN_FIT)
    (folder / "conf/fit").mkdir(parents=True)
    (folder / "conf/fit/mine.yaml").write_text("_target_: my_fits.BestRun\nfactor: 2.0\n")
    law = fitted(capsys, "fit=mine")
    assert law["answer"] == "BestRun"
    settings = law["provenance"]["settings"]["BestRun"]
    assert settings == {"type": "my_fits.BestRun", "factor": 2.0}
    assert main(["predict", "budget=1e21", "json=true"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["method"] == "BestRun"
    best = float(SURFACE.N_opt(1e21, FlopRule.constant()))
    assert prediction["num_params"] == pytest.approx(2 * best, rel=0.5)
    assert set(prediction["intervals"]["num_params"]) == {"80", "95"}
    assert main(["report"]) == 0
    assert "  (BestRun)\n" in capsys.readouterr().out
    assert (folder / "outputs/sweep/latest/figures/optima.png").exists()


def test_an_own_fit_with_a_misspelt_setting_is_named(folder, capsys):
    (folder / "my_fits.py").write_text(OWN_FIT)
    (folder / "conf/fit").mkdir(parents=True)
    (folder / "conf/fit/mine.yaml").write_text("_target_: my_fits.BestRun\nfaktor: 2.0\n")
    assert main(["fit", "runs=sweep.csv", "fit=mine"]) == 1
    assert "conf/fit/mine.yaml" in capsys.readouterr().err


def curve_rows(run, points=9):
    """Checkpoints whose losses are those of finished runs as long."""
    for share in np.geomspace(0.02, 1, points):
        loss = float(SURFACE(run.num_params, run.num_tokens * share))
        yield round(10_000 * share), run.num_tokens * share, loss


def test_a_table_of_training_curves_is_fitted_by_their_ends_and_by_their_envelope(folder, capsys):
    lines = ["run,N,D,step,loss"]
    for i, run in enumerate(RUNS):
        lines.append(f"r{i},{run.num_params},0,0,11")
        lines += [f"r{i},{run.num_params},{d},{s},{loss}" for s, d, loss in curve_rows(run)]
    (folder / "curves.csv").write_text("\n".join(lines))
    words = ["fit", "runs=curves.csv", "columns.id=run", "columns.num_steps=step", "draws=60"]
    assert main([*words, "fit=envelope", "json=true"]) == 0
    said = capsys.readouterr()
    law = json.loads(said.out)
    assert "135 rows are the training curves of 15 runs" in said.err
    assert law["rows_used"] == [f"r{i}" for i in range(15)]
    assert law["answer"] == "envelope"
    assert law["envelope"]["a"] == pytest.approx(SURFACE.a, abs=0.05)
    assert law["surface"]["alpha"] == pytest.approx(SURFACE.alpha, abs=1e-4)
    assert len(law["envelope"]["points"]) > 10
    assert main(["predict", "budget=1e21", "json=true"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["method"] == "envelope"


def test_rows_of_one_name_are_runs_of_their_own_where_no_steps_are_named(folder, capsys):
    rows = [f"net,{r.num_params},{r.num_tokens},{i},{r.loss}" for i, r in enumerate(RUNS)]
    (folder / "named.csv").write_text("\n".join(["name,N,D,step,loss", *rows]))
    assert main(["fit", "runs=named.csv", "draws=0", "json=true"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows_used"]) == 15


def test_the_envelope_of_a_study_is_that_of_its_training_losses(folder, capsys):
    words = ["budgets=[1e9,4e9,1.6e10]", "center=10", "span=6", "num_sizes=5", "batch_size=4"]
    assert main(["plan", *words]) == 0
    study = StudyFolder(folder / "outputs/mlp-toy")
    for e in study.read_plan().experiments:
        run = replace(RUNS[0], id=e.id, num_params=e.num_params, num_tokens=e.num_tokens,
                      flops=e.flops, budget=e.budget, num_steps=e.num_steps,
                      loss=float(SURFACE(e.num_params, e.num_tokens)))  # fmt: skip
        study.write_run(run)
        curve = [
            CurvePoint(step, int(d), 6 * d * e.num_params, loss, None, 0.1, 1.0)
            for step, d, loss in curve_rows(run)
        ]
        write_curve(study.run_folder(e.id) / "metrics.jsonl", curve)
    capsys.readouterr()
    assert main(["fit", "fit=envelope", "draws=30", "json=true"]) == 0
    law = json.loads(capsys.readouterr().out)
    assert law["answer"] == "envelope"
    assert {p["id"] for p in law["envelope"]["points"]} <= set(law["rows_used"])
    (study.run_folder(law["rows_used"][0]) / "metrics.jsonl").write_text("{}\n")
    assert main(["fit", "fit=surface", "draws=0"]) == 0
    assert main(["fit", "fit=envelope", "draws=0"]) == 1
    assert "is no training curve" in capsys.readouterr().err


def test_another_metric_of_a_table_is_fitted_and_shown_under_its_name(folder, capsys):
    measured = [replace(r, metrics={"error_rate": r.loss / 9, "accuracy": 1 - r.loss / 9})
                for r in RUNS]  # fmt: skip
    write_runs(folder / "sweep.csv", measured)
    law = fitted(capsys, "metric=error_rate")
    assert law["metric"] == "error_rate"
    assert law["predictions"][-1]["loss"] < 0.3
    assert main(["report"]) == 0
    assert "error rate" in capsys.readouterr().out
    assert main(["fit", "runs=sweep.csv", "metric=accuracy"]) == 1
    assert "metric=1-accuracy" in capsys.readouterr().err
    assert main(["fit", "runs=sweep.csv", "metric=f1"]) == 1
    assert "use loss, accuracy, error_rate" in capsys.readouterr().err


def test_trunks_and_totals_of_a_table_reach_the_fit(folder, capsys):
    runs = simulate_trunks(SURFACE, BUDGETS, num_sizes=7, span=6, noise=0.003, shared=1.0)
    total = [replace(run, num_params_total=run.num_params + 1e7) for run in runs]
    write_runs(folder / "sweep.csv", total)
    law = fitted(capsys)
    counted = {c["counted"] for c in law["diagnostics"]["parameter_counts"]}
    assert counted == {"num_params", "num_params_total"}
    write_runs(folder / "sweep.csv", [replace(run, trunk=None) for run in total])
    alone = fitted(capsys)
    assert alone["provenance"]["input_sha256"] != law["provenance"]["input_sha256"]
    assert alone["intervals"]["surface.a"] != law["intervals"]["surface.a"]


@pytest.mark.parametrize(
    "headers",
    [
        "Params,Training Tokens,Final Loss",
        "n_params,TOKENS,val/loss",
        "PARAMETERS,tokens,Eval-Loss",
    ],
)
def test_common_headers_are_known_whatever_their_case_and_punctuation(folder, capsys, headers):
    rows = [f"{r.num_params},{r.num_tokens},{r.loss}" for r in RUNS]
    (folder / "sweep.csv").write_text("\n".join([headers, *rows]))
    law = fitted(capsys)
    assert law["surface"]["alpha"] == pytest.approx(SURFACE.alpha, abs=0.05)


ODD = {
    "num_params": "base - model/N (total)",
    "num_tokens": "tokens, {seen}",
    "loss": "eval/loss__MIN",
}


def test_columns_of_any_name_are_read_and_rows_chosen(folder, capsys):
    rows = [[run.num_params, run.num_tokens, run.loss, "base"] for run in RUNS]
    rows += [[run.num_params, run.num_tokens, run.loss * 1.5, "too hot"] for run in RUNS]
    with (folder / "my export (1).csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*ODD.values(), "learning rate"], *rows])
    words = [f"columns.{ours}={theirs}" for ours, theirs in ODD.items()]
    odd = fitted(capsys, "runs=my export (1).csv", *words, "where=learning rate != too hot")
    plain = fitted(capsys)
    assert odd["surface"]["alpha"] == pytest.approx(plain["surface"]["alpha"], rel=1e-6)
    assert len(odd["rows_used"]) == len(RUNS)
    assert {row["reason"] for row in odd["rows_dropped"]} == {"not learning rate != too hot"}
    assert len(odd["rows_dropped"]) == len(RUNS)
    table = odd["provenance"]["table"]
    assert table["columns"]["loss"] == "eval/loss__MIN"
    assert table["where"] == "learning rate != too hot"


def test_rows_left_out_are_said_on_screen(folder, capsys):
    write_runs(
        folder / "sweep.csv", [*RUNS, RUNS[3], replace(RUNS[0], id="hot", status="diverged")]
    )
    assert main(["fit", "runs=sweep.csv", "draws=0"]) == 0
    assert f"({'the same row as ' + RUNS[3].id})" in (shown := capsys.readouterr().out)
    assert "hot (diverged)" in shown


def test_where_is_for_tables(folder, capsys):
    assert main(["fit", "runs=sweep.csv", "draws=0"]) == 0
    assert main(["fit", "study=sweep", "where=seed = 1"]) == 1
    assert "name it with runs=FILE" in capsys.readouterr().err


def test_a_flop_rule_other_than_6nd_is_said(folder, capsys):
    runs = [replace(run, flops=8 * run.num_params * run.num_tokens) for run in RUNS]
    write_runs(folder / "sweep.csv", runs)
    assert main(["fit", "runs=sweep.csv", "draws=0"]) == 0
    assert "C = 8 N D by the table's own columns" in capsys.readouterr().err
    write_runs(folder / "sweep.csv", [replace(run, flops=10 * run.flops) for run in RUNS])
    assert main(["fit", "runs=sweep.csv", "draws=0"]) == 1
    assert "C of this table is 10 times 6 N D" in capsys.readouterr().err


def test_a_multirun_fits_several_tables(folder, capsys):
    write_runs(folder / "other.csv", RUNS[5:])
    assert main(["fit", "-m", "runs=sweep.csv,other.csv", "draws=0"]) == 0
    fitted_studies = {path.parent.name for path in folder.glob("outputs/*/latest")}
    assert fitted_studies == {"sweep", "other"}
