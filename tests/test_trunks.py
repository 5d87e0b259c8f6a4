"""Shared trunks: what is planned, what is trained, and that it changes no result."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_study import Net, WatchedLoss, outcome, planned, small_sweep

from flops_fit.errors import PlanError
from flops_fit.learning.schedules import WSD, Phases
from flops_fit.plan.rules import PowerRule
from flops_fit.plan.trunks import SharedTrunks, chains, flops_to_train
from flops_fit.store.execution import Inline, train_plan
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.spec import torch_trainer
from flops_fit.training.state import Trunks
from flops_fit.training.trainer import TorchTrainer, train

SHARED = SharedTrunks(warmup_fraction=0.1, cooldown_fraction=0.2)
BUDGETS = (1e5, 2e5, 4e5)


def shared_sweep(**changes):
    return small_sweep(**{"budgets": BUDGETS, "trunks": SHARED, **changes})


@pytest.fixture
def trained(tmp_path):
    """Trains the shared sweep in a folder; returns plan, runs, and the steps this took."""

    def trained(folder="study", **changes):
        folder = StudyFolder(tmp_path / folder)
        plan, recipe = planned(folder.path, schedule=WSD(), **{"sweep": shared_sweep(), **changes})
        folder.pin(torch_trainer(recipe, folder).pins)
        loss = WatchedLoss()
        execute = Inline(torch_trainer(replace(recipe, loss=loss), folder), folder)
        return plan, train_plan(plan, folder, execute, Unwatched()), len(loss.values)

    return trained


class TestPhases:
    @given(st.integers(0, 50), st.integers(1, 200), st.integers(0, 400), st.integers(0, 400))
    def test_runs_of_any_length_agree_until_the_shorter_cools_down(self, warm, cool, stable, more):
        shorter = Phases(warm, cool, warm + stable + cool)
        longer = Phases(warm, cool, warm + stable + more + cool)
        agree = range(warm + stable)
        assert [shorter(step) for step in agree] == [longer(step) for step in agree]

    def test_is_the_wsd_schedule_by_steps(self):
        wsd, phases = WSD(0.1, 0.2), Phases(10, 20, 100)
        by_progress = [wsd((step + 1) / 100) for step in range(100)]
        assert [phases(step) for step in range(100)] == pytest.approx(by_progress)

    def test_without_phases_the_rate_is_constant(self):
        assert [Phases(0, 0, 3)(step) for step in range(3)] == [1, 1, 1]


class TestPlan:
    def test_every_budget_takes_its_sizes_from_one_ladder(self, tmp_path):
        sweep = shared_sweep(sizes=None, num_sizes=4, span=3.0, center=2.0, budgets=(1e6, 3e6, 1e7))
        plan, _ = planned(tmp_path, sweep=sweep)
        sizes = {b: {e.num_params for e in plan.experiments if e.budget == b} for b in plan.budgets}
        ladder = sorted(set().union(*sizes.values()))
        for of_budget in sizes.values():
            first = ladder.index(min(of_budget))
            assert sorted(of_budget) == ladder[first : first + len(of_budget)]
        assert len(ladder) < sum(map(len, sizes.values()))

    def test_a_larger_budget_leaves_the_others_as_they_were(self, tmp_path):
        sweep = shared_sweep(sizes=None, num_sizes=4, span=3.0, center=2.0)
        before, _ = planned(tmp_path, sweep=sweep)
        after, _ = planned(tmp_path, sweep=replace(sweep, budgets=(*BUDGETS, 8e5)))
        assert {e.id for e in before.experiments} < {e.id for e in after.experiments}
        assert {e.trunk for e in before.experiments} <= {e.trunk for e in after.experiments}

    def test_runs_of_a_size_share_a_trunk_and_its_warm_up(self, tmp_path):
        plan, _ = planned(tmp_path, sweep=shared_sweep(seeds=2))
        groups = chains(plan.experiments)
        assert len(groups) == 6  # sizes times seeds
        for chain in groups:
            assert len({(e.size.value, e.seed, e.warmup_steps) for e in chain}) == 1
            assert chain[0].warmup_steps == round(0.1 * chain[0].num_steps)
            assert [e.budget for e in chain] == list(BUDGETS)
            assert all(e.cooldown_steps == round(0.2 * e.num_steps) for e in chain)

    def test_runs_of_their_own_have_no_trunk(self, tmp_path):
        plan, _ = planned(tmp_path)
        assert {e.trunk for e in plan.experiments} == {""}
        assert chains(plan.experiments) == [(e,) for e in plan.experiments]

    def test_saves_what_the_trunk_shares(self, tmp_path):
        plan, _ = planned(tmp_path, sweep=shared_sweep())
        for chain in chains(plan.experiments):
            steps = chain[-1].branch_step + sum(e.cooldown_steps for e in chain)
            assert flops_to_train(chain) == pytest.approx(steps * chain[0].flops_per_step)
        spent = math.fsum(map(flops_to_train, chains(plan.experiments)))
        assert f"({spent / plan.total_flops:.2f} of them)" in plan.notes[-1]

    @pytest.mark.parametrize(
        ("rule", "what"), [("learning_rate", "learning_rate"), ("batch_tokens", "batch_size")]
    )
    def test_rate_and_batch_may_depend_on_the_size_only(self, tmp_path, rule, what):
        of_size = PowerRule(16.0, num_params_exponent=0.1)
        of_length = PowerRule(2.0, num_tokens_exponent=0.3)
        planned(tmp_path, sweep=shared_sweep(**{rule: of_size}))
        with pytest.raises(
            PlanError, match=f"share_trunks: {what} of 4 is .* use a rule in N only"
        ):
            planned(tmp_path, sweep=shared_sweep(**{rule: of_length}))


class TestTraining:
    def test_a_branch_is_bit_for_bit_the_run_trained_alone(self, trained, tmp_path):
        plan, runs, steps = trained(factory=partial(Net, dropout=0.3))
        _, recipe = planned(
            tmp_path, factory=partial(Net, dropout=0.3), schedule=WSD(), sweep=shared_sweep()
        )
        alone = [train(e, recipe, tmp_path / "alone" / e.id, Unwatched()) for e in plan.experiments]
        assert list(map(outcome, runs)) == list(map(outcome, alone))
        groups = chains(plan.experiments)
        assert steps == sum(
            chain[-1].branch_step + sum(e.cooldown_steps for e in chain) for chain in groups
        )
        assert steps < 0.8 * sum(e.num_steps for e in plan.experiments)

    def test_results_say_their_trunk_and_what_they_cost(self, trained):
        plan, runs, _ = trained()
        by_id = {run.id: run for run in runs}
        for chain in chains(plan.experiments):
            of_chain = [by_id[e.id] for e in chain]
            assert {run.trunk for run in of_chain} == {chain[0].trunk}
            assert sum(run.flops_spent for run in of_chain) == pytest.approx(flops_to_train(chain))
            assert all(a.flops < b.flops for a, b in pairwise(of_chain))
            assert of_chain[0].flops_spent == of_chain[0].flops

    def test_a_budget_added_later_begins_at_the_last_branch(self, trained):
        plan, runs, _ = trained(sweep=shared_sweep(budgets=BUDGETS[:2]))
        longer, all_runs, steps = trained()
        added = [e for e in longer.experiments if e.budget == BUDGETS[2]]
        branches = {e.trunk: e.branch_step for e in plan.experiments if e.budget == BUDGETS[1]}
        assert steps == sum(e.num_steps - branches[e.trunk] for e in added)
        alone = trained(folder="alone")[1]
        assert list(map(outcome, all_runs)) == list(map(outcome, alone))
        assert [run for run in all_runs if run.budget < BUDGETS[2]] == runs

    def test_a_stop_on_the_trunk_or_in_a_branch_changes_nothing(self, trained, tmp_path):
        whole = trained(folder="whole")[1]
        plan, recipe = planned(tmp_path / "cut", schedule=WSD(), sweep=shared_sweep())
        chain = chains(plan.experiments)[0]
        trunks = Trunks(tmp_path / "cut" / "trunks")
        for e in chain:
            for at in (3, e.cooldown_steps):
                watcher = Unwatched()

                def stop(loss, watcher=watcher):
                    watcher.stop_requested = True
                    return loss

                cut = TorchTrainer(replace(recipe, loss=WatchedLoss(at, stop)), trunks)
                with pytest.raises(KeyboardInterrupt):
                    cut(e, tmp_path / "cut" / e.id, watcher)
            run = TorchTrainer(recipe, trunks)(e, tmp_path / "cut" / e.id, Unwatched())
            assert outcome(run) == outcome(next(r for r in whole if r.id == e.id))

    def test_only_the_furthest_branch_is_kept(self, trained, tmp_path):
        plan, _, _ = trained()
        kept = {path.name for path in (tmp_path / "study" / "trunks").iterdir()}
        last = [chain[-1] for chain in chains(plan.experiments)]
        assert kept == {f"{e.trunk}-{e.branch_step}.pt" for e in last}
