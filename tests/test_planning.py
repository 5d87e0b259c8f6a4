import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import PlanError, StudyError
from flops_fit.plan.experiment import ModelSize, Plan, Size
from flops_fit.plan.flops import CountedFlops, FormulaFlops
from flops_fit.plan.ids import with_ids
from flops_fit.plan.rules import PowerRule
from flops_fit.plan.sweep import DataShape, Sweep, held_out_samples, plan_sweep
from flops_fit.plan.trunks import SharedTrunks
from flops_fit.settings import SweepSettings, stored

ENDLESS = DataShape(tokens_per_sample=1, unique_samples=None)


@dataclass(frozen=True)
class Square:
    """A family with N = 12 width^2 whose operations add up to `counted` times 6N a token."""

    counted: float | None = 1.0
    max_width: int = 10**9

    def at(self, value):
        num_params = 12 * value**2
        counted = None if self.counted is None else self.counted * 6 * num_params
        return ModelSize(Size("width", value), num_params, num_params + 1000, counted)

    def nearest(self, num_params):
        below = math.floor(math.sqrt(num_params / 12))
        widths = [min(max(1, width), self.max_width) for width in (below, below + 1)]
        return self.at(min(widths, key=lambda w: abs(math.log(12 * w**2 / num_params))))


def sweep(*budgets, **knobs):
    return Sweep(budgets=budgets, **{"batch_size": 32, **knobs})


def plan(*budgets, family=None, data=ENDLESS, flops=None, **knobs):
    return plan_sweep(sweep(*budgets, **knobs), family or Square(), data, flops)


def note_with(text, plan):
    found = [note for note in plan.notes if text in note]
    assert found, f"no note on {text!r} in {plan.notes}"
    return found[0]


@given(
    budget=st.floats(1e6, 1e24),
    batch_size=st.integers(1, 4096),
    tokens_per_sample=st.integers(1, 4096),
    counted=st.floats(0.1, 10),
    rule=st.sampled_from([FormulaFlops(), FormulaFlops(4.5), CountedFlops()]),
)
def test_realised_flops_are_within_half_a_step_of_the_budget(
    budget, batch_size, tokens_per_sample, counted, rule
):
    data = DataShape(tokens_per_sample, None)
    asked = sweep(budget, batch_size=batch_size, min_steps=1)
    try:
        planned = plan_sweep(asked, Square(counted), data, rule)
    except PlanError:  # not a single step within this budget
        return
    for e in planned.experiments:
        step = e.batch_tokens * e.flops_per_token
        assert abs(e.flops - budget) <= step * (1 / 2 + 1e-9)
        assert e.batch_tokens == batch_size * tokens_per_sample
        assert e.num_tokens == e.num_steps * e.batch_tokens


def test_c_is_6nd_by_the_formula():
    for e in plan(1e15, 3e17).experiments:
        assert e.flops == pytest.approx(6 * e.num_params * e.num_tokens, rel=1e-12)
        assert e.flops_per_token_formula == 6 * e.num_params


def test_a_constant_of_ones_own_replaces_the_6():
    planned = plan(1e15, flops=FormulaFlops(2.5))
    for e in planned.experiments:
        assert e.flops == pytest.approx(2.5 * e.num_params * e.num_tokens, rel=1e-12)
        assert planned.flop_rule(e.num_params) == pytest.approx(e.flops_per_token)


def test_sizes_are_evenly_spaced_in_logs_around_the_centre():
    (*sizes,) = plan(1e18, num_sizes=7, span=16).experiments
    steps = [b.num_params / a.num_params for a, b in pairwise(sizes)]
    assert steps == pytest.approx([16 ** (1 / 3)] * 6, rel=0.01)
    assert sizes[3].tokens_per_param == pytest.approx(20, rel=0.01)
    assert sizes[-1].num_params / sizes[3].num_params == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize("center", [2.0, 20.0, 700.0])
