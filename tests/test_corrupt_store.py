"""A small part of scripts/corrupt_store.py: spoilt files end in a sentence, never in a traceback,
in code that runs, in a file outside of the study, or in another answer without a word."""

import pytest
from from_scripts import loaded


@pytest.fixture(scope="module")
def corrupt_store():
    return loaded("corrupt_store")


def test_of_a_study(corrupt_store):
    assert corrupt_store.store(60, seed=1) == []


def test_of_checkpoints_and_trunks(corrupt_store):
    assert corrupt_store.checkpoints(40, seed=1) == []
