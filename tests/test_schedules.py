import math

import pytest

from flops_fit.learning.schedules import WSD, Constant, Cosine, Linear, progress_of

DECAYING = [Cosine(), Linear(), WSD()]


def factors(schedule, num_steps):
    return [schedule(progress_of(step, num_steps)) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", [*DECAYING, Constant()])
def test_first_step_moves_and_warm_up_is_linear_to_the_peak(schedule):
    values = factors(schedule, 100)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(values) == 1


@pytest.mark.parametrize("schedule", DECAYING)
@pytest.mark.parametrize("num_steps", [100, 101, 997])
def test_the_end_value_is_reached_at_the_last_step_and_not_before(schedule, num_steps):
    values = factors(schedule, num_steps)
    assert values[-1] == pytest.approx(0, abs=1e-12)
    assert values[-2] > 0


@pytest.mark.parametrize("schedule", DECAYING)
def test_decay_never_rises(schedule):
    after_peak = factors(schedule, 400)[19:]
    assert after_peak == sorted(after_peak, reverse=True)


def test_constant_stays_at_one():
    assert set(factors(Constant(), 100)[4:]) == {1.0}
    assert set(factors(Constant(warmup_fraction=0), 7)) == {1.0}


def test_cosine_and_linear_are_half_way_down_in_the_middle_of_the_decay():
    middle = 0.1 + 0.9 / 2
    assert Cosine(warmup_fraction=0.1)(middle) == pytest.approx(0.5)
    assert Linear(warmup_fraction=0.1)(middle) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", [Cosine(final_factor=0.1), Linear(final_factor=0.1)])
def test_final_factor_is_the_end_value(schedule):
    assert schedule(1.0) == pytest.approx(0.1)
    assert schedule(0.05) == 1


def test_wsd_is_stable_until_the_cooldown_and_then_falls_as_one_minus_sqrt():
    schedule = WSD(warmup_fraction=0.1, cooldown_fraction=0.2)
    assert schedule(0.1) == schedule(0.5) == schedule(0.8) == 1
    assert schedule(0.85) == pytest.approx(1 - math.sqrt(0.25))
    assert schedule(0.9) == pytest.approx(1 - math.sqrt(0.5))


def test_runs_of_any_length_see_the_same_shape():
    short, long = factors(Cosine(), 100), factors(Cosine(), 1000)
    assert long[9::10] == pytest.approx(short)


def test_wsd_without_cooldown_is_constant_and_all_warm_up_is_a_ramp():
    assert factors(WSD(cooldown_fraction=0), 20) == factors(Constant(), 20)
    assert Cosine(warmup_fraction=1)(0.25) == 0.25


def test_bad_fractions_are_refused():
    with pytest.raises(ValueError, match=r"warmup_fraction is 1\.5.*0 to 1"):
        Cosine(warmup_fraction=1.5)
    with pytest.raises(ValueError, match="more than the whole run"):
        WSD(warmup_fraction=0.5, cooldown_fraction=0.6)
    with pytest.raises(ValueError, match="step 10 is not one of the run's 10 steps"):
        progress_of(10, 10)
