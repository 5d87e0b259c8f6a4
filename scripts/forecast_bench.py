"""How laws forecast what was measured later, on public sweeps and on simulated ones.

    python scripts/forecast_bench.py            # writes docs/forecasts.md, about 10 minutes
    python scripts/forecast_bench.py --quick    # prints a small part

Public: of every sweep in examples/ the budgets up to a cut (four at least) are fitted, and the
optimum of each later budget, by a parabola through its own losses, is forecast; its distance is its
FLOPs over those of the largest fitted one. Tables without budgets: their dearest rows are forecast.
Simulated: sweeps of a surface with noise, and of surfaces that the fitted form can't have.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core: threads would fight

import numpy as np

from flops_fit.fitting import CombinedFit, FitError, IsoflopFit, SurfaceFit
from flops_fit.fitting.points import Points, usable_points
from flops_fit.fitting.simulation import simulate_sweep, simulate_trunks
from flops_fit.laws import Array, FlopRule, LossSurface
from flops_fit.plan.run import Run, Status

ROOT = Path(__file__).parent.parent
EXAMPLES, PAGE = ROOT / "examples", ROOT / "docs" / "forecasts.md"

METHODS: dict[str, Any] = {
    "auto": CombinedFit(),
    "isoflop": IsoflopFit(),
    "surface": SurfaceFit(),
    "surface within 4x": SurfaceFit(within=4.0),
}
FEWEST_BUDGETS = 4
DISTANCES = ((1.0, 2.5), (2.5, 8.0), (8.0, 40.0))
"""Target over the largest fitted budget; both ends belong to the nearer bin."""

SAME = 1.001
DRAWS = 1000
TAILS = {80: (0.1, 0.9), 90: (0.05, 0.95), 95: (0.025, 0.975)}
RULE = FlopRule.constant()


@dataclass(frozen=True)
class Forecast:
    """A forecast less what was measured, in ln of loss and of N, and whether it was inside.

    `inside` has keys such as ("loss", 95); `width` is that of the 95% interval of ln loss.
    """

    source: str
    method: str
    distance: float
    loss_error: float
    size_error: float
    inside: Mapping[tuple[str, int], bool]
    width: float


# --- public sweeps


def porian() -> dict[str, Points]:
    """The fifteen sweeps of Porian et al. 2024."""
    rows: dict[str, list[Run]] = defaultdict(list)
    with (EXAMPLES / "porian_isoflop_points.csv").open() as file:
        for row in csv.DictReader(file):
            rows[row["config"] + " " + row["table"]].append(_run(row, "n", "tokens", "flops"))
    return {name: usable_points(runs, RULE)[0] for name, runs in rows.items()}


def table(name: str, n: str, d: str, flops: str | None = None) -> Points:
    """A table of examples/ without budgets."""
    with (EXAMPLES / f"{name}.csv").open() as file:
        runs = [_run(row, n, d, flops) for row in csv.DictReader(file)]
    return usable_points(runs, RULE)[0]


def _run(row: Mapping[str, str], n: str, d: str, flops: str | None) -> Run:
    num_params, num_tokens = float(row[n]), float(row[d])
    spent = float(row[flops]) if flops else float(RULE(num_params)) * num_tokens
    return Run(
        id="/".join(row.values()),
        status=Status.COMPLETED,
        num_params=num_params,
        num_tokens=num_tokens,
        flops=spent,
        loss=float(row["loss"]),
        budget=spent,
    )


def measured(points: Points) -> list[tuple[float, float, float]]:
    """FLOPs, N and loss of each budget's own minimum, where it is bracketed."""
    fit = IsoflopFit()
    optima = fit.optima(points, fit.noise(points))
    return [(o.flops, o.N_opt, o.loss) for o in optima if o.is_bracketed]  # type: ignore[misc]


def of_sweep(methods: Sequence[str], named: tuple[str, Points]) -> list[Forecast]:
    """All forecasts of one public sweep."""
    name, points = named
    targets = measured(points)
    budgets = sorted(set(points.budget.tolist()))
    found = []
    for newest in budgets[FEWEST_BUDGETS - 1 : -1]:
        part = points.where(points.budget <= newest)
        later = [t for t in targets if newest * SAME < t[0] <= DISTANCES[-1][1] * newest * SAME]
        for method in methods:
            found += _forecasts(name, method, part, newest, later)
    return found


