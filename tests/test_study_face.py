"""`Study`: what it prints, opens, hands to dataframes, and refuses."""

from __future__ import annotations

import importlib.util
import math
import shutil
from pathlib import Path

import pytest
from stored_net import StoredNet, mean_squared, rows

from flops_fit import Study, UserError, find_optimal, fit_table, load_law
from flops_fit.errors import ConfigError, StudyError
from flops_fit.report.summary import answer_words

ASSETS = Path(__file__).parent / "assets"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ASSETS / "studies", tmp_path / "outputs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_opened_study_is_what_was_trained(folder):
    study = Study.open("outputs/toy")
    assert len(study) == len(list(Path("outputs/toy/runs").iterdir())) - 1  # a verification's run
    assert [run.id for run in study] == [e.id for e in study.plan.experiments]
    assert study.law.rows_used == tuple(run.id for run in study if run.loss is not None)
    assert study.folder == Path("outputs/toy")
    counts = study.status().counts
    assert (counts["completed"], counts["diverged"], counts["missing"]) == (10, 1, 0)
    assert study.status().flops == pytest.approx(sum(run.flops for run in study))


def test_a_study_prints_as_its_answer_in_a_few_lines(folder):
    study = Study.open("outputs/toy")
    lines = str(study).splitlines()
    assert len(lines) <= 6
    assert lines[:2] == ["Study toy: 11 runs", study.law.diagnostics.verdict]
    for line, multiple in zip(lines[2:], (1, 10, 100), strict=True):
        assert line == answer_words(study.predict(multiple * study.law.largest_budget))
    assert repr(study) == str(study)
    assert study._repr_html_().count("<br>") == len(lines) - 1
    assert len(repr(study.plan)) < 100


def test_a_notebook_shows_text_as_text(folder):
    study = Study.open("outputs/toy")
    shutil.move("outputs/toy", "outputs/<b>toy")
    assert "<b>toy" not in Study.open("outputs/<b>toy")._repr_html_().removeprefix("<b>Study")
    assert "&lt;b&gt;toy" in Study.open("outputs/<b>toy")._repr_html_()
    assert study.plan


def test_a_study_without_a_law_says_why(folder):
    for law in Path("outputs/toy").glob("plans/*/law.json"):
        law.unlink()
    study = Study.open("outputs/toy")
    assert study.law is None
    assert str(study).splitlines() == ["Study toy: 11 runs", study.refusal]
    with pytest.raises(StudyError, match=r"no law to predict with: .*toy has no law yet"):
        study.predict(1e9)


def test_runs_are_flat_rows_for_dataframes(folder):
    runs = Study.open("outputs/toy").runs
    table = runs.to_dicts()
    assert [row["loss"] for row in table] == [run.loss for run in runs]
    first = table[0]
    assert (first["size_name"], first["status"]) == ("width", "completed")
    assert first["metrics.mae"] == runs[0].metrics["mae"]
    assert not any(isinstance(value, dict) for value in first.values())
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(ConfigError, match=r"pandas is not installed.*to_dicts"):
            runs.to_pandas()
    else:
        losses = [math.nan if run.loss is None else run.loss for run in runs]
        assert list(runs.to_pandas()["loss"]) == pytest.approx(losses, nan_ok=True)


def test_a_table_is_fitted_and_its_law_read_again(folder, tmp_path):
    table = ASSETS / "table.csv"
    study = fit_table(table, draws=50)
    assert study.plan is None
    assert study.folder == Path("outputs/table")
    assert study.law.of("surface").surface.alpha == pytest.approx(0.34, abs=0.01)
    for path in ("outputs/table", Path("outputs/table/latest"), "outputs/table/latest/law.json"):
        assert load_law(path).predict(1e19) == study.predict(1e19)
    other = fit_table(table, output_dir=tmp_path / "x/mine", draws=0, fit="isoflop")
    assert (other.law.answer, other.folder) == ("isoflop", tmp_path / "x/mine")
    assert Study.open("outputs/table").predict(1e19) == study.predict(1e19)


def test_columns_and_rows_of_a_table_are_named(folder):
    text = (ASSETS / "table.csv").read_text(encoding="utf-8")
    Path("mine.csv").write_text(text.replace("N,D,loss", "size,seen,nll"), encoding="utf-8")
    columns = {"num_params": "size", "num_tokens": "seen", "loss": "nll"}
    assert len(fit_table("mine.csv", columns=columns, where="size > 0", draws=0)) == 15
    with pytest.raises(UserError, match=r"columns\.size names nothing that is read"):
        fit_table("mine.csv", columns={"size": "size"}, draws=0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda study: study.predict("1e8"), "budget is '1e8', a str: give a number of FLOPs"),
        (lambda study: study.verify(None), "budget is None"),
        (lambda study: Study.open("outputs/nothing"), "no study 'nothing' under"),
        (lambda study: load_law("nowhere"), "nowhere does not exist: give a law.json"),
        (lambda study: fit_table("nowhere.csv"), "nowhere.csv does not exist"),
        (
            lambda study: fit_table("table.csv", colums={}),
            "no setting 'colums': did you mean",
        ),
        (
            lambda study: fit_table("x.csv", fit="isoflopp"),
            "no fit 'isoflopp': did you mean",
        ),
        (lambda study: Study.open("outputs/python").verify(1e7), "trained from Python objects"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, call, says):
    with pytest.raises(UserError, match=says) as refusal:
        call(Study.open("outputs/toy"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"compute_budgets": 1e7}, "compute_budgets is 10000000.0: give a list of FLOPs"),
        ({"compute_budgets": "1e7"}, "compute_budgets is '1e7': give a list of FLOPs"),
        ({"compute_budgets": []}, "compute_budgets is empty"),
        ({"device": "nowhere"}, "device 'nowhere' can't be used here"),
        ({"precision": "fp7"}, "precision is 'fp7'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', a str: give a number"),
        ({"fit": "isofloop"}, "there is no fit 'isofloop': did you mean 'isoflop'"),
    ],
)
def test_bad_arguments_are_one_sentence_before_anything_trains(folder, keywords, says):
    sweep = {"compute_budgets": [1e6, 3e6], "num_sizes": 3, "min_steps": 10, "output_dir": "o"}
    with pytest.raises(UserError, match=says):
        find_optimal(
            model_cls=StoredNet,
            model_size_param="width",
            dataset=rows(),
            loss_fn=mean_squared,
            **{**sweep, **keywords},
        )
    assert not list(Path().glob("o/runs/*"))


def test_workers_train_what_one_process_trains(folder):
    """Twice the same study from Python: the objects are sent to worker processes."""
    sweep = {"compute_budgets": [1e6], "num_sizes": 3, "span": 2, "center": 60, "min_steps": 10}
    sweep |= {"device": "cpu", "threads": 1, "draws": 0}
    losses = [
        [
            run.loss
            for run in find_optimal(
                model_cls=StoredNet,
                model_size_param="width",
                dataset=rows(),
                loss_fn=mean_squared,
                output_dir=f"o/{workers}",
                workers=workers,
                **sweep,
            )
        ]
        for workers in (1, 2)
    ]
    assert losses[0] == losses[1]