def test_the_centre_is_where_tokens_per_parameter_are_as_asked(center):
    (only,) = plan(1e18, num_sizes=1, center=center).experiments
    assert only.tokens_per_param == pytest.approx(center, rel=0.01)


@pytest.mark.parametrize("counted", [0.5, 1.0, 4.0])
def test_the_counted_rule_spends_counted_flops(counted):
    planned = plan(1e18, family=Square(counted), flops=CountedFlops())
    for e in planned.experiments:
        assert e.flops == e.flops_counted == pytest.approx(1e18, rel=1e-3)
        assert e.flops_per_token == pytest.approx(counted * 6 * e.num_params)
        assert planned.flop_rule(e.num_params) == pytest.approx(e.flops_per_token)
    assert planned.experiments[3].tokens_per_param == pytest.approx(20, rel=0.01)


def test_both_figures_stand_in_the_plan_and_a_gap_is_pointed_out():
    planned = plan(1e18, family=Square(3.0))
    for e in planned.experiments:
        assert e.flops == pytest.approx(1e18, rel=1e-3)
        assert e.flops_counted == pytest.approx(3e18, rel=1e-3)
    assert "FLOPs are 3 times 6ND" in note_with("counted", planned)
    assert "FLOPs are 0.5 times" in note_with("counted", plan(1e18, family=Square(0.5)))
    assert plan(1e18, family=Square(1.2)).notes == ()
    assert plan(1e18, family=Square(None)).notes == ()


def test_the_counted_rule_needs_a_count():
    with pytest.raises(PlanError, match=r"FLOPs of width=\d+ could not be counted.*flops=formula"):
        plan(1e18, family=Square(None), flops=CountedFlops())


def test_experiments_come_in_order_of_budget_and_size():
    planned = plan(1e18, 1e16, 1e17)
    keys = [(e.budget, e.num_params) for e in planned.experiments]
    assert keys == sorted(keys)
    assert planned.budgets == (1e16, 1e17, 1e18)
    assert str(planned) == "21 runs at 3 budgets, 7.77e18 FLOPs"
    assert planned.total_flops == pytest.approx(7 * 1.11e18, rel=1e-3)


def test_without_budgets_nothing_is_planned():
    with pytest.raises(PlanError, match=r"no budgets: `flops-fit plan`.*budgets=1e15,1e16"):
        plan()


def test_sizes_with_too_few_steps_are_dropped_with_a_message():
    planned = plan(1e9, batch_size=128, sizes=(8, 16, 32, 64), min_steps=100)
    assert [e.size.value for e in planned.experiments] == [8, 16, 32]
    assert {e.batch_size for e in planned.experiments} == {128}
    assert note_with("dropped", planned) == "budget 1e9: dropped width 64 (only 26 steps)"
    fewer = plan(1e9, batch_size=128, sizes=(8, 64, 96), min_steps=100)
    assert note_with("dropped", fewer) == (
        "budget 1e9: dropped width 64 (only 26 steps), width 96 (only 12 steps)"
    )


def test_a_budget_too_small_for_every_size_is_an_error():
    message = r"budget 1e6 leaves no size.*min_steps=100: raise the budget.*and 1 more sizes"
    with pytest.raises(PlanError, match=message):
        plan(1e6, 1e12, sizes=(64, 128))


def test_sizes_that_repeat_the_data_too_often_are_dropped():
    data = DataShape(tokens_per_sample=10, unique_samples=20_000)
    planned = plan(2e10, data=data, sizes=(12, 24, 48, 96), min_steps=50)
    widths = [e.size.value for e in planned.experiments]
    assert widths == [24, 48, 96]
    assert note_with("dropped", planned).endswith("dropped width 12 (9.64 epochs, above 4)")
    assert "1 of 3 sizes repeat the data, up to 2.41 epochs" in note_with("repeat", planned)
    assert [e.epochs > 1 for e in planned.experiments] == [True, False, False]
    for e in planned.experiments:
        assert e.epochs == e.num_tokens / 200_000


