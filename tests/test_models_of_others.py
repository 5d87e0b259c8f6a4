"""Five of scripts/check_models.py: models of others train, and go on after a stop as they were."""

from collections import OrderedDict

import pytest
import torch
from from_scripts import loaded
from torch import nn

from flops_fit.training.leftovers import kept_tensors


@pytest.fixture(scope="module")
def check():
    return loaded("check_models")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nanogpt", "gnn", "cache", "moe", "dict_output"])
def test_a_model_of_others_trains_and_resumes(check, name, tmp_path):
    outcome = check.tried(name, tmp_path)
    assert outcome.problem is None
    assert outcome.loss < outcome.first_loss
    assert outcome.resumed == "equal"
    assert len(outcome.num_params) == 2


def test_a_dict_that_imports_its_values_is_not_asked_for_them():
    class Importing(OrderedDict):
        def values(self):
            raise ValueError("could not import")

    model = nn.Linear(1, 1)
    model.kept = Importing(a=torch.zeros(2))
    assert list(kept_tensors(model)) == ["kept"]