def _forecasts(
    source: str,
    method: str,
    points: Points,
    newest: float,
    targets: Iterable[tuple[float, float, float]],
) -> Iterator[Forecast]:
    """What a method says of optima (FLOPs, N, loss); nothing where it refuses."""
    try:
        fitted = METHODS[method].fitted(points, DRAWS, seed=0)
    except FitError:
        return
    law, draws = fitted.law, fitted.draws
    for flops, n, loss in targets:
        said = {"loss": float(np.log(law.loss_opt(flops))), "N": float(np.log(law.N_opt(flops)))}
        true = {"loss": float(np.log(loss)), "N": float(np.log(n))}
        drawn = {}
        if draws is not None:
            drawn = {"loss": np.log(draws.loss_opt(flops)), "N": np.log(draws.N_opt(flops))}
        yield Forecast(
            source=source,
            method=method,
            distance=flops / newest,
            loss_error=said["loss"] - true["loss"],
            size_error=said["N"] - true["N"],
            inside=_inside(drawn, true),
            width=float(np.ptp(np.quantile(drawn["loss"], TAILS[95]))) if drawn else np.nan,
        )


def _inside(drawn: Mapping[str, Array], true: Mapping[str, float]) -> dict[tuple[str, int], bool]:
    found = {}
    for what, draws in drawn.items():
        for level, tails in TAILS.items():
            low, high = np.quantile(draws, tails)
            found[what, level] = bool(low <= true[what] <= high)
    return found


def of_rows(name: str, fitted: Points, held: Points) -> dict[str, Any]:
    """The losses of single runs, forecast by their N and D."""
    result = METHODS["auto"].fitted(fitted, 4 * DRAWS, seed=0)
    said = result.law(held.num_params, held.num_tokens)
    inside = []
    for n, d, loss in zip(held.num_params, held.num_tokens, held.loss, strict=True):
        low, high = np.quantile(result.draws(n, d), TAILS[95])
        inside.append(low <= loss <= high)
    squares = float(np.sum((said - held.loss) ** 2))
    return {
        "name": name,
        "runs": len(fitted),
        "held": len(held),
        "R2": 1 - squares / float(np.sum((held.loss - held.loss.mean()) ** 2)),
        "error": float(np.median(np.abs(np.log(said / held.loss)))),
        "inside": sum(inside),
        "parts": {key: round(part.for_loss, 2) for key, part in result.law.parts.items()},
    }


# --- simulated sweeps

CHINCHILLA = LossSurface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
TOP = 1e20
MULTIPLES = (10.0, 100.0)
NOISE = 0.005

Loss = Callable[[Array, Array, float], Array]
"""N (n,), D (n,) and their budget -> loss (n,)."""


def right(n: Array, d: Array, budget: float) -> Array:
    return CHINCHILLA(n, d)


def interacting(n: Array, d: Array, budget: float) -> Array:
    """Larger models make less of the same data."""
    return replace(CHINCHILLA, kappa=0.05, B=160.0)(n, d)


def small_sizes_worse(n: Array, d: Array, budget: float) -> Array:
    """By 1% a decade of N below 3e8, at most."""
    return np.asarray(CHINCHILLA(n, d) * (1 + 0.01 * np.clip(np.log10(3e8 / n), 0, 1)))


def drifting(n: Array, d: Array, budget: float) -> Array:
    """The recipe is worse by 1% for each decade below the largest budget."""
    return np.asarray(CHINCHILLA(n, d) * (1 + 0.01 * max(np.log10(TOP / budget), 0)))


def steep_arms(n: Array, d: Array, budget: float) -> Array:
    """Beyond a factor e of the optimum the loss rises faster than the form can."""
    far = np.maximum(np.abs(np.log(n / CHINCHILLA.N_opt(budget, RULE))) - 1, 0)
    return np.asarray(CHINCHILLA(n, d) * (1 + 0.03 * far**2))


