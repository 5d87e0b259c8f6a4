"""Ids that earlier versions gave: whoever upgrades trains nothing a second time."""

import json
import math
from pathlib import Path

import pytest

from flops_fit.cli import main
from flops_fit.plan.ids import digest
from flops_fit.store.folder import StudyFolder

ASSETS = Path(__file__).parent / "assets"
STUDIES = ASSETS / "studies"
PINNED = json.loads((ASSETS / "ids.json").read_text(encoding="utf-8"))
FAST = ("data_seed=5", "learning_rate_rule=power", "share_trunks=true", "trainer=command")
"""Settings of the plans that are made in the fast suite too: between them they fill every field
that an id is made of."""


def pinned_plans():
    for pinned in PINNED:
        words = pinned["words"]
        if "dataset=tokens" in words:  # of a file that was not kept
            continue
        marks = () if set(FAST) & set(words) else pytest.mark.slow
        yield pytest.param(words, pinned["ids"], marks=marks, id=" ".join(words[2:]))


def planned(folder, words):
    """Experiments of `flops-fit plan`, as JSON."""
    command = ["plan", *words, "study=planned", f"output_root={folder}"]
    assert main(command) == 0
    return StudyFolder(folder / "planned").read_plan().to_json()["experiments"]


@pytest.mark.parametrize(("words", "ids"), list(pinned_plans()))
def test_are_those_of_earlier_versions(words, ids, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [e["id"] for e in planned(tmp_path, words)] == ids


def test_trunks_are_those_of_earlier_versions(tmp_path):
    (stored,) = STUDIES.glob("trunks/plans/*/plan.json")
    earlier = json.loads(stored.read_text(encoding="utf-8"))["experiments"]
    by_size = {e["num_params"]: e["trunk"] for e in earlier}
    assert len(set(by_size.values())) == len(by_size)
    assert all(e["trunk"] == by_size[e["num_params"]] for e in earlier)
    words = ["model=mlp", "dataset=toy", "budgets=[1e7,3e7,1e8]", "batch_size=64", "num_sizes=3"]
    words += ["span=4", "center=100", "min_steps=10", "schedule=wsd", "share_trunks=true"]
    assert {e["num_params"]: e["trunk"] for e in planned(tmp_path, words)} == by_size


def test_there_is_no_trunk_where_none_is_shared(tmp_path):
    words = ["model=mlp", "dataset=toy", "budgets=[1e7]", "num_sizes=3", "min_steps=10"]
    assert {e["trunk"] for e in planned(tmp_path, words)} == {""}


@pytest.mark.parametrize(
    ("one", "other"), [([1.0, 2.5], (1, 2.5)), ({"a": [{"b": 3.0}]}, {"a": [{"b": 3}]})]
)
def test_a_digest_is_of_the_numbers_however_they_are_written(one, other):
    assert digest(one) == digest(other) != digest([2, 2.5])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_has_no_digest(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"lr": value})
