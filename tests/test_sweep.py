"""Grids of shared trunks, repeated seeds, notes and the sweep of one optimum, without torch."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from test_planning import Square, note_with, plan, sweep

from flops_fit.errors import PlanError
from flops_fit.laws.prediction import Prediction
from flops_fit.plan.flops import CountedFlops
from flops_fit.plan.ids import with_ids
from flops_fit.plan.sweep import (
    COMPUTE_OPTIMAL_TOKENS_PER_PARAM,
    DataShape,
    note_on_trunks,
    optimum_sweep,
    plan_sweep,
)
from flops_fit.plan.trunks import SharedTrunks

TRUNKS = SharedTrunks(0.05, 0.2)
SPAN = 16.0


def sizes_of(planned, budget):
    return [e.num_params for e in planned.experiments if e.budget == budget]


class TestLadder:
    """The sizes of a sweep with shared trunks."""

    def test_each_budget_gets_neighbouring_rungs_over_the_whole_span(self):
        sizes = sizes_of(plan(1e18, trunks=TRUNKS), 1e18)
        assert len(sizes) == 7
        ratios = [larger / smaller for smaller, larger in pairwise(sizes)]
        assert ratios == pytest.approx([SPAN ** (1 / 3)] * 6, rel=0.01)

    def test_its_middle_is_within_half_a_rung_of_the_centre(self):
        for budget in (1e18, 3e18, 7e18):
            middle = sizes_of(plan(budget, trunks=TRUNKS), budget)[3]
            centre = math.sqrt(budget / (6 * COMPUTE_OPTIMAL_TOKENS_PER_PARAM))
            assert abs(math.log(middle / centre)) <= math.log(SPAN) / 6 + 0.01

    def test_rungs_are_the_same_whatever_the_budgets(self):
        apart = {n for b in (1e18, 2e18, 1e19) for n in sizes_of(plan(b, trunks=TRUNKS), b)}
        together = {e.num_params for e in plan(1e18, 2e18, 1e19, trunks=TRUNKS).experiments}
        assert together == apart
        rungs = sorted(together)
        assert min(math.log(b / a) for a, b in pairwise(rungs)) > math.log(SPAN) / 3 - 0.01

    def test_two_sizes_are_the_ends_of_the_span(self):
        low, high = sizes_of(plan(1e18, trunks=TRUNKS, num_sizes=2), 1e18)
        assert high / low == pytest.approx(SPAN**2, rel=0.01)

    def test_one_size_is_the_centre_itself(self):
        (alone,) = plan(1e18, trunks=TRUNKS, num_sizes=1).experiments
        assert alone.num_params == plan(1e18, num_sizes=1).experiments[0].num_params

    def test_without_trunks_the_centre_is_no_rung(self):
        for budget in (1e18, 3e18):
            centre = plan(budget, num_sizes=1).experiments[0].num_params
            assert sizes_of(plan(budget), budget)[3] == centre

    def test_the_note_counts_trunks_and_what_they_save(self):
        planned = with_ids(plan(1e18, 2e18, sizes=(4000, 8000, 16000), trunks=TRUNKS), {})
        note = note_on_trunks(planned)
        assert note.startswith("3 trunks for 6 runs: ")
        spent, total = (float(word) for word in note.split() if word.endswith("e18"))
        assert total == pytest.approx(planned.total_flops, rel=0.01)
        # The longer run of a trunk lends the shorter one all but its cooldown, a fifth of it.
        assert spent == pytest.approx(3 * (2e18 + 0.2 * 1e18), rel=0.01)
        assert f"({spent / total:.2f} of them)" in note


def test_seeds_of_the_repetitions_count_up_from_the_sweeps():
    planned = plan(1e15, seed=3, seeds=3, num_sizes=3)
    assert [e.seed for e in planned.experiments] == [3, 4, 5] * 3
    assert len({e.num_params for e in planned.experiments}) == 3


@pytest.mark.parametrize("counted", [0.05, 30.0])
def test_the_centre_keeps_its_tokens_per_parameter_whatever_a_parameter_costs(counted):
    family = Square(counted)
    (alone,) = plan(1e18, family=family, flops=CountedFlops(), num_sizes=1, center=40).experiments
    assert alone.num_tokens / alone.num_params == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "more"), [((20,), ""), ((20, 30), r" \(and 1 more sizes\)")], ids=["one", "two"]
)
def test_a_budget_without_a_size_says_the_first_reason(sizes, more):
    with pytest.raises(PlanError, match=rf"train: width 20 gets .* lower batch_size{more}$"):
        plan(1e6, sizes=sizes)


class TestNotes:
    def test_merged_sizes_are_counted_without_the_refused(self):
        planned = plan(1e9, family=Square(max_width=3), num_sizes=5, min_steps=1)
        note = note_with("different ones exist", planned)
        kept = [e.size.label for e in planned.experiments]
        assert f"5 sizes asked, {len(kept)} different ones exist" in note
        assert f"(width {kept[0]} to {kept[-1]})" in note

    def test_one_merged_size_is_said_already(self):
        planned = plan(1e15, sizes=(100, 100, 200, 300))
        assert "4 sizes asked, 3 different" in note_with("different ones exist", planned)

    def test_refused_sizes_are_not_called_merged(self):
        planned = plan(1e12, sizes=(50, 100, 200, 2000), batch_size=1024)
        assert note_with("dropped width 2000", planned)
        assert not any("different ones exist" in note for note in planned.notes)

    @pytest.mark.parametrize(("sizes", "said"), [((100,), False), ((100, 200), True)])
    def test_few_sizes_are_pointed_out_where_more_than_one_was_asked(self, sizes, said):
        notes = plan(1e15, sizes=sizes).notes
        assert any("a minimum shows only" in note for note in notes) == said

    @pytest.mark.parametrize(("epochs", "repeated"), [(1.0, False), (1.5, True)])
    def test_data_are_repeated_from_more_than_one_epoch_on(self, epochs, repeated):
        once = plan(1e12, sizes=(100,)).experiments[0].num_tokens
        data = DataShape(tokens_per_sample=1, unique_samples=round(once / epochs))
        notes = plan(1e12, sizes=(100,), data=data).notes
        assert any("repeat the data, up to 1.5 epochs" in note for note in notes) == repeated

    @pytest.mark.parametrize(("counted", "said"), [(1.25, False), (1.26, True), (1 / 1.26, True)])
    def test_counted_flops_far_from_the_formula_are_pointed_out(self, counted, said):
        notes = plan(1e15, family=Square(counted)).notes
        assert any("counted FLOPs are" in note for note in notes) == said


def test_the_sweep_of_an_optimum_is_one_run_of_the_predicted_shape():
    asked = sweep(1e15, 1e16, sizes=(100, 200, 300), seeds=3, seed=5)
    prediction = Prediction("surface", 1e18, 2.5e7, 2e9, 80.0, 2.0, 100.0, {})
    (alone,) = plan_sweep(
        optimum_sweep(asked, prediction), Square(), DataShape(1, None)
    ).experiments
    assert (alone.budget, alone.seed) == (1e18, 5)
    assert alone.num_tokens / alone.num_params == pytest.approx(80.0, rel=0.01)
    assert optimum_sweep(asked, prediction) == replace(
        optimum_sweep(replace(asked, sizes=None, num_sizes=9), prediction)
    )
