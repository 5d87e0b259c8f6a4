"""Figures of published fits, on the published rows (F1 to F5 of docs/fitting.md)."""

import numpy as np
import pytest
from sweeps import rows

from flops_fit.fitting import Akima, EnvelopeFit, Huber, IsoflopFit, SurfaceFit
from flops_fit.fitting.points import Points
from flops_fit.laws import FlopRule, PowerLaw

VOCABULARY = 50304  # of the Gemstones models: embedding rows

GEMSTONES_FILES = {
    "hot_100b+": "hot_100bplus",
    "hot_100b+_512x": "hot_100bplus_512x",
    "hot_120b+_only": "hot_120bplus_only",
}

PORIAN_EXPONENTS = {
    "rw/base/long/kaplan/kaplan/train": (0.8353, 0.8235, 0.8460),
    "rw/base/long/kaplan/standard/val": (0.7065, 0.6915, 0.7169),
    "rw/base/short/kaplan/standard/val": (0.6020, 0.5914, 0.6173),
    "rw/base/short/chinchilla/standard/val": (0.5715, 0.5598, 0.5885),
    "rw/tuned/short/const/standard/val": (0.4969, 0.4907, 0.5045),
    "rw/base/long/kaplan/attention/train": (0.7171, 0.7029, 0.7273),
    "rw/base/short/kaplan/attention/train": (0.6223, 0.6072, 0.6320),
    "rw/base/short/chinchilla/attention/train": (0.5772, 0.5620, 0.5925),
    "rw/tuned/short/const/attention/train": (0.5053, 0.4962, 0.5123),
    "rw/tuned/long/const/kaplan/train": (0.7115, 0.7026, 0.7214),
    "owt2/base/long/kaplan/kaplan/train": (0.8635, 0.8186, 0.8974),
    "owt2/base/long/kaplan/standard/val": (0.6985, 0.6644, 0.7245),
    "owt2/base/short/kaplan/standard/val": (0.6032, 0.5702, 0.6287),
    "owt2/base/short/chinchilla/standard/val": (0.5743, 0.5423, 0.6056),
    "owt2/tuned/short/const/standard/val": (0.5185, 0.4931, 0.5414),
}
"""Configuration -> exponent of N_opt and its 95% interval, of the result tables of Porian et al."""


def column(table, name):
    return np.array([float(row[name]) for row in table])


def test_F1_surface_of_the_points_read_off_chinchillas_figure(public_table):
    table = public_table("kyo_takano_llm_df.csv")
    law = SurfaceFit().law(rows(*(column(table, c) for c in ("N", "D", "loss"))))
    s = law.surface
    assert law.value <= 0.000840094 * (1 + 1e-8)
    assert pytest.approx((1.7839, 442.2, 1272), abs=0.5, rel=1e-4) == (s.E, s.A, s.B)
    assert pytest.approx((1.7839, 0.3426, 0.3420), abs=1e-4) == (s.E, s.alpha, s.beta)
    assert s.a == pytest.approx(0.4995, abs=5e-4)
    assert law.start_agreement == 1.0


@pytest.mark.parametrize("config", PORIAN_EXPONENTS)
def test_F2_isoflop_exponents_of_fifteen_configurations(public_table, config):
    a, low, high = PORIAN_EXPONENTS[config]
    chosen = [row for row in public_table("porian_isoflop_points.csv") if row["config"] == config]
    points = rows(
        *(column(chosen, c) for c in ("n", "tokens", "loss")), budget=column(chosen, "flops")
    )
    law = IsoflopFit(curve=Akima(), window=None).law(points)
    assert law.a == pytest.approx(a, abs=0.01)
    assert low <= law.a <= high


@pytest.mark.parametrize(
    ("name", "exponent"),
    [("gemstones_hot_477.csv", 0.4994), ("gemstones_hot_100bplus_477.csv", 0.4579)],
)
def test_F3_envelope_of_the_gemstones_curves(public_table, name, exponent):
    table = [row for row in public_table(name) if float(row["step"]) > 0]
    per_token = {
        (row["width"], row["depth"]): float(row["flops_per_token"])
        for row in public_table("gemstones_flops_per_token.csv")
    }
    sizes = {
        float(row["params_active_precise"]): per_token[row["width"], row["depth"]] for row in table
    }
    rule = FlopRule(tuple(sorted(sizes)), tuple(sizes[n] for n in sorted(sizes)))
    columns = [column(table, c) for c in ("params_active_precise", "tokens", "final_loss")]
    exact = EnvelopeFit().law(rows(*columns, rule=rule))
    formula = EnvelopeFit().law(rows(*columns))
    assert exact.a == pytest.approx(exponent, abs=1e-3)
    assert 0.02 < abs(formula.a - exact.a) < 0.045


def gemstones(public_table, postfix: str) -> Points:
    base = postfix.removesuffix("_no_embeds")
    table = public_table(f"gemstones_{GEMSTONES_FILES.get(base, base)}.csv")
    num_params = column(table, "params_active_precise")
    if base != postfix:
        num_params = num_params - VOCABULARY * column(table, "width")
    return rows(num_params, column(table, "tokens"), column(table, "final_loss"))


def test_F4_no_published_gemstones_optimum_is_better(public_table):
    published = public_table("ref_gemstones_approach3_published.csv")
    assert len(published) == 32
    for reference in published:
        fit = SurfaceFit(objective=Huber(float(reference["delta"])))
        law = fit.law(gemstones(public_table, reference["postfix"]))
        assert law.value <= float(reference["objective"]) + 1e-8, reference
        if (reference["postfix"], reference["delta"]) == ("slim_chinchilla", "0.0001"):
            assert law.value <= 0.975 * float(reference["objective"])


@pytest.mark.parametrize(
    ("convention", "exponent"), [("kaplan", 0.536), ("all", 0.3745), ("transformer_only", 0.6965)]
)
def test_F5_exponent_depends_on_which_parameters_are_counted(public_table, convention, exponent):
    table = [
        row
        for row in public_table("nanochat_jan2026_optima.csv")
        if row["param_convention"] == convention
    ]
    line = PowerLaw.through(column(table, "flops_actual"), column(table, "eff_params"))
    assert line.exponent == pytest.approx(exponent, abs=1e-3)