def test_a_budget_that_needs_more_data_than_there_is_is_an_error():
    with pytest.raises(PlanError, match=r"leaves no size.*max_epochs=4: bring more data"):
        plan(1e15, data=DataShape(1, 1000))


def test_sizes_that_fall_together_are_planned_once_and_said():
    planned = plan(1e15, family=Square(max_width=3))
    assert [e.size.value for e in planned.experiments] == [3]
    assert "7 sizes asked, 1 different ones" in note_with("asked", planned)
    assert "has 1 sizes" in note_with("minimum", planned)


def test_explicit_sizes_serve_every_budget():
    planned = plan(1e12, 1e13, sizes=(64, 16, 32), num_sizes=7)
    assert [(e.budget, e.size.value) for e in planned.experiments] == [
        (budget, width) for budget in (1e12, 1e13) for width in (16, 32, 64)
    ]
    assert planned.notes == ()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"budgets": (0.0,)}, "budget 0 is not a finite positive"),
        ({"budgets": (-1e15,)}, r"budget -1e\+15 is not"),
        ({"budgets": (math.inf,)}, "budget inf is not"),
        ({"budgets": (math.nan,)}, "budget nan is not"),
        ({"budgets": (1e15, 1000000000000000)}, "budgets repeat"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"num_sizes": 0}, "num_sizes is 0"),
        ({"min_steps": 0}, "min_steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"sizes": ()}, "sizes is empty"),
        ({"span": 1.0}, "span is 1"),
        ({"span": math.nan}, "span is nan"),
        ({"span": math.inf}, "span is inf"),
        ({"center": 0.0}, "center is 0"),
        ({"center": math.inf}, "center is inf"),
        ({"max_epochs": 0.0}, "max_epochs is 0"),
        ({"max_epochs": math.inf}, "max_epochs is inf"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(knobs, message):
    with pytest.raises(PlanError, match=message):
        Sweep(**{"budgets": (1e15,), "batch_size": 32, **knobs})


@pytest.mark.parametrize("constant", [0.0, -6.0, math.inf, math.nan])
def test_a_constant_that_makes_no_sense_is_refused(constant):
    with pytest.raises(PlanError, match="flops_per_param_per_token is"):
        FormulaFlops(constant)


@pytest.mark.parametrize(
    ("value", "label"),
    [(64, "64"), (0.25, "0.25"), ({"width": 64, "depth": 4}, "width=64 depth=4")],
)
def test_sizes_have_a_label(value, label):
    assert Size("shape", value).label == label


class TestHeldOutSamples:
    def test_evaluation_costs_at_most_a_tenth_of_every_run(self):
        planned = plan(1e12, 1e13, data=DataShape(8, None), min_steps=10)
        samples = held_out_samples(planned, available=None)
        shares = [samples * 8 * e.flops_per_token / 3 / e.flops for e in planned.experiments]
        assert 0.08 < max(shares) <= 0.1
        assert samples % 32 == 0

    def test_is_at_least_a_batch_and_at_most_what_there_is(self):
        short = plan(1e9, sizes=(64,), min_steps=1, batch_size=1024)
        assert short.experiments[0].num_steps == 3
        assert held_out_samples(short, available=None) == 1024
        assert held_out_samples(short, available=100) == 100


def ids(plan, **identity):
    return [e.id for e in with_ids(plan, {"lr": 0.01, "dataset": "abc", **identity}).experiments]


class TestIds:
    def test_are_all_different_and_begin_readably(self):
        named = ids(plan(1e15, 1e16))
        assert len(set(named)) == 14
        assert all(name.startswith("C1e15-N") for name in named[:7])
        assert all(name.startswith("C1e16-N") for name in named[7:])

    def test_a_number_is_the_same_number_however_it_is_written(self):
        assert ids(plan(1000000000000000)) == ids(plan(1e15))

    def test_adding_a_budget_keeps_those_of_the_others(self):
        assert set(ids(plan(1e15, 1e16))) < set(ids(plan(1e14, 1e15, 1e16)))

    def test_the_order_of_settings_does_not_matter(self):
        assert ids(plan(1e15), model={"a": 1, "b": 2}) == ids(plan(1e15), model={"b": 2, "a": 1})

    @pytest.mark.parametrize(
        "other",
        [
            lambda: ids(plan(1e15), lr=0.02),
            lambda: ids(plan(1e15), dataset="abd"),
            lambda: ids(plan(1e15, seed=1)),
            lambda: ids(plan(1e15, batch_size=64)),
            lambda: ids(plan(1e15, flops=FormulaFlops(5))),
            lambda: ids(plan(1e15, family=Square(2.0), flops=CountedFlops())),
            lambda: ids(plan(1e15 + 1)),
            lambda: ids(plan(1e15, data_seed=1)),
            lambda: ids(plan(1e15, learning_rate=PowerRule(0.01))),
            lambda: ids(plan(1e15, trunks=SharedTrunks(0.05, 0.2))),
        ],
    )
    def test_whatever_decides_the_result_changes_all_of_them(self, other):
        assert not set(other()) & set(ids(plan(1e15)))

    @pytest.mark.parametrize(
        ("knobs", "others"),
        [
            ({"learning_rate": PowerRule(0.01)}, {"learning_rate": PowerRule(0.02)}),
            ({"trunks": SharedTrunks(0.05, 0.2)}, {"trunks": SharedTrunks(0.1, 0.2)}),
            ({"trunks": SharedTrunks(0.05, 0.2)}, {"trunks": SharedTrunks(0.05, 0.3)}),
        ],
        ids=["rate", "warm-up", "cooldown"],
    )
    def test_another_rate_or_phase_of_the_schedule_makes_other_runs(self, knobs, others):
        one, other = plan(1e15, 1e16, **knobs), plan(1e15, 1e16, **others)
        assert [(e.size, e.num_steps) for e in one.experiments] == [
            (e.size, e.num_steps) for e in other.experiments
        ]
        assert not set(ids(one)) & set(ids(other))

    def test_what_only_the_end_of_a_run_knows_leaves_its_trunk(self):
        def trunks(warmup, cooldown):
            planned = plan(1e15, 1e16, sizes=(800,), trunks=SharedTrunks(warmup, cooldown))
            return {e.trunk for e in with_ids(planned, {}).experiments}

        assert len(trunks(0.05, 0.2)) == 1
        assert trunks(0.05, 0.2) == trunks(0.05, 0.3)
        assert not trunks(0.05, 0.2) & trunks(0.1, 0.2)


class TestJson:
    @pytest.mark.parametrize("flops", [FormulaFlops(), CountedFlops()])
    def test_a_plan_comes_back_as_it_was(self, flops):
        planned = plan(1e9, 1e15, flops=flops, family=Square(2.0), data=DataShape(4, 10**12))
        planned = with_ids(
            replace(planned, study="mlp-toy", settings=stored(SweepSettings, {"budgets": [1e9]})),
            {"lr": 0.01},
        )
        assert Plan.from_json(json.loads(json.dumps(planned.to_json()))) == planned

    def test_whole_shapes_come_back_as_they_were(self):
        experiment = plan(1e15).experiments[0]
        shape = replace(experiment, size=Size("shape", {"width": 64, "depth": 4}), id="a-run")
        planned = Plan((shape,), plan(1e15).flop_rule)
        assert Plan.from_json(json.loads(json.dumps(planned.to_json()))) == planned

    @pytest.mark.parametrize("version", [0, 99, None])
    def test_another_schema_version_is_refused(self, version):
        data = {**plan(1e15).to_json(), "schema_version": version}
        with pytest.raises(StudyError, match=f"plan.json has schema version {version}"):
            Plan.from_json(data)
