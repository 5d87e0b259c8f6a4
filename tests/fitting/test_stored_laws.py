"""Laws that earlier versions wrote are read, answer as they did, and are written as today's."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from flops_fit.errors import StudyWarning
from flops_fit.fitting import ScalingLaw, SurfaceFit, fit_runs
from flops_fit.store.folder import StudyFolder
from flops_fit.tables import read_table

STUDIES = Path(__file__).resolve().parents[1] / "assets" / "studies"
FOLDERS = sorted(path.parent for path in STUDIES.glob("*/plans/*/law.json"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.relative_to(STUDIES).parts[0])
def folder(request) -> Path:
    """The folder of an answer that was stored with schema 1."""
    return request.param


def test_there_are_stored_laws():
    assert len(FOLDERS) >= 4


def test_a_stored_law_predicts_what_it_predicted(folder):
    law = ScalingLaw.load(folder)
    assert set(law.fits.draws) == {name.partition(".")[0] for name in law.intervals}
    for stored in law.predictions:
        again = law.predict_by(stored.method, stored.budget)
        for name in ("num_params", "num_tokens", "tokens_per_param", "loss", "extrapolation"):
            assert getattr(again, name) == pytest.approx(getattr(stored, name), rel=1e-9), name
        assert again.intervals.keys() == stored.intervals.keys()
        for name, levels in stored.intervals.items():
            for level, bounds in levels.items():
                assert again.intervals[name][level] == pytest.approx(bounds, rel=1e-9)


def test_a_stored_law_is_written_as_the_same_law_of_today(folder, tmp_path):
    law = ScalingLaw.load(folder)
    law.save(tmp_path)
    assert ScalingLaw.load(tmp_path).to_json() == law.to_json()
    with np.load(folder / "draws.npz") as old, np.load(tmp_path / "draws.npz") as new:
        added = {"surface": "surface.kappa", "isoflop": "isoflop.departure"}
        assert set(new) - set(old) == {added[name.partition(".")[0]] for name in old}
        for name in new:
            np.testing.assert_array_equal(new[name], old.get(name, 0))


def test_all_numbers_of_a_stored_law_stand_where_they_do_today(folder):
    old, new = json.loads((folder / "law.json").read_text()), ScalingLaw.load(folder).to_json()
    assert (old["schema_version"], new["schema_version"]) == (1, 2)
    for key in old.keys() - {"schema_version", "diagnostics", "surface"}:
        assert new[key] == old[key], key
    assert new["surface"] == {**old["surface"], "kappa": 0.0}
    was, now = old["diagnostics"], new["diagnostics"]
    kept = {"verdict", "findings", "has_intervals", "reach", "exponents", "flops_ratio",
            "back_tests", "num_draws", "parameter_counts", "seed_noise"}  # fmt: skip
    for key in kept:
        assert now[key] == was[key], key
    assert (now["why"], now["advice"]) == ("", [])
    for part, before in zip(now["without_budget"], was["without_budget"], strict=True):
        assert part["exponents"] == {
            "isoflop": before["isoflop_a"], "surface": before["surface_a"]
        }  # fmt: skip
    assert now["without_edges"]["exponents"]["surface"] == was["without_edges"]["surface_a"]
    assert [a["agree"] for a in now["agreements"]] == [
        agree for agree in [was["exponents_agree"]] if agree is not None
    ]
    assert [a["agree_less_bias"] for a in now["agreements"]] == [was["bias_explains"]] * len(
        now["agreements"]
    )
    assert [b["a"] for b in now["biases"]] == [b["a"] for b in [was["isoflop_bias"]] if b]
    surface = now["methods"]["surface"]
    for key in ("noise", "identifiable", "deltas", "next_runs"):
        assert surface[key] == was[key], key
    assert [run["a"] for run in surface["influential_runs"]] == [
        run["surface_a"] for run in was["influential_runs"]
    ]
    moved = {"exponents_agree", "bias_explains", "isoflop_bias", "without_budget", "without_edges",
             "noise", "identifiable", "deltas", "next_runs", "influential_runs"}  # fmt: skip
    in_the_section = {"start_agreement", "promised_decrease", "at_bounds"}
    assert was.keys() == kept | moved | in_the_section
    for key in in_the_section:
        assert new["surface"][key] == was[key], key


def test_a_law_without_its_draws_predicts_without_intervals(folder, tmp_path):
    (tmp_path / "law.json").write_bytes((folder / "law.json").read_bytes())
    whole = ScalingLaw.load(folder)
    said = pytest.warns(StudyWarning, match=r"draws\.npz is gone: there are no intervals but those")
    with said if whole.fits.draws else nullcontext():
        law = ScalingLaw.load(tmp_path)
    assert law.draws is None
    prediction = law.predict(10 * law.largest_budget)
    assert prediction.intervals == {}
    assert prediction.num_params == whole.predict(10 * law.largest_budget).num_params


def stored_runs(folder):
    """The runs of a study's plan, or of the table that was fitted."""
    if not (folder / "plan.json").exists():
        return read_table(folder / "runs.csv").runs
    study = StudyFolder(folder.parents[1])
    return study.runs_of(study.read_plan())[0]


