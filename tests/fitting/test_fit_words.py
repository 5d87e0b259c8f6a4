"""Every number in a sentence about a fit is the one that was measured, and means what it says."""

from dataclasses import replace

import numpy as np
import pytest
from sweeps import CHINCHILLA, sweep

from flops_fit.fitting import EnvelopeFit, IsoflopFit, fit_runs, isoflop, surface
from flops_fit.fitting.contract import Examined
from flops_fit.fitting.examine.diagnostics import BackTest, Bias, CountedBy, Parting, Without
from flops_fit.fitting.examine.words import findings
from flops_fit.fitting.isoflop.words import budget_findings
from flops_fit.fitting.points import usable_points
from flops_fit.fitting.surface.numbers import DeltaFit, Influence, NextRuns, SurfaceNumbers
from flops_fit.fitting.surface.words import UNDETERMINED, advice
from flops_fit.fitting.surface.words import findings as surface_findings
from flops_fit.laws import FlopRule
from flops_fit.tables import read_table

NOTHING = {
    "exponents": {"isoflop": 0.47, "surface": 0.452},
    "agreements": (),
    "partings": (),
    "without_budget": (),
    "without_edges": Without("edge sizes", {}),
    "back_tests": (),
    "biases": (),
    "num_draws": {},
    "parameter_counts": (),
    "seed_noise": None,
}
"""Numbers about which nothing is said."""

SPENT = 4e21

BOTH = ("isoflop", "surface")


@pytest.fixture(scope="module")
def law():
    return fit_runs(sweep(CHINCHILLA), draws=50)


def said(law, *, examined=None, refusals=None, answer="surface", draws=4000, **numbers):
    """The findings of a clean fit with these numbers planted."""
    planted = replace(law.diagnostics.numbers, **{**NOTHING, **numbers})
    return findings(planted, examined or {}, refusals or {}, answer, draws)


def said_of_surface(law, *, seed_noise=None, at_bounds=(), start_agreement=1.0, **numbers):
    """What the surface's room says of a clean fit with these numbers planted."""
    planted = SurfaceNumbers(**{"noise": None, "identifiable": True, **numbers})
    ended = replace(law.of("surface"), at_bounds=at_bounds, start_agreement=start_agreement)
    return (*surface_findings(planted, ended, seed_noise), *advice(planted, SPENT))


def test_nothing_is_said_where_nothing_is_to_be_said(law):
    assert said(law) == ()
    assert said_of_surface(law) == ()


def test_what_methods_predict_differently_is_said_with_both_numbers(law):
    partings = (
        Parting("num_params", 1e21, "isoflop", 1.2e9, "surface", 2.04e9),
        Parting("loss", 1e21, "isoflop", 2.31, "MyFit", 2.352),
    )
    assert said(law, partings=partings) == (
        "approach 2 (isoflop) and approach 3 (surface) disagree at 1e21: N 1.2B and 2.04B",
        "approach 2 (isoflop) and MyFit disagree at 1e21: loss 2.310 and 2.352",
    )


def test_a_refusal_is_said_by_the_method_that_refused(law):
    refusals = {"isoflop": "too flat", "envelope": "no curves", "MyFit": "no luck"}
    assert said(law, refusals=refusals) == (
        "approach 2 (isoflop) refused: too flat",
        "approach 1 (envelope) refused: no curves",
        "MyFit refused: no luck",
    )


def test_each_budget_left_out_is_named_with_its_verdict_and_reason(law):
    left_out = {1: ("edge", "train smaller"), 3: ("flat", "train more")}
    budgets = [
        replace(b, budget=(i + 1) * 1e18, verdict=left_out[i][0], reason=left_out[i][1])
        if i in left_out
        else b
        for i, b in enumerate(law.budgets)
    ]
    assert budget_findings(budgets) == [
        "budget 2e18, edge: train smaller",
        "budget 4e18, flat: train more",
    ]


def test_many_budgets_left_out_are_counted_in_one_sentence(law):
    budgets = [
        replace(b, budget=(i + 1) * 1e18, verdict="edge") if i < 4 else b
        for i, b in enumerate(law.budgets)
    ]
    assert budget_findings(budgets) == [
        "4 of 5 budgets don't enter the IsoFLOP line: 1e18 (edge), 2e18 (edge), 3e18 (edge), "
        "4e18 (edge)",
    ]


