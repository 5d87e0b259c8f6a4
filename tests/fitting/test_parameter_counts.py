"""N with and without embeddings, side by side."""

import dataclasses
import json

import pytest
from sweeps import BUDGETS, CHINCHILLA, points, sweep

from flops_fit.fitting import FitError, ScalingLaw, fit_runs
from flops_fit.fitting.examine.parameter_counts import with_total_params


def counted(total, **changes):
    """The planted sweep with `total(N)` parameters in all."""
    return [
        dataclasses.replace(run, num_params_total=total(run.num_params))
        for run in sweep(CHINCHILLA, **changes)
    ]


def by_key(law):
    return {(c.method, c.counted): c for c in law.diagnostics.numbers.parameter_counts}


def test_a_total_that_is_a_power_of_N_has_that_power_of_the_optimum():
    """With N_total = 50 N^0.8 the surface keeps its form, and a becomes 0.8 a."""
    law = fit_runs(counted(lambda n: 50 * n**0.8), draws=0)
    found = by_key(law)
    assert len(found) == 4
    for method in ("isoflop", "surface"):
        ours, total = found[method, "num_params"], found[method, "num_params_total"]
        assert ours.a == pytest.approx(law.diagnostics.numbers.exponents[method])
        assert total.a == pytest.approx(0.8 * ours.a, rel=1e-5)
        assert total.N_opt == pytest.approx(50 * ours.N_opt**0.8, rel=1e-5)
        assert ours.budget == total.budget == BUDGETS[-1]


def test_both_counts_spend_the_same_flops():
    sample = points(counted(lambda n: n + 3e5 * n**0.3))
    other = with_total_params(sample)
    assert other.flops == pytest.approx(sample.flops, rel=1e-12)
    assert (other.num_params > sample.num_params).all()


@pytest.mark.parametrize("total", [lambda n: n, lambda n: None])
def test_nothing_is_said_where_there_is_only_one_count(total):
    law = fit_runs(counted(total), draws=0)
    assert law.diagnostics.numbers.parameter_counts == ()


def test_both_counts_stand_in_the_findings_and_in_law_json():
    law = fit_runs(counted(lambda n: n + 1e7), draws=0)
    sentences = [f for f in law.diagnostics.findings if f.startswith("counting N (")]
    assert len(sentences) == 2
    assert all("as fitted" in s and "with all embeddings" in s for s in sentences)
    data = json.loads(json.dumps(law.to_json()))
    assert {c["counted"] for c in data["diagnostics"]["parameter_counts"]} == {
        "num_params",
        "num_params_total",
    }
    assert ScalingLaw.from_json(data).diagnostics == law.diagnostics


def test_an_impossible_total_is_refused():
    with pytest.raises(FitError, match="num_params_total = nan"):
        fit_runs(counted(lambda n: float("nan")), draws=0)
