"""Writes docs/compare-fits.md: our fits beside other tools on the same rows.

    OMP_NUM_THREADS=1 python scripts/compare_fits.py

The `chinchilla` package takes part where it can be imported; it is no dependency of ours:
`pip install chinchilla` into an environment of its own that also has flops-fit. Minutes.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from flops_fit.fitting import Huber, IsoflopFit, SurfaceFit
from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.simulation import simulate_sweep
from flops_fit.fitting.surface.fit import STARTS_PER_SIDE
from flops_fit.fitting.surface.objectives import HOFFMANN_DELTA
from flops_fit.laws import FlopRule, LossSurface, PowerLaw

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_TABLE = ROOT / "examples" / "kyo_takano_llm_df.csv"
PLANTED = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)

HOFFMANN_STARTS = list(
    product(
        np.arange(0, 30, 5.0),  # a = ln A
        np.arange(0, 30, 5.0),  # b = ln B
        np.arange(-1, 1.5, 0.5),  # e = ln E
        np.arange(0, 2.5, 0.5),  # alpha
        np.arange(0, 2.5, 0.5),  # beta
    )
)
"""Hoffmann et al. 2022, appendix D.3."""

CHINCHILLA_GRID = {
    "E": np.linspace(1, 2, 5),
    "a": np.linspace(1, 10, 5),  # ln A
    "b": np.linspace(1, 10, 5),  # ln B
    "alpha": np.linspace(0.1, 0.7, 5),
    "beta": np.linspace(0.1, 0.7, 5),
}
"""Of the package's own README."""

NUM_BUDGETS, NUM_SIZES, NOISE = 5, 8, 0.005
"""Of the simulated sweep; the noise is relative."""

LONG_SECONDS = 60.0
"""A tool that has taken longer is not run again."""


@dataclass(frozen=True)
class Found:
    """What a tool found: the exponent of N_opt, and the surface where it has one."""

    a: float
    starts: int
    surface: LossSurface | None = None


Tool = Callable[[Points], Found]


def ours(points: Points) -> Found:
    surface = SurfaceFit().law(points).surface
    return Found(surface.a, STARTS_PER_SIDE**2, surface)


def ours_by_budget(points: Points) -> Found:
    return Found(IsoflopFit().law(points).a, 1)


def scipy_grid(points: Points) -> Found:
    """L-BFGS-B from every start of Hoffmann's grid, with the exact gradient."""
    log_n, log_d, log_loss = (
        np.log(v) for v in (points.num_params, points.num_tokens, points.loss)
    )

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = x
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
        predicted = logsumexp(terms, axis=0)
        residual = predicted - log_loss
        pull = np.clip(residual, -HOFFMANN_DELTA, HOFFMANN_DELTA)
        value = np.sum(pull * (residual - 0.5 * pull))
        by_a, by_b, by_e = np.exp(terms - predicted) * pull
        slopes = [by_a.sum(), by_b.sum(), by_e.sum(), -by_a @ log_n, -by_b @ log_d]
        return float(value), np.array(slopes)

    ends = [minimize(objective, start, jac=True, method="L-BFGS-B") for start in HOFFMANN_STARTS]
    a, b, e, alpha, beta = min(ends, key=lambda end: end.fun).x
    surface = LossSurface(*map(float, (np.exp(e), np.exp(a), np.exp(b), alpha, beta)))
    return Found(surface.a, len(ends), surface)