def test_the_envelope_is_said_with_its_exponent_and_how_many_points_end_their_run():
    runs = sweep(CHINCHILLA)
    curves = [
        replace(run, num_tokens=run.num_tokens * share, flops=run.flops * share,
                loss=float(CHINCHILLA(run.num_params, run.num_tokens * share)))
        for run in runs
        for share in (0.1, 0.3, 1.0)
    ]  # fmt: skip
    fitted = fit_runs(runs, answer=EnvelopeFit(), checkpoints=curves, draws=0)
    section = fitted.to_json()["envelope"]
    lengths = {run.id: run.num_tokens for run in runs}
    final = [p for p in section["points"] if p["num_tokens"] == lengths[p["id"]]]
    (sentence,) = (f for f in fitted.diagnostics.findings if f.startswith("approach 1 (envelope)"))
    assert f"a = {section['a']:.3f} through {len(section['points'])} checkpoints" in sentence
    assert f"of which {len(final)} end their run" in sentence
    assert 0 < len(final) < len(section["points"])


def test_draws_are_counted_where_there_are_fewer_than_asked(law):
    assert said(law, num_draws={"isoflop": 4000, "surface": 1234}) == (
        "the intervals of approach 3 (surface) rest on 1,234 of 4,000 draws",
    )
    assert said(law, num_draws={"isoflop": 1000, "surface": 4000}) == ()
    assert said(law, num_draws={"isoflop": 1000}, draws=1000) == ()


def test_what_a_method_finds_of_itself_is_said_but_no_advice(law):
    """Advice stands by itself."""
    examined = {
        "isoflop": Examined(findings=("one",), advice=("run this",), why="a line"),
        "surface": Examined(findings=("two", "three"), why="a surface"),
    }
    assert said(law, examined=examined) == ("one", "two", "three")


def test_the_evidence_is_said_first_and_only_where_it_was_not_asked(law):
    examined = {"combined": Examined(findings=("one",), why="this is a test")}
    otherwise = "fit=auto would have answered otherwise: this is a test"
    assert said(law, examined=examined) == (otherwise, "one")
    assert said(law, examined=examined, answer="combined") == ("one",)
    assert said(law, examined={"combined": Examined(findings=("one",))}) == ("one",)


def test_a_surface_that_misses_by_twice_the_scatter_of_seeds_is_said_not_to_fit(law):
    (sentence,) = said_of_surface(law, noise=0.0123, seed_noise=0.0045)
    assert sentence.startswith(
        "losses scatter by 1.23% about the surface, repeated seeds by 0.45%: the surface does not"
    )
    assert said_of_surface(law, noise=0.0123, seed_noise=0.0062) == ()
    assert said_of_surface(law, noise=0.0123, seed_noise=None) == ()


def test_an_exponent_that_is_not_determined_is_said_with_what_to_do(law):
    (sentence,) = said_of_surface(law, identifiable=False)
    assert sentence == (
        f"{UNDETERMINED}: the 95% interval of alpha or beta is wider than 0.3; train a wider range "
        "of sizes and budgets"
    )


def test_numbers_at_a_limit_are_named(law):
    assert said_of_surface(law, at_bounds=("E",)) == (
        "E ended at a limit: the runs do not determine it",
    )
    assert said_of_surface(law, at_bounds=("E", "alpha")) == (
        "E, alpha ended at a limit: the runs do not determine them",
    )


def test_starts_that_did_not_meet_are_counted(law):
    (sentence,) = said_of_surface(law, start_agreement=0.31)
    assert sentence.startswith("only 31% of the starts reached the best optimum")
    assert said_of_surface(law, start_agreement=0.5) == ()


def test_exponents_without_a_budget_are_said_from_the_lowest_to_the_highest_by_method(law):
    line, surface = (0.44, 0.49, None), [0.4501, 0.4502, 0.4503]

    def parts():
        pairs = zip(line, surface, strict=True)
        return tuple(Without("1", dict(zip(BOTH, pair, strict=True))) for pair in pairs)

    assert said(law, without_budget=parts()) == (
        "without one of the budgets the exponent is 0.440 to 0.490 (isoflop)",
    )
    surface[:] = 0.46, 0.43, 0.45
    assert said(law, without_budget=parts()) == (
        "without one of the budgets the exponent is 0.440 to 0.490 (isoflop), 0.430 to 0.460 "
        "(surface)",
    )


