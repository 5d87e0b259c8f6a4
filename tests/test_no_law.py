"""A sweep that gives no law is no dead end: the reason, the budgets, the points, exit code 3."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flops_fit import Study, UserError, fit_table
from flops_fit.cli import main
from flops_fit.errors import StudyError
from flops_fit.fitting import (
    EveryRun,
    NoLawFits,
    Refusal,
    SurfaceFit,
    fit_runs,
    refusal_of,
)
from flops_fit.fitting.errors import FitError
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.plan.run import Run
from flops_fit.report.figures.isoflop import isoflop
from flops_fit.report.figures.marks import Line, Points, Symbol
from flops_fit.report.files import write_report
from flops_fit.report.report import Report

TINY = ["model=mlp", "dataset=toy", "batch_size=32", "min_steps=5", "num_sizes=3", "span=2"]
TINY += ["workers=1", "center=10"]
DIVERGING = ["train", *TINY, "budgets=[1e7,3e7]", "optimizer.lr=1e6"]
ONE_BUDGET = ["train", *TINY, "budgets=[1e7]"]

SURFACE = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
RULE = FlopRule.constant()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *words: str) -> list[str]:
    """The lines on stdout of a command that ends without a law."""
    capsys.readouterr()
    assert main(list(words)) == 3
    return capsys.readouterr().out.splitlines()


def answer(study: str = "mlp-toy") -> Path:
    return Path("outputs", study, "latest")


def written(study: str = "mlp-toy") -> set[str]:
    """The files of an answer that people look at."""
    found = {"runs.csv", "report.html", "law.json", "refusal.json"}
    figures = {f"figures/{path.name}" for path in answer(study).glob("figures/*.png")}
    return {name for name in found if (answer(study) / name).exists()} | figures


PAGE = {"runs.csv", "report.html"}


def test_runs_that_all_diverged_are_the_reason_and_come_first(capsys):
    first, *rest = said(capsys, *DIVERGING)
    assert first == "6 of 6 runs diverged: lower the learning rate (optimizer.lr)"
    text = "\n".join(rest)
    assert text.count("0 of 3 runs can be used (3 diverged): lower the learning rate") == 2
    assert len(rest) < 10
    assert written() == {*PAGE, "refusal.json"}
    rows = csv.DictReader((answer() / "runs.csv").read_text().splitlines())
    assert [row["status"] for row in rows] == ["diverged"] * 6


def test_a_report_of_it_says_the_same(capsys, folder):
    trained = said(capsys, *DIVERGING)
    (answer() / "report.html").unlink()
    (answer() / "runs.csv").unlink()
    assert said(capsys, "report") == trained
    assert written() == {*PAGE, "refusal.json"}
    study = Study.open("outputs/mlp-toy")
    assert str(study).splitlines() == [
        "Study mlp-toy: 6 runs",
        trained[0],
        *study.fitted.refusal.sentences,
    ]
    assert len(study.fitted.refusal.sentences) == 2
    assert [path.name for path in study.report()] == ["runs.csv", "report.html"]
    with pytest.raises(UserError, match="no law to predict with: 6 of 6 runs diverged"):
        study.predict(1e9)


def test_one_budget_is_told_to_train_another(capsys):
    first, *rest = said(capsys, *ONE_BUDGET)
    assert first.startswith("no law: 1 budget: an exponent needs at least two budgets: train")
    assert "isoflop" not in first
    assert [line.split()[0] for line in rest if "1e7" in line] == ["1e7"]
    assert said(capsys, *ONE_BUDGET) == [first, *rest]  # nothing is trained again
    assert said(capsys, "report") == [first, *rest]
    assert said(capsys, "fit") == [first, *rest]
    assert main(["predict", "budget=1e9"]) == 1
    assert f"mlp-toy: {first}" in capsys.readouterr().err


def test_a_single_run_is_no_sweep_that_went_wrong(capsys, folder):
    single = [*ONE_BUDGET, "sizes=[8]", "study=single"]
    assert main(single) == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first == "no law: one size at one budget was trained, a law needs several of both"
    assert written("single") == {*PAGE, "figures/isoflop.png", "figures/training.png"}
    assert main([*single, "optimizer.lr=1e6"]) == 3


@pytest.mark.parametrize("words", [ONE_BUDGET, ["report"], ["fit"]])
def test_json_has_the_refusal_the_budgets_and_the_number_of_runs(capsys, words):
    assert main(ONE_BUDGET) == 3
    document = json.loads("\n".join(said(capsys, *words, "json=true")))
    assert document["answer"] is None
    assert document["refusal"].startswith("no law: 1 budget")
    assert document["runs"] == 3
    assert document["statuses"] == {"completed": 3}
    assert [budget["budget"] for budget in document["budgets"]] == [1e7]
    assert len(document["rows_used"]) == 3
    names = [Path(path).name for path in document["files"]]
    assert (names[0], names[-1]) == ("runs.csv", "report.html")
    assert {"isoflop.png", "isoflop.svg"} <= set(names)
    assert all(Path(path).exists() for path in document["files"])


def table(path: str, runs: list[Run]) -> str:
    rows = [(r.num_params, r.num_tokens, r.loss, r.budget) for r in runs]
    lines = ["N,D,loss,budget", *(",".join(map(repr, row)) for row in rows)]
    Path(path).write_text("\n".join(lines))
    return path


def test_a_table_without_a_law_is_shown_and_reported_all_the_same(capsys):
    runs = simulate_sweep(SURFACE, (1e18,), sizes=(0.25, 0.5, 1, 2, 4))
    path = table("few.csv", runs)
    lines = said(capsys, "fit", f"runs={path}")
    assert lines[0].startswith("no law: 1 budget: ")
    assert any(line.split()[:1] == ["1e18"] and " ok " in line for line in lines)
    assert written("few") == {*PAGE, "refusal.json", "figures/isoflop.png"}
    assert said(capsys, "report", "study=few") == lines
    study = fit_table(path, output_dir="outputs/other")
    assert (study.law, study.refusal) == (None, lines[0])


def test_an_earlier_law_stands_and_a_later_one_replaces_the_refusal(capsys):
    many = simulate_sweep(SURFACE, (1e18, 3e18, 1e19), sizes=(1 / 8, 1 / 3, 1, 3, 8))
    fit = ["fit", f"runs={table('t.csv', many)}", "draws=20"]
    said(capsys, *fit, "where=budget < 2e18")
    assert written("t") == {*PAGE, "refusal.json", "figures/isoflop.png"}
    assert main(fit) == 0
    assert "law.json" in written("t")
    law = (answer("t") / "law.json").read_text()
    said(capsys, *fit, "where=budget < 2e18")
    assert (answer("t") / "law.json").read_text() == law
    assert main(["predict", "study=t", "budget=1e20"]) == 0


def test_figures_draw_the_points_of_lost_budgets_and_the_curves_of_the_others():
    runs = simulate_sweep(SURFACE, (1e18, 1e19), sizes=(0.25, 0.5, 1, 2, 4))
    runs[5:8] = [replace(r, status="diverged", loss=None) for r in runs[5:8]]
    refusal = refused(runs)
    (panel,) = isoflop(runs, refusal).panels
    (curve,) = (mark for mark in panel.marks if isinstance(mark, Line))
    np.testing.assert_allclose(curve.y, refusal.budgets[0].curve(curve.x))
    dots = (m for m in panel.marks if isinstance(m, Points) and m.symbol is Symbol.DOT)
    assert sum(map(len, dots)) == 7


def refused(runs, error=None, **how) -> Refusal:
    error = error or NoLawFits({"isoflop": FitError("1 budget", "train another")})
    return refusal_of(runs, error, flop_rule=RULE, answer=SurfaceFit(), **how)


def ended(count: int, status: str, error: str | None = None) -> list[Run]:
    return [
        Run(f"{status}-{i}", status, 1e6, 1e9, 6e15, None, 6e15, error=error) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (ended(3, "diverged"), "no law: 1 budget: train another"),
        (ended(8, "diverged"), "8 of 13 runs diverged: lower the learning rate (optimizer.lr)"),
        (
            [*ended(5, "diverged"), *ended(2, "failed")],
            "5 of 12 runs diverged and 2 failed: lower the learning rate (optimizer.lr)",
        ),
        (
            [*ended(1, "diverged"), *ended(6, "failed", "OSError: full\nmore")],
            "6 of 12 runs failed and 1 diverged: mend the cause and run the same command again "
            "(OSError: full)",
        ),
    ],
)
def test_lost_runs_are_the_reason_where_they_are_most(lost, reason):
    runs = simulate_sweep(SURFACE, (1e18,), sizes=(0.25, 0.5, 1, 2, 4))
    assert str(refused([*runs, *lost])) == reason


def test_each_budget_has_one_sentence():
    runs = simulate_sweep(SURFACE, (1e18, 3e18, 1e19), sizes=(0.25, 0.5, 1, 2, 4))
    runs[:5] = [replace(r, status="failed", loss=None) for r in runs[:5]]
    runs[5:8] = [replace(r, status="diverged", loss=None) for r in runs[5:8]]
    refusal = refused(runs)
    assert [b.verdict for b in refusal.budgets] == ["few", "few", "ok"]
    assert refusal.sentences == [
        "budget 1e18, few: 0 of 5 runs can be used (5 failed): mend what failed and run the "
        "same command again",
        "budget 3e18, few: 2 of 5 runs can be used (3 diverged): lower the learning rate, or "
        "leave this budget out",
    ]
    (alone,) = refused(runs[-1:]).budgets
    assert str(refused(runs[-1:])).startswith("no law: one size at one budget was trained")
    assert alone.reason == "1 of 1 runs can be used: train more sizes"


def test_the_short_reason_leaves_the_troubles_of_single_budgets_to_the_table():
    sizes = (1, 2)
    runs = simulate_sweep(SURFACE, (1e18, 1e19), sizes=sizes)
    with pytest.raises(NoLawFits) as error:
        fit_runs(runs)
    assert "2 sizes, a curve needs 3" in str(error.value)
    refusal = refusal_of(runs, error.value, flop_rule=RULE, answer=SurfaceFit())
    assert refusal.reason.startswith(
        "no law: 0 of 2 budgets have a bracketed minimum, a line needs 2; 4 different (N, D)"
    )
    assert [b.reason for b in refusal.budgets] == ["2 sizes, a curve needs 3: train more sizes"] * 2


def test_a_refusal_survives_its_file(tmp_path):
    runs = simulate_sweep(SURFACE, (1e18,), sizes=(0.25, 0.5, 1, 2, 4))
    refusal = refused([*runs, *ended(1, "diverged")], select=EveryRun())
    refusal.save(tmp_path)
    again = Refusal.load(tmp_path)
    assert again.to_json() == refusal.to_json()
    assert (again.num_runs, again.dropped) == (6, refusal.dropped)
    (tmp_path / "refusal.json").write_text('{"schema_version": 1}')
    with pytest.raises(StudyError, match=r"refusal\.json is incomplete"):
        Refusal.load(tmp_path)


def test_rows_that_cannot_be_true_are_the_reason_themselves(tmp_path):
    runs = simulate_sweep(SURFACE, (1e18,), sizes=(1, 2, 4))
    wrong = FitError("run x has loss = -1.0", "correct or remove this row")
    refusal = refused([*runs, replace(runs[0], id="x", loss=-1.0)], wrong)
    assert refusal.reason == f"no law: {wrong}"
    assert refusal.budgets == ()
    written = write_report(Report("wrong", runs, refusal), tmp_path)
    assert [path.name for path in written] == ["runs.csv", "loss.png", "loss.svg", "report.html"]


def test_another_metric_is_named():
    runs = simulate_sweep(SURFACE, (1e18,), sizes=(0.25, 0.5, 1, 2, 4))
    runs = [replace(r, metrics={"error_rate": r.loss / 9}) for r in runs]
    refusal = refused(runs, metric="error_rate")
    assert refusal.reason == "no law of error rate: 1 budget: train another"
    assert refusal.budgets[0].loss < 1
