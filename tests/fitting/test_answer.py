"""The answer to one question: who gives it, what of it may be relied on, and in which words."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from sweeps import BUDGETS, CHINCHILLA, sweep

from flops_fit.fitting import EnvelopeFit, IsoflopFit, ScalingLaw, SurfaceFit, fit_runs
from flops_fit.fitting.answer import Answer, Reach, Reliance, local_formula
from flops_fit.fitting.contract import Examined
from flops_fit.fitting.examine.diagnostics import Agreement
from flops_fit.fitting.examine.words import verdict
from flops_fit.laws.prediction import Prediction

NUMBERS = ("num_params", "num_tokens", "tokens_per_param", "loss", "extrapolation")


@pytest.fixture(scope="module")
def runs():
    return sweep(CHINCHILLA, noise=0.003, seed=1)


@pytest.fixture(scope="module")
def law(runs):
    return fit_runs(runs, draws=200)


@pytest.fixture(scope="module")
def by_surface(runs):
    return fit_runs(runs, answer=SurfaceFit(), draws=200)


# How far an answer reaches.


@pytest.mark.parametrize(
    ("reach", "extrapolation", "reliance"),
    [
        (Reach(10.0, 30.0), 0.1, Reliance.USABLE),
        (Reach(10.0, 30.0), 10.0, Reliance.USABLE),
        (Reach(10.0, 30.0), 10.1, Reliance.LOSS_ONLY),
        (Reach(10.0, 30.0), 30.0, Reliance.LOSS_ONLY),
        (Reach(10.0, 30.0), 30.1, Reliance.UNRELIABLE),
        (Reach(30.0, 10.0), 10.1, Reliance.SIZE_ONLY),
        (Reach(None, 5.0), 0.5, Reliance.LOSS_ONLY),
        (Reach(5.0, None), 0.5, Reliance.SIZE_ONLY),
        (Reach(None, None), 0.5, Reliance.UNRELIABLE),
        (Reach(None, None, known=False), 0.5, Reliance.UNKNOWN),
        (Reach(10.0, 30.0, known=False), 0.5, Reliance.UNKNOWN),
    ],
)
def test_what_can_be_relied_on_is_what_reaches_to_the_target(reach, extrapolation, reliance):
    assert reach.at(extrapolation) is reliance


def test_each_number_reaches_to_where_its_own_interval_is_narrow_enough():
    """A sweep whose N is known less far than its loss."""
    few = {"budgets": (1e18, 3e18, 1e19), "sizes": (1 / 4, 1 / 2, 1, 2, 4)}
    law = fit_runs(sweep(CHINCHILLA, **few, noise=0.02, seed=3), answer=SurfaceFit(), draws=400)
    reach = law.diagnostics.numbers.reached
    assert reach == law.predict(1e20).reach

    def ratio(name, multiple):
        low, high = law.predict(multiple * law.largest_budget).intervals[name]["80"]
        return high / low

    for name, reached, factor in (("num_params", reach.num_params, 2), ("loss", reach.loss, 1.03)):
        assert 1 < reached < 30, name
        assert ratio(name, reached) <= factor**2 < ratio(name, 2.1 * reached), name
    ends = sorted([reach.num_params, reach.loss])
    said = [law.predict(m * law.largest_budget).reliance for m in (0.9 * ends[0], 1.1 * ends[1])]
    assert said == [Reliance.USABLE, Reliance.UNRELIABLE]


def test_nothing_is_known_of_the_reach_without_intervals(runs):
    law = fit_runs(runs, draws=0)
    assert law.predict(BUDGETS[0]).reliance is Reliance.UNKNOWN


# What an answer holds.


def test_an_answer_says_who_gives_it_and_why_and_what_the_others_say(law):
    answer = law.predict(1e21)
    assert answer.method == law.answer == "combined"
    assert answer.why == law.diagnostics.why
    assert answer.verdict == law.diagnostics.verdict
    assert answer.advice == law.diagnostics.advice
    assert answer.prediction == law.predict_by("combined", 1e21)
    assert answer.others == tuple(law.predict_by(m, 1e21) for m in ("isoflop", "surface"))
    for name in (*NUMBERS, "budget", "intervals", "warning"):
        assert getattr(answer, name) == getattr(answer.prediction, name), name


def test_others_are_those_that_do_not_answer_and_gave_a_law(runs, by_surface):
    assert [p.method for p in by_surface.predict(1e21).others] == ["isoflop", "combined"]
    refused = fit_runs(runs, answer=EnvelopeFit(), draws=0)
    assert refused.answer == "combined"
    assert [p.method for p in refused.predict(1e21).others] == ["isoflop", "surface"]


def test_answers_stand_at_the_budgets_of_the_predictions(law):
    stated = [p for p in law.predictions if p.method == "combined"]
    assert [answer.prediction for answer in law.answers] == stated
    assert len(stated) == len(BUDGETS) + 3


def test_the_json_of_an_answer_has_the_prediction_on_its_first_level(law):
    answer = law.predict(1e21)
    data = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert set(data) == {
        "method", "budget", *NUMBERS, "intervals",
        "why", "formula", "others", "reach", "verdict", "advice", "reliance",
    }  # fmt: skip
    prediction = {name: data[name] for name in answer.prediction.to_json()}
    assert Prediction.from_json(prediction) == answer.prediction
    assert tuple(map(Prediction.from_json, data["others"])) == answer.others
    assert Reach(**data["reach"]) == answer.reach
    assert Reliance(data["reliance"]) is answer.reliance
    assert (data["why"], data["verdict"]) == (answer.why, answer.verdict)
    assert tuple(data["advice"]) == answer.advice


def test_a_stored_law_gives_the_same_answer(law, tmp_path):
    law.save(tmp_path)
    assert ScalingLaw.load(tmp_path).predict(3e21) == law.predict(3e21)


TERM = re.compile(r"(\w+) = (\S+) \(C / (\S+)\)\^([-.\d]+)")


@pytest.mark.parametrize("method", ["combined", "isoflop", "surface"])
def test_the_formula_gives_what_the_law_does_near_the_budget(law, method):
    budget = 2e21
    one = law.of(method)
    terms = TERM.findall(local_formula(one, budget))
    told = {name: tuple(map(float, rest)) for name, *rest in terms}
    for name, exact in (("N_opt", one.N_opt), ("D_opt", one.D_opt), ("loss", one.loss_opt)):
        value, reference, exponent = told[name]
        for flops in (budget / 2, budget, 2 * budget):
            said = value * (flops / reference) ** exponent
            assert said == pytest.approx(float(exact(flops)), rel=3e-3), name


def test_an_answer_is_of_its_own_budget(law):
    assert isinstance(law.predict(1e21), Answer)
    assert law.predict(1e21).formula == local_formula(law.law, 1e21) != law.predict(1e22).formula


# The verdict: about the two numbers of the method that answers.


def judged(law, *, answer="combined", examined=None, draws=100, **numbers):
    """The verdict on a fit with these numbers planted, whose largest budget is 2e20 FLOPs."""
    planted = {"has_intervals": True, "reach": 10.0, "loss_reach": 10.0, **numbers}
    of_methods = {name: Examined() for name in ("isoflop", "surface", "combined", "MyFit")}
    numbers = replace(law.diagnostics.numbers, **planted)
    return verdict(numbers, {**of_methods, **(examined or {})}, 2e20, answer, 35, draws)


TO_10, TO_3 = "to 2e21 FLOPs (10x)", "to 6e20 FLOPs (3x)"


@pytest.mark.parametrize(
    ("reach", "loss_reach", "words"),
    [
        (10.0, 10.0, f"Good {TO_10}: up to there N within 2x and the loss within 3% (80%)."),
        (3.0, 10.0, f"Good {TO_3}: up to there N within 2x (80%), the loss within 3% up to 2e21."),
        (10.0, 3.0, f"Good {TO_3}: up to there the loss within 3% (80%), N within 2x up to 2e21."),
        (1.0, 1.0, "Good to 2e20 FLOPs (your largest budget): up to there N within 2x and the loss "
                   "within 3% (80%)."),
        (None, 10.0, f"Good for the loss only: the loss within 3% (80%) up {TO_10}; N isn't known "
                     "within 2x even at your largest budget, 2e20 FLOPs. Train more sizes."),
        (3.0, None, f"Good for N only: N within 2x (80%) up {TO_3}; the loss isn't known within 3% "
                    "even at your largest budget, 2e20 FLOPs."),
        (None, None, "No good yet: even at your largest budget, 2e20 FLOPs, neither N within 2x "
                     "nor the loss within 3% (80%). Train more runs."),
    ],
)  # fmt: skip
def test_a_verdict_says_how_far_each_number_reaches(law, reach, loss_reach, words):
    assert judged(law, reach=reach, loss_reach=loss_reach) == words


@pytest.mark.parametrize("answer", ["isoflop", "surface", "envelope", "MyFit"])
def test_intervals_that_hold_noise_alone_are_said_to(law, answer):
    said = judged(law, answer=answer, examined={"envelope": Examined()})
    assert said == (
        judged(law) + " These are its own intervals, not held against back-tests (fit=auto's are)."
    )
    assert "noise alone" not in judged(law)


def test_without_intervals_nothing_is_known(law):
    said = judged(law, has_intervals=False, reach=None, loss_reach=None)
    assert said == "No intervals: these 35 runs give too little to tell how sure this is."
    assert judged(law, has_intervals=False, draws=0) == "No intervals: draws=0 asks for none."
    doubt = {"combined": Examined(doubt="this is a test")}
    assert judged(law, has_intervals=False, examined=doubt) == said


def test_a_doubt_about_the_method_that_answers_outweighs_its_reach(law):
    doubt = {"surface": Examined(doubt="this is a test")}
    assert judged(law, answer="surface", examined=doubt) == (
        "No good beyond 2e20 FLOPs, your largest budget: this is a test."
    )
    assert judged(law, answer="combined", examined=doubt) == judged(law)
    assert judged(law, answer="MyFit", examined=doubt) == judged(law, answer="isoflop")


def test_contradictions_of_other_methods_are_none_of_its_own(law):
    torn = Agreement("isoflop", "surface", False, "isoflop", False)
    for answer in ("combined", "surface", "MyFit"):
        assert judged(law, answer=answer, agreements=(torn,)) == judged(law, answer=answer)


@pytest.mark.parametrize("answer", [None, IsoflopFit(), SurfaceFit()])
def test_the_verdict_speaks_of_no_other_method(runs, answer):
    said = fit_runs(runs, answer=answer, draws=100).diagnostics.verdict
    assert said.startswith("Good to ")
    assert not re.search(r"approach|isoflop|surface|combined|parabola", said)


def test_what_the_evidence_would_have_answered_is_a_finding_where_another_was_asked(
    law, by_surface
):
    said = f"fit=auto would have answered otherwise: {law.diagnostics.why}"
    assert by_surface.diagnostics.findings[0] == said
    assert said not in law.diagnostics.findings
    assert np.isclose(by_surface.of("combined").a, law.of("combined").a, rtol=1e-12)
