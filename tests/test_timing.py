import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_study import Net, planned, small_sweep

from flops_fit.learning.schedules import WSD
from flops_fit.plan.trunks import SharedTrunks
from flops_fit.training.timing import (
    TIMED_SIZES,
    TURNS_GAIN,
    fastest_threads,
    makespan,
    seconds_in_turns,
    seconds_to_train,
    step_times,
)

MILLISECONDS_PER_WIDTH = 0.5


class Sleepy(Net):
    """A forward pass in training takes half a millisecond for each unit of its width."""

    def __init__(self, width):
        super().__init__(width)
        self.seconds = MILLISECONDS_PER_WIDTH * width / 1000

    def forward(self, x):
        if self.training and not x.is_meta:
            time.sleep(self.seconds)
        return super().forward(x)


WIDTHS = (4, 8, 16, 32, 64)


def sleepy(tmp_path, **changes):
    sweep = small_sweep(sizes=WIDTHS, budgets=(4e5, 8e5), min_steps=1, **changes)
    return planned(tmp_path, factory=Sleepy, sweep=sweep, schedule=WSD())


class TestMakespan:
    @given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20), st.integers(1, 8))
    def test_is_within_the_bounds_of_any_schedule(self, durations, workers):
        lower = max(max(durations), sum(durations) / workers)
        assert lower <= makespan(durations, workers) * (1 + 1e-9)
        assert makespan(durations, workers) <= (4 / 3) * lower + max(durations) + 1e-9

    def test_one_worker_does_everything(self):
        assert makespan([1.0, 2.0, 3.0], 1) == 6.0

    def test_the_longest_goes_first(self):
        assert makespan([1.0, 1.0, 2.0], 2) == 2.0


def by_timed_steps(plan, recipe):
    """Seconds to train the plan in one worker with one thread."""
    return seconds_to_train(plan, recipe, 1, step_times(plan.experiments, recipe, threads=1))


class TestStepTimes:
    def test_are_those_of_the_timed_sizes_and_between(self, tmp_path):
        plan, recipe = sleepy(tmp_path)
        seconds_of = step_times(plan.experiments, recipe, threads=1)
        assert len(WIDTHS) <= TIMED_SIZES
        for e in plan.experiments:
            slept = MILLISECONDS_PER_WIDTH * e.size.value / 1000
            assert slept < seconds_of(e) < slept + 0.02

    def test_the_sweep_takes_the_steps_times_their_seconds(self, tmp_path):
        plan, recipe = sleepy(tmp_path)
        slept = sum(
            e.num_steps * MILLISECONDS_PER_WIDTH * e.size.value / 1000 for e in plan.experiments
        )
        assert slept < by_timed_steps(plan, recipe) < 4 * slept + 10

    def test_shared_trunks_take_less(self, tmp_path):
        apart, recipe = sleepy(tmp_path / "apart")
        shared, _ = sleepy(tmp_path / "shared", trunks=SharedTrunks(0.05, 0.2))
        seconds = [by_timed_steps(plan, recipe) for plan in (apart, shared)]
        assert seconds[1] < 0.9 * seconds[0]

    def test_leaves_random_numbers_and_threads_as_they_were(self, tmp_path):
        import torch

        plan, recipe = sleepy(tmp_path)
        before = torch.random.get_rng_state(), torch.get_num_threads()
        step_times(plan.experiments, recipe, threads=before[1] + 1)
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert torch.get_num_threads() == before[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_nothing_takes_no_time(workers):
    assert makespan([], workers) == 0.0


class Crowded(Net):
    """Waits in every step, but with one thread."""

    def forward(self, x):
        if self.training and not x.is_meta and torch.get_num_threads() > 1:
            time.sleep(0.005)
        return super().forward(x)


class Parallel(Net):
    """Waits in every step with one thread."""

    def forward(self, x):
        if self.training and not x.is_meta and torch.get_num_threads() == 1:
            time.sleep(0.05)
        return super().forward(x)


@pytest.mark.parametrize(("factory", "threads"), [(Crowded, 1), (Parallel, 2)])
def test_a_run_takes_the_threads_that_it_gains_by(tmp_path, factory, threads):
    plan, recipe = planned(tmp_path, factory=factory)
    assert fastest_threads(plan, recipe, most=2) == threads
    assert fastest_threads(plan, recipe, most=1) == 1


def test_on_a_gpu_runs_of_a_size_take_the_time_of_their_longest(tmp_path):
    plan, recipe = planned(tmp_path, factory=partial(Net, dropout=0.0))
    on_gpu = replace(recipe, device=torch.device("cuda"), held_out_samples=0)
    labels = {e.size.label for e in plan.experiments}
    longest = [max(e.num_steps for e in plan.experiments if e.size.label == x) for x in labels]
    seconds = seconds_in_turns(plan, on_gpu, lambda e: 0.001)
    assert seconds == pytest.approx(0.001 * max(sum(longest) / TURNS_GAIN, *longest))
    alone = seconds_in_turns(plan, replace(on_gpu, together=False), lambda e: 0.001)
    steps = [e.num_steps for e in plan.experiments]
    assert alone == pytest.approx(0.001 * max(sum(steps) / TURNS_GAIN, *steps))