@dataclass(frozen=True)
class Design:
    """A kind of simulated sweep: budgets up to `TOP`, sizes within `span` of the optimum."""

    loss: Loss = right
    budgets: int = 5
    sizes: int = 8
    span: float = 8.0
    seeds: int = 1
    trunks: bool = False

    def points(self, seed: int) -> Points:
        budgets = np.geomspace(TOP / 100, TOP, self.budgets)
        if self.trunks:
            runs = simulate_trunks(
                CHINCHILLA, budgets, num_sizes=self.sizes, span=self.span, noise=NOISE, shared=0.8,
                seed=seed,
            )  # fmt: skip
            return usable_points(runs, RULE)[0]
        ratios = np.geomspace(1 / self.span, self.span, self.sizes)
        generator = np.random.default_rng(seed)
        runs = []
        for repeat in range(self.seeds):
            clean = simulate_sweep(CHINCHILLA, budgets, sizes=ratios)
            runs += [self._noisy(run, repeat, generator) for run in clean]
        return usable_points(runs, RULE)[0]

    def _noisy(self, run: Run, repeat: int, generator: np.random.Generator) -> Run:
        n, d = np.array([run.num_params]), np.array([run.num_tokens])
        loss = self.loss(n, d, run.budget)[0] * np.exp(NOISE * generator.standard_normal())
        return replace(run, id=f"{run.id}-{repeat}", seed=repeat, loss=float(loss))

    def truth(self, flops: float) -> tuple[float, float, float]:
        """FLOPs, N and loss of the real optimum."""
        n = np.geomspace(1e6, 1e13, 40_001)
        loss = self.loss(n, RULE.tokens(flops, n), flops)
        best = int(np.argmin(loss))
        return flops, float(n[best]), float(loss[best])


DESIGNS = {
    "right: 5 budgets x 8 sizes": Design(),
    "right: 4 x 5": Design(budgets=4, sizes=5, span=5.0),
    "right: 3 x 6": Design(budgets=3, sizes=6, span=5.0),
    "right: trunks": Design(trunks=True),
    "right: 3 x 4, 3 seeds": Design(budgets=3, sizes=4, span=5.0, seeds=3),
    "wrong: interaction of N and D": Design(loss=interacting),
    "wrong: small sizes 1% worse": Design(loss=small_sizes_worse),
    "wrong: drifting recipe": Design(loss=drifting),
    "wrong: steep arms": Design(loss=steep_arms),
}


def of_simulated(methods: Sequence[str], named: tuple[str, int]) -> list[Forecast]:
    """Forecasts of one simulated sweep."""
    name, seed = named
    design = DESIGNS[name]
    points = design.points(seed)
    targets = [design.truth(multiple * TOP) for multiple in MULTIPLES]
    return [f for m in methods for f in _forecasts(name, m, points, TOP, targets)]


# --- tables


