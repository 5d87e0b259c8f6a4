"""Published laws: their numbers, what stands beside them, and a study held against them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import flops_fit
from flops_fit.answers.optima import NO_LOSSES, Side, compare_optima
from flops_fit.cli import main
from flops_fit.errors import ConfigError, UserError
from flops_fit.laws.publication import (
    Publication,
    PublishedOptima,
    PublishedSurface,
    Trained,
    predict_published,
    trained_budgets,
)
from flops_fit.laws.published import (
    HOFFMANN_TABLE_3,
    HOFFMANN_TABLE_A3,
    published_law,
    published_laws,
)

ROOT = Path(__file__).parents[1]

FLOPS = np.geomspace(1e17, 1e25, 9)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "tests/assets/studies", tmp_path / "outputs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_chinchilla_is_the_minimum_of_its_surface_along_6nd():
    law = published_law("chinchilla")
    assert law.publication.name == "hoffmann-2022-3"

    def loss(log_n):
        n = np.exp(log_n)
        d = 1e21 / (6 * n)
        return (
            np.exp(0.5267228)
            + np.exp(6.0073404) / n**0.33917084
            + (np.exp(6.0179186) / d**0.2849083)
        )

    best = minimize_scalar(loss, bounds=(15, 28), method="bounded", options={"xatol": 1e-9})
    assert float(law.N_opt(1e21)) == pytest.approx(np.exp(best.x), rel=1e-4)
    assert float(law.loss_opt(1e21)) == pytest.approx(best.fun, rel=1e-9)
    assert float(law(2e9, 1e21 / 12e9)) == pytest.approx(loss(np.log(2e9)))


def test_approach_3_gives_the_sizes_of_the_papers_table():
    """Table A3 of Hoffmann et al. 2022, by approach 3; rounded exponents are 25% off there."""
    law = published_law("chinchilla")
    for num_params, flops in {4e8: 2.21e19, 1e9: 1.62e20, 1e10: 2.46e22, 1e12: 5.65e26}.items():
        assert float(law.N_opt(flops)) == pytest.approx(num_params, rel=0.07)


@pytest.mark.parametrize(
    ("name", "table", "printed"),
    [("chinchilla-1", HOFFMANN_TABLE_3, 0.50), ("chinchilla-2", HOFFMANN_TABLE_A3, 0.49)],
)
def test_lines_go_through_the_tabulated_optima(name, table, printed):
    law = published_law(name)
    for num_params, flops in table.items():
        assert float(law.N_opt(flops)) == pytest.approx(num_params, rel=0.04)
    assert law.N.exponent == pytest.approx(printed, abs=0.005)
    assert float(law.D_opt(1.21e20)) == pytest.approx(20.2e9, rel=0.04)


def test_numbers_that_papers_give_beside_their_laws():
    kaplan, llama = published_law("kaplan"), published_law("llama3")
    assert float(kaplan.N_opt(8.64e19)) == pytest.approx(1.3e9)  # at one PF-day
    assert kaplan.N.exponent == 0.73
    assert float(llama.D_opt(3.8e25)) == pytest.approx(16.55e12, rel=0.02)
    assert float(llama.N_opt(3.8e25)) == pytest.approx(402e9, rel=0.05)
    deepseek = published_law("deepseek")
    assert (deepseek.N.exponent, deepseek.D.exponent) == pytest.approx((0.5243, 0.4757))
    assert deepseek.D.coefficient == pytest.approx(5.8316, rel=1e-3)
    assert published_law("besiroglu").surface.a == pytest.approx(0.513, abs=5e-4)
    assert pytest.approx(521, abs=0.5) == published_law("muennighoff").surface.A
    assert pytest.approx(1488, abs=0.5) == published_law("muennighoff").surface.B
    nanochat = published_law("nanochat")
    assert float(nanochat.D_opt(1e18) / nanochat.N_opt(1e18)) == pytest.approx(11.2, abs=0.2)
    assert (nanochat.N.exponent, nanochat.D.exponent) == pytest.approx((0.54, 0.49), abs=0.005)
    assert published_law("porian").D.coefficient == pytest.approx(1.401425999458538, rel=1e-6)


@pytest.mark.parametrize("law", published_laws())
def test_every_law_says_what_it_stands_on(law):
    p = law.publication
    used = 6 * law.N_opt(FLOPS) * law.D_opt(FLOPS)
    if p.name != "nanochat-2026":
        np.testing.assert_allclose(used, FLOPS)
    low, high = trained_budgets(law)
    assert low < high
    exponent = np.log(law.N_opt(high) / law.N_opt(low)) / np.log(high / low)
    assert exponent == pytest.approx(p.exponent.a, abs=0.011)
    if p.exponent.interval and p.name not in ("hoffmann-2022-3", "hoffmann-2022-3-rounded"):
        assert p.exponent.interval[0] < exponent < p.exponent.interval[1]
    has_loss = hasattr(law, "loss_opt")
    assert has_loss == isinstance(law, PublishedSurface) == bool(p.loss_unit)
    assert (predict_published(law, 1e20).loss is None) != has_loss
    assert p.source
    assert p.counts in str(p)
    assert json.dumps(p.to_json())
    for name in p.names:
        assert published_law(name.upper()) is law


def test_names_are_one_laws_each():
    names = [name for law in published_laws() for name in law.publication.names]
    assert len(names) == len(set(names))
    assert "list" not in names


def test_a_law_that_says_nothing_of_its_range_is_refused():
    nowhere = Publication(
        "x", (), "", "", "", published_law("kaplan").publication.exponent, Trained()
    )
    law = PublishedOptima(nowhere, published_law("kaplan").N, published_law("kaplan").D)
    with pytest.raises(UserError, match="neither budgets nor sizes"):
        trained_budgets(law)


def test_the_package_gives_them_out():
    assert flops_fit.published_law is published_law
    with pytest.raises(ConfigError, match=r"did you mean 'chinchilla'.*kaplan-2020"):
        flops_fit.published_law("chinchila")


@pytest.mark.parametrize(("budget", "warning"), [(1e21, None), (1e24, "333 times above"),
                                                 (6e17, "10 times below")])  # fmt: skip
def test_a_budget_outside_the_fitted_range_is_warned_about(budget, warning):
    found = predict_published(published_law("chinchilla"), budget).warning
    assert (warning in found) if warning else found is None


def predicted(capsys, *words: str):
    """(JSON, messages) of `predict`."""
    assert main(["predict", *words, "json=true"]) == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_predict_by_a_published_law(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found, said = predicted(capsys, "law=chinchilla", "budget=1e21,1e24")
    first, last = found["predictions"]
    assert first["num_params"] == pytest.approx(2.217e9, rel=1e-3)
    assert first["loss"] == pytest.approx(2.2955, abs=1e-4)
    assert first["tokens_per_param"] == pytest.approx(33.9, abs=0.1)
    assert first["warning"] is None
    assert last["warning"] in said
    assert found["law"]["name"] == "hoffmann-2022-3"
    assert "loss in nats per token on MassiveText" in said
    assert "(80%: 0.454 to 0.455)" in said
    assert "no law of your model and data" in said
    assert not list(tmp_path.iterdir())
    found, _ = predicted(capsys, "law=kaplan", "budget=1e20")
    assert found["predictions"][0]["loss"] is None
    assert main(["predict", "law=chinchilla", "budget=1e21"]) == 0
    assert "2.22B" in capsys.readouterr().out


def test_predict_for_a_size_or_tokens_and_the_cost_of_another(capsys):
    found, _ = predicted(capsys, "law=llama3", "num_params=70e9")
    (one,) = found["predictions"]
    assert one["num_params"] == pytest.approx(70e9)
    found, _ = predicted(capsys, "law=llama3", f"num_tokens={one['num_tokens']}")
    assert found["predictions"][0]["budget"] == pytest.approx(one["budget"])
    found, said = predicted(capsys, "law=chinchilla", "budget=1e21", "instead=7e9")
    instead = found["predictions"][0]["instead"]
    assert instead["loss"] > found["predictions"][0]["loss"]
    assert "N = 7B at 1e21 FLOPs" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["law=chinchila", "budget=1e21"], "did you mean 'chinchilla'? there are kaplan-2020"),
        (["law=chinchilla"], "needs a target: budget=1e21"),
        (["law=kaplan", "budget=1e20", "instead=1e9"], "kaplan-2020 knows no loss"),
        (["law=kaplan", "budget=-1"], "not a finite positive number"),
        (["law=kaplan", "budget=1e20", "study=toy"], "compare studies=toy,kaplan"),
    ],
)
def test_what_a_published_law_cannot_answer_is_said(words, expected, capsys):
    assert main(["predict", *words]) == 1
    assert expected in capsys.readouterr().err


def test_all_are_listed(capsys):
    assert main(["predict", "law=list"]) == 0
    said = capsys.readouterr()
    assert all(law.publication.name in said.out for law in published_laws())
    assert "hoffmann-2022-3 (chinchilla" in said.err
    found, _ = predicted(capsys, "law=list")
    assert len(found["laws"]) == len(published_laws())


def test_a_study_beside_a_published_law(folder, capsys):
    assert main(["compare", "studies=toy,chinchilla", "json=true"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    study, law = flops_fit.load_law("outputs/toy"), published_law("chinchilla")
    assert [row["budget"] for row in found["rows"]] == [1e7, 3e7, 1e8, 1e9, 1e10]
    for row in found["rows"]:
        c = row["budget"]
        expected = float(study.law.N_opt(c)), float(law.N_opt(c))
        assert (row["a"]["num_params"]["value"], row["b"]["num_params"]["value"]) == (
            pytest.approx(expected)
        )
        assert row["a"]["loss"] is row["b"]["loss"] is None
        assert row["ratio"] == pytest.approx(expected[1] / expected[0])
        low, high = row["a"]["tokens_per_param"]["intervals"]["95"]
        assert low < row["a"]["tokens_per_param"]["value"] < high
    assert found["losses"] == NO_LOSSES
    assert f"note: {NO_LOSSES}" in said.err
    assert "times below what hoffmann-2022-3 was fitted to" in said.err
    assert json.loads(Path("outputs/compare-toy-chinchilla/comparison.json").read_text()) == found


def test_the_table_of_a_study_beside_a_published_law(folder, capsys):
    assert main(["compare", "studies=chinchilla,toy"]) == 0
    text = capsys.readouterr().out
    assert "A = chinchilla, B = toy" in text
    assert text.startswith("at 1e8 FLOPs the best model of toy is 0.12 times that of chinchilla")
    assert "loss" not in text


def test_a_study_goes_before_a_published_law_of_its_name(folder, capsys):
    shutil.copytree("outputs/toy", "outputs/kaplan", symlinks=True)
    assert main(["compare", "studies=kaplan,chinchilla"]) == 0
    assert "of yours, not the published law 'kaplan'" in capsys.readouterr().err
    assert main(["compare", "studies=kaplan,toy"]) == 0
    assert "loss" in capsys.readouterr().out


def test_a_name_that_is_neither_is_answered_with_both_kinds(folder, capsys):
    assert main(["compare", "studies=toy,chinchila"]) == 1
    said = capsys.readouterr().err
    assert "no study 'chinchila' under" in said
    assert "hoffmann-2022-3" in said


def sides(*names: str) -> list[Side]:
    return [Side.of_publication(name, published_law(name)) for name in names]


def test_two_publications_show_losses_of_one_unit_with_a_warning_where_data_differ():
    other = compare_optima(*sides("chinchilla", "muennighoff"))
    assert all(row.a.loss and row.b.loss for row in other.rows)
    assert any("measured on MassiveText, muennighoff on C4" in text for text in other.warnings)
    same = compare_optima(*sides("chinchilla", "besiroglu"))
    assert not same.warnings
    without = compare_optima(*sides("chinchilla", "kaplan"))
    assert all(row.a.loss is row.b.loss is None for row in without.rows)
    assert any("without embeddings" in text for text in without.warnings)


def test_the_page_is_of_todays_laws():
    script = ROOT / "scripts/write_published_laws.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