def test_exponents_without_the_edges_are_said_from_what_they_are_to_what_they_become(law):
    assert said(law, without_edges=Without("edge sizes", {"isoflop": 0.48, "surface": 0.5})) == (
        "without each budget's outermost sizes the exponent is 0.480, not 0.470 (isoflop), 0.500, "
        "not 0.452 (surface)",
    )
    assert said(law, without_edges=Without("edge sizes", {"isoflop": 0.471, "surface": None})) == ()


def test_the_range_over_thresholds_is_that_of_the_refits(law):
    found = ((1e-4, 0.45), (1e-3, 0.44), (1e-2, 0.41), (1e-1, 0.43))
    deltas = [DeltaFit(d, a, 0.3, 0.3) for d, a in found]
    (sentence,) = said_of_surface(law, deltas=tuple(deltas))
    assert sentence.startswith("outliers matter: the surface's exponent is 0.410 to 0.450, ")
    assert (
        said_of_surface(law, deltas=tuple(replace(d, a=0.45 + d.delta / 100) for d in deltas)) == ()
    )


NO_SURFACE_AT_ALL_THRESHOLDS = """N,D,loss
7.14435e+06,2.33285e+10,4.105932
1.42887e+07,1.16642e+10,3.806058
2.85774e+07,5.83212e+09,3.626511
5.71548e+07,2.91606e+09,3.511285
1.1431e+08,1.45803e+09,3.571590
7.82624e+06,2.55551e+10,4.050416
1.56525e+07,1.27775e+10,3.747635
3.1305e+07,6.38877e+09,3.588339
6.26099e+07,3.19438e+09,3.497928
1.2522e+08,1.59719e+09,3.487528
"""
"""A known surface with noise of 0.4%; at some thresholds beta ends at a limit."""


def test_a_threshold_without_a_surface_is_a_finding_and_no_failed_fit(tmp_path):
    (tmp_path / "runs.csv").write_text(NO_SURFACE_AT_ALL_THRESHOLDS)
    law = fit_runs(read_table(tmp_path / "runs.csv").runs, answer=IsoflopFit(), draws=0)
    numbers = law.diagnostics.of_methods["surface"]
    assert 0 < len(numbers.deltas) < 4
    assert any("these losses give no surface" in finding for finding in law.diagnostics.findings)


def test_a_back_test_is_said_with_its_errors_and_how_far_it_reached(law):
    surface = BackTest("surface", 1e20, 3.162, 2.5, 2.531, -0.01234, 0.30103)
    line = BackTest("isoflop", 1e20, 3.162, 2.5, 2.4, 0.04167, None)
    assert said(law, back_tests=(line, surface)) == (
        "back-test from 3.16e19 to 1e20 by each method: isoflop loss +4.17%, surface loss -1.23% "
        "N x2.00",
    )


def test_a_bias_is_said_as_a_factor_of_the_optimum_and_a_shift_of_the_exponent(law):
    bias = Bias("isoflop", "surface", 0.0512, 1e21, -0.30103)
    assert said(law, biases=(bias,)) == (
        "bias of approach 2 on these sizes, if the loss surface is right: N x0.50 at 1e21",
    )
    assert said(law, biases=(replace(bias, log10_num_params=0.019),)) == ()


def test_both_counts_of_N_are_said_with_their_exponent_and_optimum(law):
    counts = [
        CountedBy("num_params", "surface", 0.45, 1e20, 1.5e9),
        CountedBy("num_params_total", "surface", 0.42, 1e20, 1.8e9),
    ]
    assert said(law, parameter_counts=tuple(counts)) == (
        "what N counts (surface), at 1e20: exponent 0.450 and N 1.5B as fitted; exponent 0.420 and "
        "N 1.8B counted in full (num_params_total)",
    )


def test_the_most_influential_run_is_named_with_where_a_would_move(law):
    most, next_to_it = Influence("run-7", 0.401, -2.46), Influence("run-3", 0.47, 1.2)
    assert said_of_surface(law, influential_runs=(most,)) == (
        "check run run-7: without it the surface's exponent is 0.401, not "
        f"{law.of('surface').a:.3f}",
    )
    assert said_of_surface(law, influential_runs=(most, next_to_it)) == (
        f"check run run-7: without it the surface's exponent is 0.401, not "
        f"{law.of('surface').a:.3f}; 1 more move it by over a standard error",
    )