def public_table(found: Sequence[Forecast], methods: Sequence[str]) -> list[str]:
    lines = [
        "| method | times beyond | forecasts | median error of loss | 90% under | "
        "loss inside 80% | inside 95% | width of 95% | median error of N, decades | 90% under | "
        "N inside 80% | inside 95% |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        for low, high in DISTANCES:
            mine = [
                f for f in found if f.method == method and low * SAME < f.distance <= high * SAME
            ]
            lines.append(f"| {method} | {low:g} to {high:g} | {_row(mine)} |")
    return lines


def _row(mine: Sequence[Forecast]) -> str:
    loss = np.abs([f.loss_error for f in mine])
    size = np.abs([f.size_error for f in mine]) / np.log(10)
    return " | ".join(
        [
            str(len(mine)),
            f"{np.median(loss):.2%}",
            f"{np.quantile(loss, 0.9):.1%}",
            _share(mine, "loss", 80),
            _share(mine, "loss", 95),
            f"{np.nanmedian([f.width for f in mine]):.1%}",
            f"{np.median(size):.3f}",
            f"{np.quantile(size, 0.9):.2f}",
            _share(mine, "N", 80),
            _share(mine, "N", 95),
        ]
    )


def _share(mine: Sequence[Forecast], what: str, level: int) -> str:
    known = [f.inside[what, level] for f in mine if f.inside]
    return f"{np.mean(known):.2f}" if known else ""


def simulated_table(found: Sequence[Forecast], methods: Sequence[str]) -> list[str]:
    lines = [
        "| sweeps | method | times beyond | median error of loss | loss inside 90% | "
        "median error of N, decades | N inside 90% |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in DESIGNS:
        for method in methods:
            for multiple in MULTIPLES:
                mine = [
                    f
                    for f in found
                    if (f.source, f.method) == (name, method)
                    and np.isclose(f.distance, multiple, rtol=0.01)
                ]
                if not mine:
                    continue
                loss = np.median(np.abs([f.loss_error for f in mine]))
                size = np.median(np.abs([f.size_error for f in mine])) / np.log(10)
                cells = (
                    f"{loss:.2%}",
                    _share(mine, "loss", 90),
                    f"{size:.3f}",
                    _share(mine, "N", 90),
                )
                lines.append(f"| {name} | {method} | {multiple:g} | {' | '.join(cells)} |")
    return lines


def rows_table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| table | fitted | forecast | R^2 | median error of loss | inside 95% | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in found:
        weights = ", ".join(f"{name} {weight:g}" for name, weight in f["parts"].items())
        lines.append(
            f"| {f['name']} | {f['runs']} runs | {f['held']} dearest | {f['R2']:.3f} | "
            f"{f['error']:.2%} | {f['inside']} of {f['held']} | {weights} |"
        )
    return lines


def row_forecasts() -> list[dict[str, Any]]:
    farseer = (table(f"scalebench_farseer_{part}", "N", "D") for part in ("train", "test"))
    kyo = table("kyo_takano_llm_df", "N", "D", "C")
    dear = kyo.flops > np.quantile(kyo.flops, 0.9)
    return [
        of_rows("farseer", *farseer),
        of_rows("Chinchilla, figure 4", kyo.where(~dear), kyo.where(dear)),
    ]


BARS = {
    (1.0, 2.5): (0.006, 0.023, 0.03),
    (2.5, 8.0): (0.02, 0.05, 0.045),
    (8.0, 40.0): (0.04, 0.09, 0.07),
}
"""Distance -> most that the answer may err on public sweeps: median and 90% of the errors of the
loss, median of N in decades."""

HELD = {80: (0.70, 0.92), 95: (0.88, 0.99)}
"""Nominal level -> share of what was measured that its intervals must hold, at each distance."""


def missed(found: Sequence[Forecast]) -> list[str]:
    """The bars that the answer misses on public sweeps, and by how much."""
    said = []
    for (low, high), bars in BARS.items():
        mine = [f for f in found if f.method == "auto" and low * SAME < f.distance <= high * SAME]
        loss = np.abs([f.loss_error for f in mine])
        size = np.abs([f.size_error for f in mine]) / np.log(10)
        reached = (np.median(loss), np.quantile(loss, 0.9), np.median(size))
        names = ("median error of loss", "90% of errors of loss", "median error of N, decades")
        said += [
            f"{low:g} to {high:g} times beyond: {name} is {is_:.4f}, {bar:g} at most"
            for name, is_, bar in zip(names, reached, bars, strict=True)
            if is_ > bar
        ]
        for what in ("loss", "N"):
            for level, (least, most) in HELD.items():
                share = float(np.mean([f.inside[what, level] for f in mine]))
                if not least <= share <= most:
                    said.append(
                        f"{low:g} to {high:g} times beyond: {share:.2f} of {what} inside {level}%, "
                        f"{least:g} to {most:g} expected"
                    )
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three sweeps, few seeds; prints")
    parser.add_argument("--seeds", type=int, default=60, help="simulated sweeps of each kind")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    sweeps = list(porian().items())[:: 5 if options.quick else 1]
    seeds = range(4 if options.quick else options.seeds)
    simulated = [m for m in options.methods if m in ("auto", "isoflop", "surface")]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(partial(of_sweep, options.methods), sweeps)
        public = list(chain.from_iterable(found))
        jobs = [(name, seed) for name in DESIGNS for seed in seeds]
        found = pool.map(partial(of_simulated, simulated), jobs, chunksize=4)
        drawn = list(chain.from_iterable(found))
    blocks = {
        "public": public_table(public, options.methods),
        "rows": rows_table(row_forecasts()),
        "simulated": simulated_table(drawn, simulated),
    }
    for name, lines in blocks.items():
        if options.quick:
            print("\n".join(lines), end="\n\n")
        else:
            from marked_block import write_block

            write_block(PAGE, name, "\n".join(lines))
    bars = [] if options.quick or "auto" not in options.methods else missed(public)
    print("\n".join(f"MISSED {bar}" for bar in bars) or "all bars reached")
    return 1 if bars else 0


if __name__ == "__main__":
    sys.exit(main())
