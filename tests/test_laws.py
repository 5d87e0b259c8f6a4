import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from flops_fit.laws import FlopRule, LossSurface, PowerLaw

CHINCHILLA = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)

# FLOPs per token of a family whose head and attention weigh more when it is small.
UNEVEN = FlopRule((1e6, 1e7, 1e8, 1e9), (1.4e7, 8.2e7, 6.7e8, 6.2e9))


def test_power_law_has_its_coefficient_at_one_and_its_slope_in_logs():
    law = PowerLaw(0.3, 0.5)
    assert law(1.0) == 0.3
    assert law([1e20, 1e22])[1] / law([1e20, 1e22])[0] == pytest.approx(10.0)


@pytest.mark.parametrize("budget", [1e15, 3e19, 1e26])
def test_constant_rule_gives_the_closed_form_of_the_papers(budget):
    rule = FlopRule.constant()
    s = CHINCHILLA
    assert s.N_opt(budget, rule) == pytest.approx(s.G * (budget / 6) ** s.a, rel=1e-12)
    assert rule.tokens(budget, s.N_opt(budget, rule)) == pytest.approx(
        (budget / 6) ** s.b / s.G, rel=1e-12
    )


@pytest.mark.parametrize("rule", [FlopRule.constant(), FlopRule.constant(7.3), UNEVEN])
@pytest.mark.parametrize("budget", [1e14, 1e17, 1e19, 1e22])
def test_optimum_is_the_least_loss_that_a_search_finds(rule, budget):
    def loss(log_n):
        return float(CHINCHILLA(np.exp(log_n), rule.tokens(budget, np.exp(log_n))))

    grid = np.linspace(np.log(1e3), np.log(1e13), 4001)
    near = grid[np.argmin([loss(x) for x in grid])]
    found = minimize_scalar(loss, bounds=(near - 0.01, near + 0.01), method="bounded")
    optimum = float(CHINCHILLA.N_opt(budget, rule))
    assert loss(np.log(optimum)) <= found.fun * (1 + 1e-12)
    assert CHINCHILLA.loss_opt(budget, rule) == pytest.approx(found.fun, rel=1e-9)


def test_optimum_spends_exactly_the_budget():
    for rule in (FlopRule.constant(), UNEVEN):
        budgets = np.geomspace(1e14, 1e24, 7)
        num_params = CHINCHILLA.N_opt(budgets, rule)
        np.testing.assert_allclose(rule(num_params) * rule.tokens(budgets, num_params), budgets)


def test_flop_rule_meets_its_knots_and_keeps_flops_per_param_beyond_them():
    np.testing.assert_allclose(UNEVEN(UNEVEN.num_params), UNEVEN.flops_per_token)
    assert UNEVEN(1e5) == pytest.approx(1.4e6)
    assert UNEVEN(1e11) == pytest.approx(6.2e11)
    between = UNEVEN(np.sqrt(1e7 * 1e8))
    assert between == pytest.approx(np.sqrt(8.2e7 * 6.7e8))


def test_segments_of_a_flop_rule_are_the_rule():
    for segment in UNEVEN.segments:
        inside = np.clip([segment.log_low, segment.log_high], np.log(1e4), np.log(1e12))
        for log_n in np.linspace(*inside, 5):
            expected = segment.log_coefficient + segment.slope * log_n
            assert np.log(UNEVEN(np.exp(log_n))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_params", "flops", "message"),
    [
        ((), (), "as many N as FLOPs"),
        ((1e6, 1e6), (6e6, 6e6), "must rise"),
        ((1e6,), (float("nan"),), "finite and positive"),
        ((1e6, 1e7), (6e6,), "as many N as FLOPs"),
    ],
)
def test_impossible_flop_rules_are_refused(num_params, flops, message):
    with pytest.raises(ValueError, match=message):
        FlopRule(num_params, flops)


def test_exponents_of_the_optima_sum_to_one():
    assert CHINCHILLA.a + CHINCHILLA.b == pytest.approx(1.0)
    assert CHINCHILLA.a == pytest.approx(0.28 / 0.62)


def test_tokens_to_reach_a_loss_reach_it_and_no_number_does_where_the_size_cannot():
    tokens = CHINCHILLA.tokens_to_reach(2.5, 1e9)
    assert CHINCHILLA(1e9, tokens) == pytest.approx(2.5)
    assert CHINCHILLA.tokens_to_reach(1.9, 1e6) == np.inf
