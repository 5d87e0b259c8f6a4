"""The digest of settings, of which ids are made."""

import math

import pytest

from flops_fit.plan.ids import digest


@pytest.mark.parametrize(
    ("one", "other"), [([1.0, 2.5], (1, 2.5)), ({"a": [{"b": 3.0}]}, {"a": [{"b": 3}]})]
)
def test_a_digest_is_of_the_numbers_however_they_are_written(one, other):
    assert digest(one) == digest(other) != digest([2, 2.5])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_has_no_digest(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"lr": value})
