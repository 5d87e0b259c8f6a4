"""A small part of scripts/torture.py: kills, races, a terminal that is closed; at the end each run
is there once, with the loss that it has undisturbed."""

import os
import random

import pytest
from from_scripts import loaded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc"),
]


@pytest.fixture(scope="module")
def torture(tmp_path_factory):
    script = loaded("torture")
    place = tmp_path_factory.mktemp("torture")
    torture = script.Torture(place, random.Random(1), 1, workers=2, budgets=script.BUDGETS[:2])
    with pytest.MonkeyPatch.context() as patch:
        script.set_surroundings(patch.setenv)
        torture.begin()
        yield torture


def test_kills_at_random_moments(torture):
    torture.kills()
    assert torture.found == []


def test_two_commands_with_different_plans_at_once(torture):
    torture.race("race", [torture.budgets[:1], torture.budgets[1:]], workers=2)
    assert torture.found == []


def test_a_terminal_that_is_closed(torture):
    torture.terminal(1, 2)
    assert torture.found == []
