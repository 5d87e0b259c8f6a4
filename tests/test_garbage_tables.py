"""A small part of scripts/garbage_tables.py: a law that was planted comes out of every dress, and
nothing else ever does."""

from collections import Counter

import pytest
from from_scripts import loaded

SEEDS = (1, 2, 3, 4)
"""None of them a multiple of `WHOLE`: read, and fitted by approach 2 alone."""


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("pyarrow")
    pytest.importorskip("openpyxl")
    return loaded("garbage_tables")


def test_a_hundred_tables_give_what_was_planted_or_one_sentence(script):
    came = Counter()
    for i, kind in enumerate(script.KINDS):
        for seed in SEEDS:
            outcome, wrong = script.trouble(kind, 100 * i + seed)
            assert not wrong, f"--kind {kind.__name__} --seed {100 * i + seed} --number 1: {wrong}"
            came[script.KINDS[kind], outcome] += 1
    assert sum(came.values()) >= 100
    assert came[script.Must.FIT_OR_REFUSE, "refused"] > came[script.Must.FIT_OR_REFUSE, "law"] > 0


def test_a_wrong_law_is_noticed(script, monkeypatch):
    planted = script.planted_optimum()
    monkeypatch.setattr(script, "planted_optimum", lambda: 2 * planted)
    outcome, wrong = script.trouble(script.delimited, script.WHOLE)
    assert outcome == "law"
    assert wrong.startswith("N_opt is off by -")
