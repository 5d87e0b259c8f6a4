"""Cells of the tables and words of the lines, for values made by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from flops_fit.answers.comparison import AtBudget, Comparison, Contender, Estimate
from flops_fit.answers.crossing import Crossing
from flops_fit.answers.verification import FrozenPrediction, Outcome, Record, Verification
from flops_fit.fitting import fit_runs
from flops_fit.fitting.answer import Answer, Reach
from flops_fit.fitting.points import Dropped
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.laws.prediction import FlatBand, OtherSize, Prediction
from flops_fit.plan.experiment import Experiment, Plan, Size
from flops_fit.plan.run import Run
from flops_fit.report import tables
from flops_fit.report.screen import fits, records
from flops_fit.report.summary import (
    MOST_REASONS,
    Summary,
    answer_words,
    exponent,
    formulas,
    left_out_line,
    others_words,
)
from flops_fit.shown import short_flops, short_loss, short_number

E1 = Experiment(1e9, Size("width", 8), 100, 120, 5000, 4, 4, 600.0, 540.0, 600.0, 10_000, 0)
E2 = replace(E1, size=Size("width", 16), num_params=200, num_steps=2500, flops_per_token=1200.0)
E3 = replace(E2, budget=3e9, num_steps=7500, unique_tokens=None, flops_per_token_counted=None)
PLAN = Plan(
    tuple(replace(e, id=name) for name, e in zip("xyz", (E1, E2, E3), strict=True)),
    FlopRule.constant(),
)
PREDICTION = Prediction(
    "surface", 1e20, 2.5e8, 5e9, 20.0, 2.5, 10.0,
    {
        "num_params": {"80": (2.4e8, 2.6e8), "95": (2e8, 3e8)},
        "num_tokens": {"80": (4.8e9, 5.2e9), "95": (4e9, 6e9)},
        "loss": {"80": (2.49, 2.51), "95": (2.45, 2.55)},
    },
)  # fmt: skip
BARE = replace(PREDICTION, intervals={})


def headers(table):
    return [column.header for column in table.columns]


def rows(table):
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


class TestPlan:
    def test_has_a_row_for_every_experiment(self):
        table = tables.plan_table(PLAN)
        assert headers(table) == [
            "budget", "width", "N", "D", "steps", "D/N", "of all", "C/6ND", "epochs"
        ]  # fmt: skip
        assert rows(table) == [
            ["1e9", "8", "100", "20k", "5,000", "200", "20.0%", "0.90", "2"],
            ["1e9", "16", "200", "10k", "2,500", "50", "20.0%", "0.90", "1"],
            ["3e9", "16", "200", "30k", "7,500", "150", "60.0%", "", ""],
        ]

    def test_has_no_columns_for_what_no_experiment_has(self):
        plain = [replace(e, flops_per_token_counted=None, unique_tokens=20_000) for e in (E1, E2)]
        table = tables.plan_table(Plan(tuple(plain), FlopRule.constant()))
        assert headers(table)[-1] == "of all"

    def test_a_line_stands_between_budgets(self):
        assert [row.end_section for row in tables.plan_table(PLAN).rows] == [False, True, True]


def test_runs_stand_beside_what_was_planned():
    done = Run(
        "x", "completed", 100, 20_000, 1e9, 0.25, 1e9, size=Size("width", 8), wall_time_seconds=2.04
    )
    failed = replace(done, id="y", status="failed", loss=None, wall_time_seconds=None)
    runs, words = {"x": done, "y": failed}, {"x": "completed", "y": "failed", "z": "paused, 40%"}
    table = tables.runs_table(PLAN.experiments, runs, lambda e: words[e.id], "width")
    assert headers(table) == ["run", "budget", "width", "status", "loss", "seconds"]
    assert rows(table) == [
        ["x", "1e9", "8", "completed", "0.2500", "2.0"],
        ["y", "1e9", "16", "failed", "", ""],
        ["z", "3e9", "16", "paused, 40%", "", ""],
    ]
    assert [column.justify for column in table.columns] == ["left", *["right"] * 5]
    kinds = ["completed", "failed", "paused"]
    counts = tables.counts_table(PLAN, runs, lambda e: words[e.id], kinds)
    assert headers(counts) == ["budget", "runs", *kinds, "least loss"]
    assert rows(counts) == [["1e9", "2", "1", "1", "", "0.2500"], ["3e9", "1", "", "", "1", ""]]


def answer(prediction: Prediction, reach: Reach, *others: Prediction) -> Answer:
    return Answer(prediction, "", "", others, reach, "", ())


def test_answers_say_how_far_they_are_beyond_and_what_can_be_relied_on():
    near = replace(PREDICTION, budget=1e19, extrapolation=1.0)
    far = replace(BARE, budget=1e22, extrapolation=1000.0)
    answers = [
        answer(near, Reach(10.0, 10.0)),
        answer(PREDICTION, Reach(20.0, 5.0)),
        answer(far, Reach(None, None, known=False)),
    ]
    table = tables.answers_table(answers, "error_rate")
    assert headers(table) == [
        "budget", "x largest", "N (95%)", "D (95%)", "D/N", "error rate (95%)", "rely on"
    ]  # fmt: skip
    numbers = ["250M (200-300M)", "5B (4-6B)", "20", "2.500 (2.450-2.550)"]
    assert rows(table) == [
        ["1e19", "1x", *numbers, "both"],
        ["1e20", "10x", *numbers, "N"],
        ["1e22", "1,000x", "250M", "5B", "20", "2.500", "unknown"],
    ]


@pytest.mark.parametrize(
    ("width", "spared"),
    [
        (None, set()),
        (120, set()),
        (80, set()),
        (75, {"D/N"}),
        (69, {"D/N", "D (95%)"}),
        (55, {"D/N", "D (95%)", "x largest"}),
    ],
)
def test_a_narrow_screen_spares_whole_columns_and_cuts_no_number(width, spared):
    answers = [answer(PREDICTION, Reach(20.0, 5.0))]
    table = tables.answers_table(answers, width=width)
    assert {"D/N", "D (95%)", "x largest"} - set(headers(table)) == spared
    assert {"budget", "N (95%)", "loss (95%)", "rely on"} <= set(headers(table))
    console = Console(width=width or 200)
    with console.capture() as captured:
        console.print(table)
    assert "…" not in captured.get()


@pytest.mark.parametrize("width", range(60, 95, 3))
def test_what_fits_by_our_count_is_printed_whole_and_what_does_not_is_stacked(width):
    table = tables.answers_table([answer(PREDICTION, Reach(20.0, 5.0))])
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    assert fits(table, width) == ("…" not in captured.get())
    assert list(records(table)) == [
        "budget        1e20",
        "  x largest   10x",
        "  N (95%)     250M (200-300M)",
        "  D (95%)     5B (4-6B)",
        "  D/N         20",
        "  loss (95%)  2.500 (2.450-2.550)",
        "  rely on     N",
    ]


def test_an_answer_in_a_sentence_says_what_of_it_is_not_to_be_relied_on():
    said = (
        "For 1e20 FLOPs (10x your largest budget): N = 250M (200-300M), D = 5B tokens (4-6B), "
        "D/N = 20, loss 2.500 (2.450-2.550)."
    )
    for reach, beware in (
        (Reach(10.0, 10.0), ""),
        (Reach(10.0, 2.0), " Rely on N only."),
        (Reach(2.0, 10.0), " Rely on the loss only."),
        (Reach(2.0, 2.0), " Not to be relied on."),
    ):
        assert answer_words(answer(PREDICTION, reach)) == said + beware
    trained = replace(BARE, extrapolation=1.0002)
    assert answer_words(answer(trained, Reach(2.0, 2.0)), "error_rate") == (
        "For 1e20 FLOPs (your largest budget): N = 250M, D = 5B tokens, D/N = 20, error rate 2.500."
    )


def test_the_others_are_said_where_the_budget_was_not_trained():
    other = replace(BARE, method="isoflop", num_params=3e8)
    mine = replace(BARE, method="MyFit", loss=0.1234)
    asked = replace(answer(PREDICTION, Reach(9.0, 9.0)), others=(other, mine))
    assert others_words(asked) == (
        "By single methods at 1e20: approach 2 (isoflop) N 300M, loss 2.500, MyFit N 250M, loss "
        "0.1234."
    )
    trained = replace(asked, prediction=replace(PREDICTION, extrapolation=1.0))
    assert others_words(trained) == ""


def test_variants_are_named_by_the_words_they_do_not_share():
    variants = [
        tables.Variant(["model=mlp", "seed=1", "span=4"], 2, 3, 0.12345, "0.5"),
        tables.Variant(["model=mlp", "seed=2", "span=8"], 0, 3, None, "no law"),
    ]
    table = tables.variants_table(variants)
    assert headers(table) == ["variant", "runs", "trained now", "best loss", "N_opt ~ C^"]
    assert rows(table) == [
        ["seed=1 span=4", "3", "2", "0.1235", "0.5"],
        ["seed=2 span=8", "3", "0", "", "no law"],
    ]
    assert [column.justify for column in table.columns] == ["left", *["right"] * 4]
    assert all(column.no_wrap for column in table.columns)


class TestCrossing:
    crossing = Crossing(1.5e20, 3.0, {"80": (1.3e20, 1.7e20), "95": (1e20, 2e20)}, 0.97)

    def test_says_where_how_far_and_in_how_many_draws(self):
        assert tables.crossing_line(self.crossing) == (
            "The losses cross at 1.5e20 (1e20-2e20) FLOPs, 3x the smaller of the largest budgets; "
            "97% of the draws cross."
        )

    def test_open_bounds_are_words(self):
        open_ended = replace(self.crossing, intervals={"95": (0.0, math.inf)})
        assert "1.5e20 (no limit) FLOPs" in tables.crossing_line(open_ended)
        one_sided = replace(self.crossing, intervals={"95": (1e20, math.inf)})
        assert "1.5e20 (over 1e20) FLOPs" in tables.crossing_line(one_sided)

    def test_without_draws_nothing_is_said_of_them(self):
        bare = replace(self.crossing, intervals={}, share_of_draws=None)
        assert tables.crossing_line(bare).endswith(
            "1.5e20 FLOPs, 3x the smaller of the largest budgets."
        )

    def test_laws_that_never_cross(self):
        never = Crossing(None, None, {}, 0.25)
        assert tables.crossing_line(never) == (
            "The losses don't cross up to 1,000x the largest budget; 25% of the draws cross."
        )


class TestLeftOut:
    def test_one_run_goes_by_its_id_and_more_by_their_number(self):
        dropped = [Dropped("a", "diverged"), Dropped("b", "failed"), Dropped("c", "failed")]
        assert left_out_line(dropped) == "left out: 2 runs (failed), a (diverged)"

    def test_the_commonest_reasons_are_named_and_the_others_counted(self):
        reasons = [f"reason {i}" for i in range(MOST_REASONS + 2) for _ in range(9 - i)]
        line = left_out_line([Dropped(str(i), r) for i, r in enumerate(reasons)])
        named = [f"{9 - i} runs (reason {i})" for i in range(MOST_REASONS)]
        assert line == f"left out: {', '.join(named)}, and for 2 more reasons"


def test_a_flat_band_is_said_with_its_intervals():
    band = FlatBand(1e20, 0.001, 1e8, 4e8, {"low": {"95": (9e7, 1.2e8)}})
    assert tables.band_line(band) == (
        "at 1e20 FLOPs all sizes from 100M (90-120M) to 400M lose less than 0.1%"
    )


class TestCost:
    other = OtherSize(
        1e8, 1e10, 2.6, 0.04, 0.5,
        {"excess_loss": {"95": (0.03, 0.05)}, "excess_compute": {"95": (0.4, math.inf)}},
    )  # fmt: skip

    def test_is_told_in_loss_and_in_compute(self):
        assert tables.cost_line(self.other, 1e20) == (
            "N = 100M at 1e20 FLOPs: loss 2.600, 4.00% (3%-5%) above the best; to reach the best "
            "it takes 50.0% (over 40%) more FLOPs"
        )

    def test_may_be_beyond_any_number_of_tokens(self):
        hopeless = replace(self.other, excess_compute=None, intervals={})
        assert tables.cost_line(hopeless, 1e20, "error_rate") == (
            "N = 100M at 1e20 FLOPs: error rate 2.600, 4.00% above the best; no amount of tokens "
            "brings it to the best"
        )


class TestVerification:
    def test_tells_predicted_measured_and_whether_the_interval_held(self):
        frozen = FrozenPrediction(PREDICTION, "loss only", "ab12", "2026-11-27T10:00:00+00:00")
        v = Verification(frozen, "run", 2.6e8, 4.8e9, 2.48, 0.004)
        assert tables.verification_lines(v) == [
            "Measured 2.480 ± 0.004 at N = 260M: +0.81% off, inside the 95% interval.",
            "Predicted 2.500 (2.450-2.550) for N = 250M at 1e20 FLOPs (10x your largest budget), "
            "on 2026-11-27T10:00:00+00:00 (loss only).",
        ]
        low = replace(v, measured=2.4, stderr=None)
        assert tables.verification_lines(low)[0] == (
            "Measured 2.400 at N = 260M: +4.17% off, outside the 95% interval."
        )

    def test_without_intervals_there_is_nothing_to_be_inside_of(self):
        frozen = FrozenPrediction(BARE, "unknown", "ab12", "2026-11-27T10:00:00+00:00")
        measured, predicted = tables.verification_lines(
            Verification(frozen, "run", 2.6e8, 4.8e9, 2.5, None)
        )
        assert "2.500 (no interval: no draws) for" in predicted
        assert measured.endswith("N = 260M: +0.00% off.")

    def test_the_record_counts_what_was_inside_and_how_far_off(self):
        outcomes = [
            Outcome(error, {"95": inside})
            for error, inside in ((0.01, True), (-0.03, False), (0.02, None))
        ]
        assert str(Record.of(outcomes)) == (
            "3 verifications of this study so far: median error 2.00%, 1 of 2 inside the 95% "
            "interval"
        )


def test_a_comparison_has_a_row_for_every_budget():
    surface = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    a, b = (Contender(name, "surface", surface, None, (1e18, 1e19)) for name in ("old", "new"))
    row = AtBudget(
        1e19, 1.0, ("old", "new"), Estimate(2.5, {"95": (2.4, 2.6)}), Estimate(2.4, {}),
        Estimate(0.8, {"95": (0.7, math.inf)}), 0.8, None,
    )  # fmt: skip
    beyond = replace(
        row, budget=1e20, extrapolation=10.0, trained_in=(), multiplier=Estimate(None, {}),
        multiplier_extrapolation=None,
    )  # fmt: skip
    crossing = Crossing(None, None, {}, None)
    table = tables.comparison_table(Comparison(a, b, "", (), (row, beyond), crossing))
    assert table.title == "A = old, B = new"
    assert table.title_justify == "left"
    assert headers(table) == [
        "budget", "x smaller top", "trained", "loss A (95%)", "loss B (95%)", "B needs (95%)",
        "x top of B",
    ]  # fmt: skip
    assert rows(table) == [
        ["1e19", "1x", "A B", "2.500 (2.400-2.600)", "2.400", "0.8x (over 0.7x)", "0.8x"],
        ["1e20", "10x", "", "2.500 (2.400-2.600)", "2.400", "never", ""],
    ]  # fmt: skip


class TestLaw:
    """Tables and lines of a law fitted to simulated runs, of which one budget has two sizes."""

    @pytest.fixture
    def law(self):
        surface = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
        runs = simulate_sweep(surface, (1e18, 3e18, 1e19, 3e19), sizes=(1 / 8, 1 / 3, 1, 3, 8))
        return fit_runs(runs[:-3], draws=20)

    def test_budgets_have_their_optimum_or_only_a_verdict(self, law):
        table = tables.budgets_table(law)
        assert headers(table) == ["budget", "N_opt", "D_opt", "D/N", "loss", "curve"]
        *fitted, few = rows(table)
        assert fitted == [
            [short_flops(b.budget), *map(short_number, (b.N_opt, b.D_opt, b.D_opt / b.N_opt)),
             short_loss(b.loss), "ok"]
            for b in law.budgets[:-1]
        ]  # fmt: skip
        assert few == ["3e19", "", "", "", "", "few"]
        assert tables.verdicts_line(law.budgets) == "few: too few sizes for a curve"

    def test_the_formulas_are_the_surface_and_N_opt_by_who_answers_and_by_the_others(self, law):
        surface, answer, others = formulas(law)
        found = law.of("surface").surface
        assert surface == (
            f"L = {found.E:.4g} + {found.A:.4g}/N^{found.alpha:.3f} + "
            f"{found.B:.4g}/D^{found.beta:.3f}  (approach 3)"
        )
        scale, power = re.fullmatch(
            r"N_opt = (\S+) C\^([.\d]+) \(.*\)  \(combined\)", answer
        ).groups()
        largest = law.largest_budget
        assert float(scale) * largest ** float(power) == pytest.approx(
            float(law.law.N_opt(largest)), rel=0.05
        )
        low, high = law.intervals["combined.a"]["95"]
        assert answer.endswith(f"C^{law.law.a:.3f} ({low:.3f}-{high:.3f})  (combined)")
        assert others.strip() == (
            f"by approach 2 C^{exponent(law, 'isoflop')}, "
            f"by approach 3 C^{exponent(law, 'surface')}"
        )

    def test_a_summary_answers_beyond_the_budgets_where_anything_holds_there(self, law):
        assert Summary.of(law).answers == (answer_words(law.predict(3e20)),)
        numbers = replace(law.diagnostics.numbers, reach=1.0, loss_reach=2.0)
        near = replace(law, diagnostics=replace(law.diagnostics, numbers=numbers))
        assert Summary.of(near).answers == (answer_words(near.predict(3e19)),)
        asked = [law.predict(1e20), law.predict(1e21)]
        summary = Summary.of(law, asked)
        assert summary.answers == tuple(map(answer_words, asked))
        assert summary.reach == law.diagnostics.verdict
        assert summary.basis.startswith("Brackets: 95%. Weighed from ")
        assert [line[1:] for line in summary.weak] == [
            line[1:] for line in law.diagnostics.findings
        ]
        assert all(line[0] == line[0].upper() for line in (*summary.weak, *summary.advice))
