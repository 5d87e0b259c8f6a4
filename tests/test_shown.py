"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from flops_fit.shown import (
    duration,
    in_a_row,
    short_flops,
    short_loss,
    short_number,
    significant,
    span,
    times,
)


@pytest.mark.parametrize(
    ("shown", "value", "words"),
    [
        (short_number, 950, "950"),
        (short_number, 1234, "1.23k"),
        (short_number, 7e10, "70B"),
        (short_flops, 3e11, "3e11"),
        (short_flops, 1.5e20, "1.5e20"),
        (short_flops, 9.999e19, "1e20"),
        (short_flops, 86.4, "8.64e1"),
        (short_loss, 2.33, "2.330"),
        (short_loss, 12.3456, "12.35"),
        (short_loss, 1234.4, "1234"),
        (short_loss, 0.10583, "0.1058"),
        (short_loss, 0.06164, "0.0616"),
        (short_loss, 0.0012345, "0.00123"),
        (times, 10, "10x"),
        (times, 1.072, "1.07x"),
        (times, 1000.2, "1,000x"),
        (times, 6.03e9, "6e9x"),
        (duration, 0.2, "1 second"),
        (duration, 90, "90 seconds"),
        (duration, 600, "10 minutes"),
        (duration, 7200, "2 hours"),
        (duration, 8e5, "9 days"),
    ],
)
def test_a_number_in_few_digits(shown, value, words):
    assert shown(value) == words


@pytest.mark.parametrize(
    ("value", "digits", "words"),
    [(6296.4, 4, "6296"), (1.26734e9, 4, "1.267e9"), (0.12926, 4, "0.1293"), (2e21, 3, "2e21")],
)
def test_digits_as_they_are_typed(value, digits, words):
    assert significant(value, digits) == words
    assert float(significant(value, digits)) == pytest.approx(value, rel=10 ** (1 - digits))


@pytest.mark.parametrize(
    ("ends", "shown", "words"),
    [
        ((1.53e9, 1.84e9), short_number, "1.53-1.84B"),
        ((9.5e8, 1.84e9), short_number, "950M-1.84B"),
        ((120, 950), short_number, "120-950"),
        ((2.317, 2.3364), short_loss, "2.317-2.336"),
        ((1e20, 2e20), short_flops, "1e20-2e20"),
        ((0.7, 0.94), times, "0.7-0.94x"),
        ((1.5e9, math.inf), short_number, "over 1.5B"),
        ((0.0, 2e9), short_number, "under 2B"),
        ((0.0, math.inf), short_number, "no limit"),
    ],
)
def test_a_range_in_one_piece(ends, shown, words):
    assert span(*ends, shown) == words


def test_names_in_a_sentence():
    assert [in_a_row(["a", "b", "c"][:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
