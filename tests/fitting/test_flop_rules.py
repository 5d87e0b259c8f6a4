"""The FLOP rule that a table's columns obey."""

import numpy as np
import pytest

from flops_fit.errors import UserError
from flops_fit.fitting.points import INCONSISTENT_FLOPS
from flops_fit.laws import FlopRule
from flops_fit.plan.run import Run
from flops_fit.tables import table_flop_rule
from flops_fit.tables.flop_rules import CONSTANT_RULE

SIZES, TOKENS = np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4)


def table(per_param, noise=lambda i: 1.0):
    """Runs over a grid of N and D with C = per_param(N) N D times `noise` of the row's number."""
    grid = [(n, d) for n in SIZES for d in TOKENS]
    return [
        Run(f"row {i}", "completed", n, d, per_param(n) * noise(i) * n * d, 3.0, 1e18)
        for i, (n, d) in enumerate(grid)
    ]


def by_size(n):
    """12 FLOPs for each parameter of the smallest size, 6 for each of a huge one."""
    return 6 + 6 * (SIZES[0] / n) ** 0.3


def test_flops_that_go_with_size_are_a_table_over_it():
    rule = table_flop_rule(table(by_size))
    assert rule.num_params == pytest.approx(SIZES)
    assert rule.flops_per_token == pytest.approx([by_size(n) * n for n in SIZES])


def test_each_size_has_the_geometric_mean_of_its_rows():
    rule = table_flop_rule(table(by_size, noise=lambda i: 1.005 if i % 2 else 1 / 1.005))
    assert rule.flops_per_token == pytest.approx([by_size(n) * n for n in SIZES], rel=1e-9)


def test_flops_that_vary_for_other_reasons_have_their_median_as_the_constant():
    rule = table_flop_rule(table(lambda n: 8.0, noise=lambda i: 1.3 if i % 4 == 3 else 1.0))
    assert rule == FlopRule.constant(8.0)


def test_a_size_for_each_row_explains_nothing():
    runs = table(by_size)[:: len(TOKENS)]
    assert len({run.num_params for run in runs}) == len(runs)
    assert table_flop_rule(runs).is_constant


@pytest.mark.parametrize(("off", "is_ours"), [(0.8, True), (1.2, False)])
def test_a_constant_within_the_spread_of_6_is_6(off, is_ours):
    constant = 6 * (1 + off * CONSTANT_RULE)
    rule = table_flop_rule(table(lambda n: constant))
    assert rule == FlopRule.constant() if is_ours else FlopRule.constant(constant)
    assert rule.flops_per_param_per_token == pytest.approx(6 if is_ours else constant, rel=1e-9)


@pytest.mark.parametrize(("off", "is_constant"), [(0.9, True), (1.2, False)])
def test_a_spread_below_one_percent_is_a_constant(off, is_constant):
    """Half of the sizes cost that much more than the others."""
    dear = 6 * (1 + off * CONSTANT_RULE)
    rule = table_flop_rule(table(lambda n: dear if n > SIZES[2] else 6.0))
    assert rule.is_constant == is_constant


@pytest.mark.parametrize("factor", [0.99 * INCONSISTENT_FLOPS, 1.01 / INCONSISTENT_FLOPS])
def test_another_constant_of_this_magnitude_is_believed(factor):
    rule = table_flop_rule(table(lambda n: 6 * factor))
    assert rule.flops_per_param_per_token == pytest.approx(6 * factor)


@pytest.mark.parametrize(
    ("factor", "says_constant"),
    [
        (1000.0, False),
        (1 / 1000.0, False),
        (1.01 * INCONSISTENT_FLOPS, True),
        (0.99 / INCONSISTENT_FLOPS, True),
    ],
)
def test_units_that_can_not_be_are_refused_with_what_to_do(factor, says_constant):
    with pytest.raises(UserError) as error:
        table_flop_rule(table(lambda n: 6 * factor))
    is_so = f", or say that this is so with flops_per_param_per_token={6 * factor:.3g}"
    assert str(error.value) == (
        f"C of this table is {factor:.3g} times 6 N D: check the units of C, N and D, which "
        f"columns.flops_unit=gflops and the like name{is_so if says_constant else ''}"
    )