def proposal(budget, *, now=(1e9, 4e9), after=(1.5e9, 3e9)):
    return NextRuns(budget, (1e8, 2e8, 4e8, 8e8, 1.6e9), 5 * budget, 1e24, 0.5, after, now)


def test_the_proposal_that_is_said_is_the_dearest_that_costs_no_more_than_the_sweep_did(law):
    cheap, affordable, dear = (proposal(budget) for budget in (1e20, SPENT / 5, SPENT))
    assert said_of_surface(law, next_runs=(cheap, affordable, dear)) == (
        "5 runs at 8e20 (N 100M-1.6B, 4e21 FLOPs) narrow N at 1e24 from 1-4B to 1.5-3B (80%)",
    )


def test_where_all_proposals_are_dear_the_cheapest_is_said(law):
    (sentence,) = said_of_surface(law, next_runs=(proposal(SPENT), proposal(3 * SPENT)))
    assert sentence.startswith("5 runs at 4e21 (N 100M-1.6B, ")


def test_no_runs_are_proposed_for_an_interval_that_is_narrow_already(law):
    narrow = {"now": (1e9, 1.04e9), "after": (1e9, 1.01e9)}
    assert said_of_surface(law, next_runs=(proposal(1e20, **narrow),)) == ()
    wide = {"now": (1e9, 1.06e9), "after": (1e9, 1.01e9)}
    assert len(said_of_surface(law, next_runs=(proposal(1e20, **wide),))) == 1


def test_no_runs_are_proposed_that_gain_less_than_a_tenth(law):
    for share, count in ((0.92, 0), (0.88, 1)):
        after = (1e9, 1e9 * 4**share)
        assert len(said_of_surface(law, next_runs=(proposal(1e20, after=after),))) == count


def test_a_surface_is_in_doubt_where_it_is_not_identified():
    few = {"budgets": (1e18, 3e18, 1e19), "sizes": (1 / 4, 1 / 2, 1, 2, 4)}
    for noise, seed, doubt in ((0.003, 1, None), (0.008, 2, UNDETERMINED)):
        runs = sweep(CHINCHILLA, **few, noise=noise, seed=seed)
        sample, _ = usable_points(runs, FlopRule.constant())
        fit = surface.SurfaceFit()
        found = fit.fitted(sample, 400, 0)
        examined = surface.KIND.examined(fit, sample, found.law, found.draws)
        assert examined.doubt == doubt
        assert examined.why == "one surface through 15 runs"
    assert surface.KIND.examined(fit, sample, found.law, None).doubt is None


def test_a_line_says_through_how_many_minima_it_goes(law):
    budgets = (replace(law.budgets[0], verdict="edge"), *law.budgets[1:])
    sample, _ = usable_points(sweep(CHINCHILLA), FlopRule.constant())
    line = replace(law.of("isoflop"), budgets=budgets)
    examined = isoflop.KIND.examined(isoflop.IsoflopFit(), sample, line, None)
    assert examined.why == "a line through the minima of 4 of 5 budgets"


def test_what_a_proposal_may_cost_is_what_all_runs_of_the_sweep_cost():
    """Close budgets of six runs: 15.7 times the largest in all, and five runs at 3 times it 15."""
    budgets, sizes = (tuple(np.geomspace(*ends)) for ends in ((2e19, 1e20, 5), (1 / 8, 8, 6)))
    runs = sweep(CHINCHILLA, budgets=budgets, sizes=sizes, noise=0.01, seed=1)
    (sentence,) = (
        line for line in fit_runs(runs, draws=50).diagnostics.advice if " runs at " in line
    )
    assert sum(run.flops for run in runs) == pytest.approx(1.57e21, rel=0.01)
    assert sentence.startswith("5 runs at 3e20 (N ")
    assert ", 1.5e21 FLOPs) narrow N at " in sentence


def test_law_json_has_the_words_that_are_shown(law):
    stored = law.to_json()["diagnostics"]
    assert list(stored)[:4] == ["verdict", "why", "findings", "advice"]
    assert stored["verdict"] == law.diagnostics.verdict
    assert stored["why"] == law.diagnostics.why
    assert stored["findings"] == list(law.diagnostics.findings)
    assert stored["advice"] == list(law.diagnostics.advice)
