"""Whether a table whose losses were shuffled is ever called usable, and true ones still are.

    python scripts/permuted_tables.py           # 3,000 shuffled tables, about 5 minutes
    python scripts/permuted_tables.py --quick   # a small part
    python scripts/permuted_tables.py --whole   # fits those too whose losses are found in no order

The losses of public sweeps and tables (examples/) and of simulated sweeps are shuffled among all
rows, among those of each budget, or among those of each size, and fitted as anyone's table would
be. Nothing can be told from such a table; its verdict must say so. Where the losses are found to
be in no order it does, whatever the fit (flops_fit/fitting/examine/words.py): those are not fitted,
but for `--whole`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from forecast_bench import DESIGNS, Design, porian, table
from numpy.typing import NDArray

from flops_fit.fitting import FitError, fit_runs
from flops_fit.fitting.examine.order import orders, places_in_budget
from flops_fit.fitting.points import Points

DRAWS = 1000

SMALL = {
    "2 x 4": Design(budgets=2, sizes=4, span=4.0),
    "2 x 5": Design(budgets=2, sizes=5, span=4.0),
    "3 x 3": Design(budgets=3, sizes=3, span=4.0),
    "3 x 4": Design(budgets=3, sizes=4, span=4.0),
    "3 x 5": Design(budgets=3, sizes=5, span=4.0),
    "4 x 4": Design(budgets=4, sizes=4, span=4.0),
    "5 x 5": Design(budgets=5, sizes=5, span=4.0),
    "5 x 7": Design(budgets=5, sizes=7, span=4.0),
}

KINDS = ("all rows", "each budget", "each size")
"""Among which rows losses are shuffled."""

USABLE = ("Good to", "Good for the loss only", "Good for N only")
"""How a verdict begins that lets something be relied on."""


def tables(simulated: int) -> Iterator[tuple[str, Points]]:
    """Every public table, and `simulated` sweeps of each design."""
    yield from porian().items()
    yield "Chinchilla, figure 4", table("kyo_takano_llm_df", "N", "D", "C")
    yield "farseer", table("scalebench_farseer_train", "N", "D")
    for name, design in {**SMALL, **DESIGNS}.items():
        for seed in range(simulated):
            yield f"{name} / {seed}", design.points(seed)


def shuffled(points: Points, kind: str, seed: int) -> Points:
    """The table with its losses among other rows of the same group."""
    generator = np.random.default_rng([seed, *np.array([points.loss.sum()]).view(np.uint32)])
    loss = points.loss.copy()
    group = groups(points, kind)
    for rows in (np.flatnonzero(group == g) for g in np.unique(group)):
        loss[rows] = loss[generator.permutation(rows)]
    return points.with_loss(loss)


def groups(points: Points, kind: str) -> NDArray[np.int64]:
    """A number for each row, (n,), equal for rows whose losses may change places.

    Sweeps whose sizes follow their budgets have hardly one twice: there it is the place within
    the budget.
    """
    if kind == "all rows":
        return np.zeros(len(points), dtype=np.int64)
    _, budget = np.unique(points.budget, return_inverse=True)
    if kind == "each budget":
        return budget
    sizes, size = np.unique(points.num_params, return_inverse=True)
    lengths = len(set(zip(points.num_params, points.num_tokens, strict=True)))
    if len(sizes) < min(len(points), lengths) / 2:
        return size
    return places_in_budget(points, budget)


def verdict_of(points: Points) -> str:
    """The verdict, or that there is no law."""
    try:
        law = fit_runs(points.runs, draws=DRAWS)
    except FitError as error:
        return f"no law: {error}"
    return law.diagnostics.verdict


NO_ORDER, UNCHANGED = "in no order", "by chance as it is"

Task = tuple[str, str, int, Points, bool]
"""Name, among which rows losses are shuffled, seed, table, whether it is fitted in any case."""


def judged(task: Task) -> tuple[str, str, int, str]:
    name, kind, seed, points, is_fitted = task
    as_it_is, points = points, shuffled(points, kind, seed) if kind else points
    if kind and np.array_equal(as_it_is.loss, points.loss):  # one order of few
        return name, kind, seed, UNCHANGED
    if not is_fitted and not all(one.is_clear for one in orders(points)):
        return name, kind, seed, NO_ORDER
    return name, kind, seed, verdict_of(points)


def tasks(simulated: int, shuffles: int, *, whole: bool) -> Iterator[Task]:
    for name, points in tables(simulated):
        yield name, "", 0, points, True
        for kind in KINDS:
            if len(np.unique(groups(points, kind))) < len(points):
                for seed in range(shuffles):
                    yield name, kind, seed, points, whole


def short(verdict: str) -> str:
    """What a verdict lets be relied on."""
    said = next((word for word in USABLE if verdict.startswith(word)), None)
    return said or re.split(r"[:.]| beyond| even", verdict)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few tables and shuffles")
    parser.add_argument("--whole", action="store_true", help="fit all of them")
    parser.add_argument("--simulated", type=int, default=4, help="sweeps of each design")
    parser.add_argument("--shuffles", type=int, default=12, help="of each kind and table")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    counts_of = (1, 1) if options.quick else (options.simulated, options.shuffles)
    todo = [*tasks(*counts_of, whole=options.whole)]
    counts: Mapping[str, Counter[str]] = {kind: Counter() for kind in ("", *KINDS)}
    with ProcessPoolExecutor(options.workers) as pool:
        for name, kind, seed, verdict in pool.map(judged, todo, chunksize=8):
            counts[kind][short(verdict)] += 1
            if kind == "" or short(verdict) in USABLE:
                how = f"shuffled in {kind}, {seed}" if kind else "as it is"
                print(f"{name}, {how}: {verdict}", flush=True)
    for kind, found in counts.items():
        print(f"{kind or 'as they are'}: {sum(found.values())} tables: {dict(found)}")
    passed = sum(counts[kind][word] for kind in KINDS for word in USABLE)
    print(f"{passed} of {sum(sum(counts[k].values()) for k in KINDS)} shuffled tables are believed")
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())
