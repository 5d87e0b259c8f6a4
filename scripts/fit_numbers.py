"""Writes docs/fitting.md: how the fits work, and their figures against published ones.

    FLOPS_FIT_PUBLIC_TABLES=FOLDER python scripts/fit_numbers.py

FOLDER has the public tables that may not be shipped in examples/.
Takes some minutes, most of them for the simulated sweeps.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from bench_fit import timings
from fit_coverage import (
    as_it_is,
    bias,
    coverage,
    seed_coverage,
    trunk_coverage,
    without_trunk,
)

from flops_fit.fitting import Akima, EnvelopeFit, Huber, IsoflopFit, SurfaceFit
from flops_fit.fitting.examine.sensitivity import bias_on_grid
from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.laws import FlopRule, LossSurface, PowerLaw

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 50304  # of the Gemstones models: embedding rows
GEMSTONES_FILES = {
    "hot_100b+": "hot_100bplus",
    "hot_100b+_512x": "hot_100bplus_512x",
    "hot_120b+_only": "hot_120bplus_only",
}
DRAWS = 1000  # of each simulated sweep
EXPONENT_PAIRS = ((0.31, 0.31), (0.34, 0.28), (0.465, 0.155))

Row = dict[str, str]


def table(name: str) -> list[Row]:
    shipped = ROOT / "examples"
    folder = shipped if (shipped / name).exists() else Path(os.environ["FLOPS_FIT_PUBLIC_TABLES"])
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(rows: list[Row], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in rows])


def points(num_params, num_tokens, loss, rule=None, budget=None) -> Points:
    rule = rule or FlopRule.constant()
    budget = rule(num_params) * num_tokens if budget is None else budget
    ids = tuple(map(str, range(len(loss))))
    return Points(ids, num_params, num_tokens, loss, budget, rule)


def chinchilla_points() -> tuple[str, str]:
    rows = table("kyo_takano_llm_df.csv")
    law = SurfaceFit().law(points(*(column(rows, c) for c in ("N", "D", "loss"))))
    s = law.surface
    found = (
        f"E {s.E:.4f}, A {s.A:.1f}, B {s.B:.0f}, alpha {s.alpha:.4f}, beta {s.beta:.4f}, "
        f"a {s.a:.4f}; objective {law.value:.9f}"
    )
    return "E 1.7839, A 442.2, B 1272, alpha 0.3426, beta 0.3420, a 0.4995; 0.000840094", found


def porian_exponents() -> tuple[str, str]:
    rows, worst, inside = table("porian_isoflop_points.csv"), 0.0, 0
    references = table("ref_porian_published_exponents.csv")
    for ref in references:
        mine = [r for r in rows if (r["table"], r["config"]) == (ref["table"], ref["config"])]
        n, d, loss, budget = (column(mine, c) for c in ("n", "tokens", "loss", "flops"))
        a = IsoflopFit(curve=Akima(), window=None).law(points(n, d, loss, budget=budget)).a
        worst = max(worst, abs(a - float(ref["a"])))
        inside += float(ref["a_lo95"]) <= a <= float(ref["a_hi95"])
    return (
        "15 exponents and their 95% intervals",
        f"largest difference {worst:.4f}; {inside} of {len(references)} inside",
    )


def gemstones_envelopes() -> tuple[str, str]:
    per_token = {
        (r["width"], r["depth"]): float(r["flops_per_token"])
        for r in table("gemstones_flops_per_token.csv")
    }
    found = []
    for name in ("gemstones_hot_477.csv", "gemstones_hot_100bplus_477.csv"):
        rows = [r for r in table(name) if float(r["step"]) > 0]
        sizes = {float(r["params_active_precise"]): per_token[r["width"], r["depth"]] for r in rows}
        rule = FlopRule(tuple(sorted(sizes)), tuple(sizes[n] for n in sorted(sizes)))
        columns = [column(rows, c) for c in ("params_active_precise", "tokens", "final_loss")]
        exact, formula = (EnvelopeFit().law(points(*columns, rule=r)).a for r in (rule, None))
        found.append(f"{exact:.4f} (with 6ND {formula:.4f})")
    return "a 0.4994, 0.4579", ", ".join(found)


def gemstones_surfaces() -> tuple[str, str]:
    ratios, slim = [], 0.0
    for ref in table("ref_gemstones_approach3_published.csv"):
        base = ref["postfix"].removesuffix("_no_embeds")
        rows = table(f"gemstones_{GEMSTONES_FILES.get(base, base)}.csv")
        n = column(rows, "params_active_precise")
        if base != ref["postfix"]:
            n = n - VOCABULARY * column(rows, "width")
        fit = SurfaceFit(objective=Huber(float(ref["delta"])))
        law = fit.law(points(n, column(rows, "tokens"), column(rows, "final_loss")))
        ratios.append(law.value / float(ref["objective"]) - 1)
        if (ref["postfix"], ref["delta"]) == ("slim_chinchilla", "0.0001"):
            slim = ratios[-1]
    above = sum(ratio > 0 for ratio in ratios)
    better = sum(ratio < -1e-6 for ratio in ratios)
    return (
        "32 objectives",
        f"{above} above the published, {better} lower by more than 1e-6 of it; at most "
        f"{max(ratios):+.1e}, at best {min(ratios):+.1%}, slim_chinchilla {slim:+.1%}",
    )


def nanochat_exponents() -> tuple[str, str]:
    found = []
    for convention in ("kaplan", "all", "transformer_only"):
        rows = table("nanochat_jan2026_optima.csv")
        mine = [r for r in rows if r["param_convention"] == convention]
        line = PowerLaw.through(column(mine, "flops_actual"), column(mine, "eff_params"))
        found.append(f"{line.exponent:.4f}")
    return "a 0.536, 0.3745, 0.6965", ", ".join(found)


def noise_free() -> tuple[str, str]:
    errors, differences = [], []
    for alpha, beta in EXPONENT_PAIRS:
        surface = LossSurface(1.69, 406.4, 410.7 if beta > 0.2 else 40.0, alpha, beta)
        runs = simulate_sweep(
            surface, np.geomspace(1e18, 1e20, 5), sizes=np.geomspace(1 / 8, 8, 8), drift=3.0
        )
        sample, _ = usable_points(runs, FlopRule.constant())
        law = SurfaceFit().law(sample)
        errors.append(abs(law.surface.alpha / alpha - 1))
        true = surface.N_opt(1e24, FlopRule.constant())
        shift = float(np.log10(IsoflopFit().law(sample).N_opt(1e24) / true))
        told = bias_on_grid(sample, IsoflopFit(), law, "surface", 1e24)
        differences.append(abs(shift - told.log10_num_params) if told else np.inf)
    return (
        "the planted surface; the bias of approach 2 as estimated",
        f"alpha within {max(errors):.0e}; bias within {max(differences):.0e} of log10 N_opt",
    )


def figures(
    covered: dict[str, float], times: dict[str, float], seeds: int
) -> list[tuple[str, str, str, str]]:
    """Rows of the table: id, what, expected, found."""
    biased = bias(200)
    return [
        ("F1", "Chinchilla's points (Kyo Takano), Huber 1e-3", *chinchilla_points()),
        ("F2", "Porian et al. 2024, IsoFLOP with Akima curves", *porian_exponents()),
        ("F3", "Gemstones, envelope with exact FLOPs", *gemstones_envelopes()),
        ("F4", "Gemstones, approach 3", *gemstones_surfaces()),
        ("F5", "nanochat's optima by which parameters count", *nanochat_exponents()),
        ("F6", "three surfaces without noise, drifting grids", *noise_free()),
        (
            "F7",
            f"coverage of nominal 90% intervals, {seeds} sweeps, 5 budgets x 8 sizes, 0.5% noise",
            "0.85 to 0.97",
            "; ".join(f"{name} {share:.3f}" for name, share in covered.items()),
        ),
        (
            "F8",
            "error of log10 N_opt(1e24), 200 sweeps, asymmetric, centres drifting to 3x",
            "0.005 at most (surface)",
            "; ".join(f"{name} {error:+.4f}" for name, error in biased.items()),
        ),
        (
            "F9",
            "seconds, one core",
            "0.1; 5; 6; 60",
            "; ".join(f"{name} {value:.2f}" for name, value in times.items()),
        ),
        ("F10", "the objective as a mean instead of a sum", "the same optimum", "a test holds it"),
    ]


def coverages(seeds: int) -> dict[str, dict[str, float]]:
    """Kind of sweep -> share of nominal 90% intervals that hold the truth."""
    return {
        "independent runs": coverage(seeds, DRAWS),
        "trunks, drawn whole": trunk_coverage(seeds, DRAWS, as_it_is),
        "trunks, ignored": trunk_coverage(seeds, DRAWS, without_trunk),
        "3 seeds of 8 runs": seed_coverage(seeds, DRAWS),
    }


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=600)
    seeds = parser.parse_args().seeds
    times, covered = timings(), coverages(seeds)
    tables = {
        "<!-- figures -->": markdown(
            ("id", "data", "expected", "found"),
            figures(covered["independent runs"], times, seeds),
        ),
        "<!-- coverage -->": markdown(
            ("method and quantity", *covered),
            (
                (name, *(f"{kind[name]:.3f}" for kind in covered.values()))
                for name in covered["independent runs"]
            ),
        ),
        "<!-- seeds -->": str(seeds),
    }
    text = (ROOT / "docs" / "fitting.template.md").read_text(encoding="utf-8")
    for place, table in tables.items():
        text = text.replace(place, table)
    (ROOT / "docs" / "fitting.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