def test_a_stored_law_says_how_far_its_loss_reaches(folder):
    """By its own draws, where they are still there, at the targets that were stored."""
    law = ScalingLaw.load(folder)
    reach = law.diagnostics.numbers.loss_reach
    narrow = []
    for multiple in (1, 10, 100):
        levels = law.predict(multiple * law.largest_budget).intervals.get("loss", {})
        low, high = levels.get("80", (1, np.inf))
        narrow.append(high / low <= 1.03**2)
    expected = {(): None, (True,): 1, (True, True): 10, (True, True, True): 30}
    until = narrow.index(False) if False in narrow else len(narrow)
    assert reach == expected[tuple(narrow[:until])]
    numbers = law.diagnostics.numbers
    if law.diagnostics.verdict.startswith("usable"):
        assert law.predict(min(numbers.reach, reach) * law.largest_budget).reliance == "usable"


def test_the_runs_of_a_stored_law_give_it_again(folder):
    """All but L(C) of approach 2, which is continued otherwise by intention, and the words."""
    stored = ScalingLaw.load(folder)
    runs = stored_runs(folder)
    draws, seed = stored.provenance["draws"], stored.provenance["seed"]
    assert stored.provenance["asked"] == "surface"
    again = fit_runs(runs, flop_rule=stored.flop_rule, answer=SurfaceFit(), draws=draws, seed=seed)
    for name in ("asked", "metric", "input_sha256"):
        assert again.provenance[name] == stored.provenance[name], name
    assert again.provenance["select"].items() >= stored.provenance["select"].items()
    for method, settings in stored.provenance["settings"].items():
        now = again.provenance["settings"][method]
        assert {name: now[name] for name in settings} == settings
    assert again.answer == stored.answer
    numbers = again.diagnostics.numbers
    if all(one.is_clear for one in numbers.orders):
        assert numbers.reach == stored.diagnostics.numbers.reach
    else:  # which earlier versions didn't look at
        assert numbers.reach in (None, 1.0)
    assert again.diagnostics.numbers.has_intervals == stored.diagnostics.numbers.has_intervals
    assert [o.verdict for o in again.budgets] == [o.verdict for o in stored.budgets]
    for old in stored.predictions:
        new = again.predict_by(old.method, old.budget)
        assert new.num_params == pytest.approx(old.num_params, rel=1e-3)
        if old.method != "isoflop":
            assert new.loss == pytest.approx(old.loss, rel=1e-3)
            for level, bounds in old.intervals.get("loss", {}).items():
                assert new.intervals["loss"][level] == pytest.approx(bounds, rel=1e-2)
    ended = stored.of("surface").start_agreement
    assert again.of("surface").start_agreement == pytest.approx(ended, abs=0.13)  # 2 of 16 starts


@pytest.mark.parametrize(
    ("factors", "reach"),
    [((1.029, 1.029, 1.029), 30), ((1.01, 1.029, 1.031), 10), ((1.01, 1.031, 1.01), 1),
     ((1.031, 1.01, 1.01), None)],
)  # fmt: skip
def test_the_reach_of_a_stored_loss_ends_where_its_interval_passes_3_percent(factors, reach):
    data = json.loads((FOLDERS[0] / "law.json").read_text())
    mine = [p for p in data["predictions"] if p["method"] == data["answer"]]
    for multiple, factor in zip((1, 10, 100), factors, strict=True):
        (stated,) = (p for p in mine if p["extrapolation"] == pytest.approx(multiple))
        stated["intervals"]["loss"]["80"] = [stated["loss"] / factor, stated["loss"] * factor]
    assert ScalingLaw.from_json(data).diagnostics.numbers.loss_reach == reach
