"""Budgets that data and sizes carry, and what is named in place of those that don't."""

from itertools import pairwise

import pytest
from test_planning import ENDLESS, Square

from flops_fit.errors import PlanError
from flops_fit.plan.flops import FormulaFlops
from flops_fit.plan.proposal import Bounds, planned_or_instead, propose
from flops_fit.plan.rules import PowerRule
from flops_fit.plan.sweep import DataShape, Sweep

FLOPS = FormulaFlops()


def sweep(*budgets, **knobs):
    return Sweep(budgets=budgets, **{"batch_size": 64, **knobs})


def proposed(data, family=None, bounds=None, **knobs):
    return propose(sweep(**knobs), family or Square(), data, FLOPS, bounds=bounds)


def test_data_without_end_carry_two_decades_with_all_sizes():
    found = proposed(ENDLESS)
    assert found.changes == {}
    assert len(found.budgets) == 5
    assert found.budgets[-1] == pytest.approx(100 * found.budgets[0])
    assert len(found.plan) == 5 * 7
    assert found.plan.notes == ()


@pytest.mark.parametrize(
    ("data", "knobs"),
    [
        (DataShape(1, 180_000), {}),
        (DataShape(1, 180_000), {"center": 100.0}),
        (DataShape(1024, 1_000_000), {}),
        (DataShape(1024, 10_000), {}),
        (DataShape(1, 900), {}),
        (DataShape(16, 1_438), {}),
        (DataShape(1, 50_000_000), {"sizes": (8, 16, 32, 64, 128)}),
        (DataShape(1, 50_000), {"sizes": (8, 16, 32, 64, 128)}),
        (ENDLESS, {"batch_tokens": PowerRule(20.0, num_tokens_exponent=0.4)}),
    ],
    ids=lambda value: str(value),
)
def test_what_is_proposed_can_be_planned_and_has_sizes_on_both_sides(data, knobs):
    found = proposed(data, **knobs)
    assert len(found.budgets) >= 3
    assert list(found.budgets) == sorted(found.budgets)
    for budget in found.budgets:
        mine = found.plan.at_budget(budget).experiments
        ratio = knobs.get("center", 20.0)
        assert len(mine) >= 3
        assert mine[0].tokens_per_param > ratio > mine[-1].tokens_per_param
        for e in mine:
            assert e.num_steps >= 100
            assert e.epochs is None or e.epochs <= found.sweep.max_epochs
    assert all(1.5 <= round(b / a, 6) <= 5 for a, b in pairwise(found.budgets))


def test_data_are_repeated_only_where_nothing_else_helps():
    assert "max_epochs" not in proposed(DataShape(1, 180_000)).changes
    few = proposed(DataShape(1, 900))
    assert few.changes["max_epochs"] > 4
    assert any("law of repeated data" in note for note in few.notes)


def test_a_batch_that_follows_a_rule_or_comes_with_the_data_stays():
    data = DataShape(1024, 10_000)
    assert "batch_size" in proposed(data).changes
    fixed = propose(sweep(), Square(), data, FLOPS, may_change_batch=False)
    assert "batch_size" not in fixed.changes


def test_the_words_to_paste_are_those_of_the_command_line():
    found = proposed(DataShape(1, 180_000))
    budgets = ",".join(f"{b:.0e}".replace("e+0", "e").replace("e+", "e") for b in found.budgets)
    assert found.overrides == [f"budgets=[{budgets}]", f"span={found.sweep.span:g}"]
    assert found.settings == {"budgets": found.budgets, "span": found.sweep.span}


def test_bounds_are_kept_by_smaller_ladders():
    whole = proposed(ENDLESS)
    bounds = Bounds(flops=whole.plan.total_flops / 20)
    assert proposed(ENDLESS, bounds=bounds).plan.total_flops <= bounds.flops
    bounds = Bounds(params=max(e.num_params_total for e in whole.plan.experiments) // 4)
    smaller = proposed(ENDLESS, bounds=bounds).plan
    assert max(e.num_params_total for e in smaller.experiments) <= bounds.params
    with pytest.raises(PlanError, match="no three budgets are carried"):
        proposed(ENDLESS, bounds=Bounds(flops=1.0))


@pytest.mark.parametrize(("family", "knobs"), [(None, {"sizes": (8,)}), (Square(max_width=1), {})])
def test_one_size_is_no_sweep(family, knobs):
    with pytest.raises(PlanError, match=r"there is 1 size to train.*list more sizes"):
        proposed(ENDLESS, family, **knobs)


@pytest.mark.parametrize(
    ("budgets", "data", "knobs"),
    [
        ((1e14, 1e15, 1e16), DataShape(1, 180_000), {}),
        ((1e4, 1e5, 1e6), DataShape(1, 180_000), {}),
        ((1e3, 1e4), ENDLESS, {}),
        ((1e15,), DataShape(1, 900), {}),
        ((1e20,), DataShape(1, 50_000_000), {"sizes": (8, 16, 32, 64, 128)}),
    ],
)
def test_a_refusal_names_budgets_that_work(budgets, data, knobs):
    with pytest.raises(PlanError, match=r"leaves no size.*What works here: ") as refused:
        planned_or_instead(sweep(*budgets, **knobs), Square(), data, FLOPS)
    words = str(refused.value).split("What works here: ")[1].replace("'", "").split()
    given = dict(word.split("=") for word in words)
    instead = tuple(map(float, given.pop("budgets").strip("[]").split(",")))
    changed = {name: float(v) if name != "batch_size" else int(v) for name, v in given.items()}
    plan = planned_or_instead(sweep(*instead, **{**knobs, **changed}), Square(), data, FLOPS)
    assert plan.budgets == instead
    assert all(len(plan.at_budget(b)) >= 3 for b in instead)
