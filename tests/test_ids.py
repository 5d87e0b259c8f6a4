"""Ids that earlier versions gave: whoever upgrades trains nothing a second time."""

import json
from pathlib import Path

import pytest

from flops_fit.cli import main

PINNED = json.loads((Path(__file__).parent / "assets" / "ids.json").read_text(encoding="utf-8"))
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


@pytest.mark.parametrize(("words", "ids"), list(pinned_plans()))
def test_are_those_of_earlier_versions(words, ids, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *words, "json=true"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert [e["id"] for e in planned["experiments"]] == ids