def chinchilla_package(points: Points) -> Found:
    """The package's own BFGS in extended precision, numerical gradients, on one core."""
    os.environ["MPLBACKEND"] = "Agg"
    from chinchilla import Chinchilla

    def huber(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return Huber(HOFFMANN_DELTA).values(predicted, measured)

    with tempfile.TemporaryDirectory() as folder:
        columns = (points.flops, points.num_params, points.num_tokens, points.loss)
        table = np.column_stack(columns)
        np.savetxt(f"{folder}/df.csv", table, delimiter=",", header="C,N,D,loss", comments="")
        fit = Chinchilla(
            folder,
            param_grid=CHINCHILLA_GRID,
            loss_fn=huber,
            log_level=50,
        )
        fit.fit(parallel=False)
    surface = LossSurface(*(float(fit.params[k]) for k in ("E", "A", "B", "alpha", "beta")))
    return Found(surface.a, math.prod(map(len, CHINCHILLA_GRID.values())), surface)


def numpy_parabola(points: Points) -> Found:
    """A parabola in ln N through all losses of each budget, a line through the minima."""
    optima = []
    for budget in points.budgets:
        mine = points.budget == budget
        square, linear, _ = np.polyfit(np.log(points.num_params[mine]), points.loss[mine], 2)
        optima.append(np.exp(-linear / (2 * square)))
    return Found(PowerLaw.through(points.budgets, optima).exponent, 1)


def public_points() -> Points:
    with PUBLIC_TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    n, d, loss = (np.array([float(row[name]) for row in rows]) for name in ("N", "D", "loss"))
    rule = FlopRule.constant()
    return Points(tuple(map(str, range(len(rows)))), n, d, loss, rule(n) * d, rule)


def synthetic_points() -> Points:
    budgets, sizes = np.geomspace(1e18, 1e20, NUM_BUDGETS), np.geomspace(1 / 8, 8, NUM_SIZES)
    runs = simulate_sweep(PLANTED, budgets, sizes=sizes, noise=NOISE, seed=0)
    return usable_points(runs, FlopRule.constant())[0]


def measured(tools: Mapping[str, Tool], points: Points, repeats: int) -> dict[str, str]:
    """Tool -> row of the table. Tools take turns, so that a busy machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    found = {}
    for _ in range(repeats):
        for name, tool in tools.items():
            if sum(seconds[name]) > LONG_SECONDS:
                continue
            start = time.perf_counter()
            found[name] = tool(points)
            seconds[name].append(time.perf_counter() - start)
    objectives = {name: objective(f.surface, points) for name, f in found.items()}
    least = min(value for value in objectives.values() if value is not None)
    return {name: row(f, objectives[name], least, seconds[name]) for name, f in found.items()}


def objective(surface: LossSurface | None, points: Points) -> float | None:
    """Summed Huber penalty of the log loss, by one formula for all tools."""
    if surface is None:
        return None
    predicted = surface(points.num_params, points.num_tokens)
    return float(Huber(HOFFMANN_DELTA).values(predicted, points.loss).sum())


def row(found: Found, value: float | None, least: float, seconds: list[float]) -> str:
    fitted = " | " if value is None else f"{value:.9f} | {value / least - 1:.1e}"
    return f"{found.starts:,} | {fitted} | {found.a:.4f} | {statistics.median(seconds):.3g} |"


def chinchilla_version() -> str | None:
    try:
        return version("chinchilla")
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    surfaces = {"flops-fit, `SurfaceFit`": ours, "scipy L-BFGS-B, Hoffmann's grid": scipy_grid}
    package = chinchilla_version()
    if package:
        surfaces[f"`chinchilla` {package}, BFGS"] = chinchilla_package
    curves = {"flops-fit, `IsoflopFit`": ours_by_budget, "numpy parabolas": numpy_parabola}
    public, synthetic = public_points(), synthetic_points()
    lines = []
    for data, points, tools in (
        (f"Chinchilla's points ({len(public)} rows)", public, surfaces),
        (f"simulated, a = {PLANTED.a:.4f} ({len(synthetic)} rows)", synthetic, surfaces | curves),
    ):
        lines += [f"| {data} | {n} | {r}" for n, r in measured(tools, points, repeats).items()]
    text = TEMPLATE.format(
        rows="\n".join(lines),
        delta=HOFFMANN_DELTA,
        repeats=repeats,
        long=LONG_SECONDS,
        noise=NOISE,
        budgets=NUM_BUDGETS,
        sizes=NUM_SIZES,
        package=WITH_PACKAGE if package else WITHOUT_PACKAGE,
    )
    (ROOT / "docs" / "compare-fits.md").write_text(text, encoding="utf-8")
    print(text)


WITH_PACKAGE = """`chinchilla` minimises the mean by BFGS with
numerical gradients in extended precision, from the grid of its own README, here on one core."""

WITHOUT_PACKAGE = "The `chinchilla` package was not\ninstalled here."

TEMPLATE = """# Our fits beside other tools

Written by `scripts/compare_fits.py`. All tools see the same rows. The objective is the summed Huber
penalty ({delta:g}) of the error of ln L, computed by one formula at what each tool found; "above"
is relative to the least of them. Seconds are medians of up to {repeats} runs on one core in which
the tools took turns; a tool that has taken {long:g} seconds is not run again.

| rows | tool | starts | objective | above | a | seconds |
|---|---|---|---|---|---|---|
{rows}

Chinchilla's points were read off the paper's figure: no two of them share a budget, so curves per
budget exist for the simulated sweep only ({budgets} budgets of {sizes} sizes, noise {noise:.1%});
ours also judge each budget. scipy gets the exact gradient. {package}
"""


if __name__ == "__main__":
    main()
