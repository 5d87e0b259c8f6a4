"""N as fitted and in full (embeddings, experts), side by side."""

import dataclasses
import json

import pytest
from sweeps import BUDGETS, CHINCHILLA, points, sweep

from flops_fit.cli import main
from flops_fit.fitting import FitError, ScalingLaw, fit_runs
from flops_fit.fitting.examine.parameter_counts import with_total_params
from flops_fit.shown import short_number


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
    sentences = [f for f in law.diagnostics.findings if f.startswith("what N counts (")]
    assert len(sentences) == 2
    assert all("as fitted" in s and "counted in full (num_params_total)" in s for s in sentences)
    data = json.loads(json.dumps(law.to_json()))
    assert {c["counted"] for c in data["diagnostics"]["parameter_counts"]} == {
        "num_params",
        "num_params_total",
    }
    assert ScalingLaw.from_json(data).diagnostics == law.diagnostics


def test_active_and_total_parameters_of_experts_stand_side_by_side(tmp_path, monkeypatch, capsys):
    """A table names both counts; total = 8 times active moves N_opt by 8, and a not at all."""
    monkeypatch.chdir(tmp_path)
    rows = [
        f"{run.num_params},{8 * run.num_params},{run.num_tokens},{run.loss}"
        for run in sweep(CHINCHILLA)
    ]
    (tmp_path / "moe.csv").write_text("\n".join(["active,total,D,loss", *rows]))
    columns = ["columns.num_params=active", "columns.num_params_total=total"]
    assert main(["fit", "runs=moe.csv", *columns, "fit=surface", "draws=0", "json=true"]) == 0
    law = json.loads(capsys.readouterr().out)["diagnostics"]
    (said,) = [f for f in law["findings"] if f.startswith("what N counts (surface)")]
    assert "embedding" not in said
    ours, full = [c for c in law["parameter_counts"] if c["method"] == "surface"]
    assert full["a"] == pytest.approx(ours["a"], abs=1e-6)
    assert full["N_opt"] == pytest.approx(8 * ours["N_opt"], rel=1e-6)
    assert f"exponent {ours['a']:.3f} and N {short_number(ours['N_opt'])} as fitted; " in said
    assert said.endswith(f"N {short_number(full['N_opt'])} counted in full (num_params_total)")


def test_one_total_of_which_more_or_fewer_are_active_has_no_rule_and_is_not_compared():
    law = fit_runs(counted(lambda n: 1e12), draws=0)
    assert law.diagnostics.numbers.parameter_counts == ()


def test_an_impossible_total_is_refused():
    with pytest.raises(FitError, match="num_params_total = nan"):
        fit_runs(counted(lambda n: float("nan")), draws=0)
