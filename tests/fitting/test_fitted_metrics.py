"""Another metric in the place of the loss."""

import dataclasses
import json

import pytest
from sweeps import BUDGETS, CHINCHILLA, sweep

from flops_fit.fitting import FitError, ScalingLaw, fit_runs
from flops_fit.fitting.metrics import label, measured_by


@pytest.fixture(scope="module")
def runs():
    """An error rate that is a tenth of the loss, and its complement."""
    return [
        dataclasses.replace(
            run, metrics={"error_rate": run.loss / 10, "accuracy": 1 - run.loss / 10}
        )
        for run in sweep(CHINCHILLA)
    ]


@pytest.mark.parametrize("metric", ["error_rate", "1-accuracy"])
def test_a_metric_in_proportion_to_the_loss_has_its_exponents(runs, metric):
    law, of_loss = fit_runs(runs, metric=metric, draws=0), fit_runs(runs, draws=0)
    assert law.of("surface").a == pytest.approx(of_loss.of("surface").a, rel=1e-6)
    predicted = law.predict(BUDGETS[-1] * 10)
    assert predicted.loss == pytest.approx(of_loss.predict(predicted.budget).loss / 10, rel=1e-6)
    assert law.metric == law.to_json()["metric"] == law.provenance["metric"] == metric
    assert ScalingLaw.from_json(json.loads(json.dumps(law.to_json()))).metric == metric


def test_a_metric_that_grows_is_refused_with_its_complement(runs):
    with pytest.raises(FitError, match=r"accuracy grows .* complement: metric=1-accuracy"):
        fit_runs(runs, metric="accuracy", draws=0)


def test_a_missing_metric_names_those_there_are(runs):
    with pytest.raises(FitError, match="'bits_per_byte': use loss, accuracy, error_rate"):
        fit_runs(runs, metric="bits_per_byte", draws=0)
    with pytest.raises(FitError, match="have their loss only"):
        fit_runs(sweep(CHINCHILLA), metric="accuracy", draws=0)


def test_runs_without_the_metric_are_left_out_by_name(runs):
    gap = [dataclasses.replace(runs[0], metrics={}), *runs[1:]]
    law = fit_runs(gap, metric="error_rate", draws=0)
    assert [d.id for d in law.dropped] == [runs[0].id]


def test_what_can_not_be_says_which_metric_it_was(runs):
    wrong = [dataclasses.replace(runs[0], metrics={"error_rate": -1.0}), *runs[1:]]
    with pytest.raises(FitError, match="fitting error_rate in place of the loss"):
        fit_runs(wrong, metric="error_rate", draws=0)


def test_the_loss_itself_is_no_metric(runs):
    assert measured_by(runs, "loss") == runs
    assert [label(m) for m in ("loss", "error_rate", "1-accuracy")] == [
        "loss",
        "error rate",
        "1 - accuracy",
    ]
