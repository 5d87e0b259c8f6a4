"""What figures show is what the values say: decided as marks, drawn alike on paper and screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flops_fit.answers.verification import FrozenPrediction, Verification
from flops_fit.fitting import fit_runs
from flops_fit.fitting.collapse import Curve
from flops_fit.fitting.isoflop import IsoflopFit
from flops_fit.fitting.points import usable_points
from flops_fit.fitting.repeated import RepeatedFit
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface
from flops_fit.report.figures.backtests import backtests
from flops_fit.report.figures.contours import contours
from flops_fit.report.figures.drawing import draw
from flops_fit.report.figures.frames import frame
from flops_fit.report.figures.frontier import frontier
from flops_fit.report.figures.isoflop import isoflop
from flops_fit.report.figures.marks import Band, Contours, Line, Points, Symbol
from flops_fit.report.figures.optima import optima
from flops_fit.report.figures.residuals import fitted_losses, residuals
from flops_fit.report.figures.style import (
    as_html,
    as_mathtext,
    budget_colours,
    palette,
    power,
)
from flops_fit.report.figures.training import training
from flops_fit.report.files import is_current, write_report
from flops_fit.report.report import Report, pictures
from flops_fit.study.frozen import verifications_in
from flops_fit.tables import read_table

STUDIES = Path(__file__).parent / "assets/studies"

SURFACE = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BUDGETS = (1e18, 3e18, 1e19)
SIZES = (1 / 4, 1 / 2, 1, 2, 4)
RUNS = simulate_sweep(SURFACE, BUDGETS, sizes=(1 / 8, 1 / 3, 1, 3, 8), noise=0.002)
RUNS[-1] = replace(RUNS[-1], id="gone", status="diverged", loss=None)
LAW = fit_runs(RUNS, draws=50)


def marks(picture, kind, panel: int = 0):
    return [mark for mark in picture.panels[panel].marks if isinstance(mark, kind)]


def points_of(picture, symbol: Symbol, panel: int = 0):
    return [mark for mark in marks(picture, Points, panel) if mark.symbol is symbol]


def places(found) -> set[tuple[float, float]]:
    return {(float(x), float(y)) for mark in found for x, y in zip(mark.x, mark.y, strict=True)}


def test_isoflop_draws_the_fitted_curves_through_the_runs():
    picture = isoflop(RUNS, LAW)
    for line, optimum in zip(marks(picture, Line), LAW.budgets, strict=True):
        np.testing.assert_allclose(line.y, optimum.curve(line.x))
    stars = points_of(picture, Symbol.STAR)
    assert [star.x[0] for star in stars] == [b.N_opt for b in LAW.budgets]
    for star in stars:
        low, high = star.x_bars[0]
        assert low < star.x[0] < high
    assert places(points_of(picture, Symbol.DOT)) == {
        (run.num_params, run.loss) for run in RUNS if run.loss is not None
    }
    assert [line.name for line in marks(picture, Line)] == [power(c) for c in BUDGETS]


def test_the_interval_of_a_minimum_is_as_wide_as_other_noise_would_move_it():
    found = []
    for seed in range(200):
        runs = simulate_sweep(SURFACE, BUDGETS, sizes=SIZES, noise=0.001, seed=seed)
        points, _ = usable_points(runs, FlopRule.constant())
        found.append([np.log(o.N_opt) for o in IsoflopFit().optima(points, None)])
    law = fit_runs(simulate_sweep(SURFACE, BUDGETS, sizes=SIZES, noise=0.001), draws=0)
    runs = simulate_sweep(SURFACE, BUDGETS, sizes=SIZES, noise=0.001)
    stars = points_of(isoflop(runs, law), Symbol.STAR)
    half = np.mean([np.log(star.x_bars[0][1] / star.x[0]) for star in stars])
    assert half == pytest.approx(1.96 * np.mean(np.std(found, axis=0)), rel=0.5)


def test_another_metric_is_drawn_and_named_where_the_loss_would_be():
    runs = [replace(r, metrics={"error_rate": r.loss / 9} if r.loss else {}) for r in RUNS]
    law = fit_runs(runs, metric="error_rate", draws=0)
    picture = isoflop(runs, law)
    assert picture.panels[0].y.label == "held-out error rate"
    drawn = {y for _, y in places(points_of(picture, Symbol.DOT))}
    assert drawn == {run.loss / 9 for run in RUNS if run.loss}


def test_runs_that_were_left_out_are_hollow_and_say_why():
    law = fit_runs(
        [*RUNS, replace(RUNS[0], id="left out", status="crashed", loss=RUNS[0].loss + 0.1)], draws=0
    )
    extra = replace(RUNS[0], id="left out", loss=RUNS[0].loss + 0.1)
    elsewhere = replace(RUNS[0], id="elsewhere", budget=2e18)
    hollow = points_of(isoflop([*RUNS, extra, elsewhere], law), Symbol.HOLLOW)
    assert [(mark.name, list(mark.texts)) for mark in hollow] == [
        ("left out of the fit", ["left out, left out: status is crashed"]),
        ("at other compute", ["elsewhere"]),
    ]


def test_replicates_and_held_out_samples_make_bars():
    seeds = [replace(r, id=f"{r.id}-{k}", seed=k, loss=r.loss * (1 + 1e-3 * k))
             for r in RUNS[:5] for k in range(3)]  # fmt: skip
    law = fit_runs([*seeds, *RUNS[5:]], draws=0)
    noise = law.diagnostics.numbers.seed_noise
    dots = points_of(isoflop([*seeds, *RUNS[5:]], law), Symbol.DOT)[0]
    assert np.ptp(dots.y_bars, axis=1) == pytest.approx(2 * 1.96 * noise * dots.y)
    told = [replace(r, loss_stderr=0.01) for r in RUNS]
    dots = points_of(isoflop(told, fit_runs(told, draws=0)), Symbol.DOT)[0]
    assert np.ptp(dots.y_bars, axis=1) == pytest.approx(np.full(5, 2 * 1.96 * 0.01))
    assert points_of(isoflop(RUNS, LAW), Symbol.DOT)[0].y_bars is None


def test_losses_over_a_wide_range_are_on_a_logarithmic_axis():
    assert not isoflop(RUNS, LAW).panels[0].y.is_log
    wide = LossSurface(E=0.001, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    runs = simulate_sweep(wide, (1e15, 1e18, 1e21), sizes=SIZES, noise=0.002)
    assert isoflop(runs, fit_runs(runs, draws=0)).panels[0].y.is_log


def test_a_size_that_failed_to_learn_does_not_flatten_the_others():
    runs = [*RUNS]
    runs[4] = replace(runs[4], loss=60.0)
    picture = isoflop(runs, fit_runs(runs, draws=0))
    (panel,) = picture.panels
    _, high = panel.y.limits
    assert high < 8
    assert panel.notes == ("1 run lies above, up to 60: triangles at the edge",)
    (above,) = points_of(picture, Symbol.ABOVE)
    assert (above.x[0], above.y[0]) == (runs[4].num_params, high)
    assert above.texts == ["RUN, loss 60".replace("RUN", runs[4].id)]


def test_a_frame_keeps_what_must_show():
    assert frame(np.array([1.0, 2.0]), keep=np.array([np.nan])).num_above == 0
    values = np.array([*np.linspace(2, 3, 30), 50.0])
    assert frame(values).num_above == 1
    assert frame(values, keep=np.array([50.0])).num_above == 0
    assert frame(np.array([2.0])).limits[0] < 2 < frame(np.array([2.0])).limits[1]


def test_optima_draw_the_laws_and_the_interval_of_the_answer():
    picture = optima(RUNS, LAW)
    for panel, (name, answer) in enumerate(
        (("num_params", LAW.law.N_opt), ("num_tokens", LAW.law.D_opt))
    ):
        inside, beyond = marks(picture, Line, panel)[-2:]
        for line in (inside, beyond):
            np.testing.assert_allclose(line.y, answer(line.x))
        assert (inside.x[0], inside.x[-1]) == pytest.approx((min(BUDGETS), max(BUDGETS)))
        assert beyond.x[-1] == pytest.approx(1000 * max(BUDGETS))
        assert inside.dashes != beyond.dashes
        (band,) = marks(picture, Band, panel)
        expected = LAW.predict(band.x[-1]).intervals[name]["95"]
        assert (band.low[-1], band.high[-1]) == pytest.approx(expected)
    drawn = {mark.name.split(":")[0] for mark in marks(picture, Line) if mark.name}
    assert len(drawn) == len(LAW.fits.laws) == 3
    low, high = LAW.intervals["isoflop.a"]["95"]
    text = f"C^{{{LAW.of('isoflop').a:.3f}}} ({low:.3f}-{high:.3f})"
    assert any(text in mark.name for mark in marks(picture, Line))


def test_the_formula_on_the_figure_gives_the_answer():
    (note,) = optima(RUNS, LAW).panels[0].notes
    shown = note.split(" = ")[1].replace("×10^{", "e").replace("}", "", 1)
    coefficient, exponent = shown.split(" C^{")
    value = float(coefficient) * 3e18 ** float(exponent.rstrip("}"))
    assert value == pytest.approx(float(LAW.law.N_opt(3e18)), rel=0.05)


def verification(budget: float, measured: float) -> Verification:
    answer = LAW.predict(budget)
    frozen = FrozenPrediction(answer.prediction, answer.reliance.value, "0" * 64, "2026-01-01")
    return Verification(frozen, "tested", answer.num_params, answer.num_tokens, measured, 0.01)


def test_a_verification_stands_beside_its_forecast():
    tested = verification(1e20, 2.5)
    picture = frontier(RUNS, LAW, [tested])
    (measured,) = points_of(picture, Symbol.DIAMOND)
    assert (measured.x[0], measured.y[0]) == (1e20, 2.5)
    said = next(m for m in points_of(picture, Symbol.HOLLOW) if m.name == "forecast")
    assert tuple(said.y_bars[0]) == tested.prediction.intervals["loss"]["95"]
    low, high = picture.panels[0].y.limits
    assert low < 2.5 < high
    assert not points_of(frontier(RUNS, LAW), Symbol.DIAMOND)


def test_verifications_of_earlier_versions_are_drawn_too():
    (tested,) = verifications_in(STUDIES / "toy")
    (measured,) = points_of(frontier(RUNS, LAW, [tested]), Symbol.DIAMOND)
    assert (measured.x[0], measured.y[0]) == (tested.prediction.budget, tested.measured)


def test_the_best_loss_is_drawn_with_its_band():
    picture = frontier(RUNS, LAW)
    for line in marks(picture, Line)[-2:]:
        np.testing.assert_allclose(line.y, LAW.law.loss_opt(line.x))
    (band,) = marks(picture, Band)
    expected = LAW.predict(band.x[-1]).intervals["loss"]["95"]
    assert (band.low[-1], band.high[-1]) == pytest.approx(expected)


def test_contours_are_the_loss_of_the_law_that_knows_it():
    picture = contours(RUNS, LAW)
    (drawn,) = marks(picture, Contours)
    expected = LAW.law(drawn.x[None, :], drawn.y[:, None])
    np.testing.assert_allclose(drawn.z, expected)
    assert drawn.z.min() <= drawn.levels[0]
    path = marks(picture, Line)[-1]
    spent = 6 * path.x * path.y
    np.testing.assert_allclose(path.x, LAW.law.N_opt(spent), rtol=1e-6)


def test_residuals_are_measured_over_fitted():
    picture = residuals(RUNS, LAW)
    used = [run for run in RUNS if run.id in LAW.rows_used]
    expected = {
        (run.num_params, run.loss / float(LAW.law(run.num_params, run.num_tokens)) - 1)
        for run in used
    }
    found = places(points_of(picture, Symbol.DOT))
    np.testing.assert_allclose(sorted(found), sorted(expected))
    assert places(points_of(picture, Symbol.DOT, 1)) != found


def test_residuals_of_repeated_data_are_those_of_what_is_repeated():
    runs = [
        replace(run, id=f"{run.id}-{u}", unique_tokens=int(run.num_tokens / u), seed=u)
        for run in RUNS[:14]
        for u in (1, 4, 16)
    ]
    law = RepeatedFit()(runs)
    losses = fitted_losses(law, runs)
    np.testing.assert_allclose(
        losses, [float(law.loss(r.num_params, r.num_tokens, r.unique_tokens)) for r in runs]
    )


def test_back_tests_carry_their_errors_and_what_was_stated():
    many = simulate_sweep(SURFACE, [1e17, 3e17, *BUDGETS], sizes=SIZES, noise=0.002)
    law = fit_runs(many, draws=20)
    picture = backtests(law)
    tests = law.law.loss.tests
    dots = points_of(picture, Symbol.DOT)
    assert sorted(y for mark in dots for y in mark.y) == pytest.approx(
        sorted(np.expm1(test.error) for test in tests)
    )
    level = dots[0]
    first = [test for test in tests if power(test.level) == level.name]
    half = 1.96 * law.law.loss.factor**0.5 * first[0].stated
    assert level.y_bars[0] == pytest.approx(
        np.expm1([first[0].error - half, first[0].error + half])
    )
    alone = points_of(picture, Symbol.SQUARE)[0]
    assert alone.y[0] == law.diagnostics.numbers.back_tests[0].loss_error


def curve(budget: float, name: str) -> Curve:
    share = np.linspace(0.001, 1, 1000)
    return Curve(name, budget, 1e6, share, 2 + share**-0.3, 1 - 0.9 * share, 3.0, 1000)


def test_training_curves_are_averaged_and_laid_on_each_other():
    curves = [curve(c, str(c)) for c in BUDGETS]
    picture = training(curves, {str(c): c for c in BUDGETS}, BUDGETS, curves)
    lines = marks(picture, Line)
    assert [line.x[-1] for line in lines] == pytest.approx(BUDGETS, rel=0.05)
    for line, budget in zip(lines, BUDGETS, strict=True):
        np.testing.assert_allclose(line.y, 2 + (line.x / budget) ** -0.3, rtol=0.01)
    collapsed = marks(picture, Line, 1)
    assert collapsed[0].y[-1] == pytest.approx(1.0, abs=0.01)
    assert training([], {}, BUDGETS) is None


def test_a_budget_has_one_colour_in_every_figure():
    shown = {}
    for picture in pictures(Report("x", RUNS, LAW)):
        for panel in picture.panels:
            for mark in panel.marks:
                if isinstance(mark, Points) and mark.symbol is Symbol.DOT and len(mark):
                    for text in mark.texts:
                        shown.setdefault(text.split(",")[0], set()).add(mark.colour)
    assert shown.keys() >= {run.id for run in RUNS if run.loss}
    for run in RUNS:
        if run.loss:
            assert shown[run.id] == {f"budget-{BUDGETS.index(run.budget)}"}


def test_runs_without_common_budgets_have_contours_and_residuals_instead():
    runs = [replace(run, budget=run.budget * (1 + i)) for i, run in enumerate(RUNS)]
    law = fit_runs(runs, draws=20)
    assert law.budgets == ()
    names = [picture.name for picture in pictures(Report("x", runs, law))]
    assert "isoflop" not in names
    assert {"optima", "loss", "contours", "residuals"} <= set(names)


def test_what_matplotlib_draws_are_the_marks():
    picture = optima(RUNS, LAW)
    figure = draw(picture, len(BUDGETS))
    for axes, panel in zip(figure.axes, picture.panels, strict=True):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        drawn = [line.get_ydata() for line in axes.lines]
        for mark in panel.marks:
            if isinstance(mark, Line):
                assert any(np.array_equal(mark.y, ys) for ys in drawn)
    hollow = replace(RUNS[0], id="other", budget=2e18)
    (axes,) = draw(isoflop([*RUNS, hollow], LAW), len(BUDGETS)).axes
    faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert faces.count("white") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e18, "5×10^{18}"),
        (1e18, "10^{18}"),
        (9.999e17, "10^{18}"),
        (1.234e9, "1.23×10^{9}"),
        (0.02, "2×10^{-2}"),
    ],
)
def test_flops_as_people_write_them(value, text):
    assert power(value) == text


def test_marks_up_and_down_are_escaped_for_paper_and_for_the_page():
    assert as_html("<b> 10^{18} N_{opt}") == "&lt;b&gt; 10<sup>18</sup> N<sub>opt</sub>"
    assert as_mathtext("5$ 10^{-18}") == r"5\$ 10⁻¹⁸"
    assert as_mathtext("C^{0.5}") == r"C$\mathregular{{}^{0.5}}$"


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_colours_keep_their_order_in_grey_and_stand_out_from_both_backgrounds():
    assert len(set(budget_colours(8))) == 8
    greys = [luminance(colour) for colour in budget_colours(8)]
    assert greys == sorted(greys)
    for light, dark in palette(8).values():
        assert 1.05 / (luminance(light) + 0.05) > 1.9
        assert (luminance(dark) + 0.05) / (luminance("#16181c") + 0.05) > 1.9


def test_report_files_are_written_and_read_back(tmp_path):
    LAW.save(tmp_path)
    assert not is_current(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/earlier.png").write_bytes(b"")
    report = Report("sweep", RUNS, LAW)
    paths = write_report(report, tmp_path)
    assert is_current(tmp_path)
    names = [picture.name for picture in pictures(report)]
    assert [path.name for path in paths] == [
        "runs.csv", *(f"{name}.{kind}" for name in names for kind in ("png", "svg")), "report.html",
    ]  # fmt: skip
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(names)
    runs = read_table(paths[0]).runs
    assert [(r.id, r.loss, r.num_params) for r in runs] == [
        (r.id, r.loss, r.num_params) for r in RUNS
    ]
