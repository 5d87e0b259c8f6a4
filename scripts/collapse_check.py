"""Writes docs/collapse.md: how often wrong learning rates are seen in training curves.

    OMP_NUM_THREADS=1 python scripts/collapse_check.py [--seeds 100 101 ..] [--folder FOLDER]

Simulated sweeps take seconds, real ones of mlp on toy about 50 s a seed and recipe. A rule of the
learning rate is planted that suits the smallest budget and is off by a factor of 4 at the largest.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import log
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from flops_fit import PowerRule, find_optimal
from flops_fit.datasets import Toy
from flops_fit.fitting.collapse import DESCENT, GROWTH, MARGIN, Collapse, Curve, collapse
from flops_fit.models import MLP
from flops_fit.store.folder import StudyFolder
from flops_fit.study.curves import curves_near_optima
from flops_fit.training.curve import CURVE_POINTS, log_spaced

PAGE = Path(__file__).resolve().parents[1] / "docs" / "collapse.md"

WRONG = 4.0
"""Factor by which a planted rate is off at the largest budget."""

RATES = {"right": 1.0, f"{WRONG:g} times too high": WRONG, f"{WRONG:g} times too low": 1 / WRONG}
"""Name -> factor at the largest budget; in between a power of the budget."""

SIMULATED = 100
"""Sweeps of each kind."""

SIMULATED_BUDGETS = np.geomspace(1e17, 1e19, 5)
SIZES_EACH = 3

REAL_BUDGETS = (1e8, 3e8, 1e9, 3e9)
"""FLOPs: runs of 800 to 4000 steps."""

BATCH, AT_TOKENS = 64, 5e4
"""Samples per step: the recipe's, and with a batch that grows, that of a run of so many tokens."""


@dataclass(frozen=True)
class Row:
    """What came of sweeps of one kind."""

    kind: str
    rates: str
    found: Sequence[Collapse]

    def __str__(self) -> str:
        drifts = np.exp([one.drift for one in self.found])
        low, middle, high = np.quantile(drifts, (0.05, 0.5, 0.95))
        flagged = sum(one.drifts for one in self.found)
        n = len(self.found)
        return (
            f"| {self.kind} | {self.rates} | {n} | {flagged / n:.0%} | {middle:.2g} "
            f"({low:.2g} to {high:.2g}) |"
        )


def simulated_sweep(factor: float, growth: float, generator: np.random.Generator) -> list[Curve]:
    """Curves of the model in flops_fit/fitting/collapse.py with another b, and noise of a batch of
    64; the noise share grows as C^growth and with the rate."""
    descent, share = generator.uniform(0.35, 0.75), generator.uniform(0.2, 1.0)
    floor, reducible = generator.uniform(0.05, 1.5), generator.uniform(0.5, 2.0)
    smallest, largest = SIMULATED_BUDGETS[[0, -1]]
    curves = []
    for budget in SIMULATED_BUDGETS:
        ratio = budget / smallest
        noise = share * ratio**growth * factor ** (log(ratio) / log(largest / smallest))
        left, num_steps = reducible * ratio**-0.15, int(800 * ratio**0.35)
        rate = cosine(num_steps)
        spent = np.cumsum(rate) / rate.sum()
        expected = floor + left * (spent**-descent + noise * rate)
        curves += [
            observed(f"C{budget:.0e}-{k}", float(budget), expected, floor + left, rate, generator)
            for k in range(SIZES_EACH)
        ]
    return curves


def cosine(num_steps: int, warmup: float = 0.05) -> np.ndarray:
    x = (np.arange(num_steps) + 1) / num_steps
    decay = 0.5 * (1 + np.cos(np.pi * (x - warmup) / (1 - warmup)))
    return np.where(x <= warmup, x / warmup, decay)


def observed(
    name: str, budget: float, expected: np.ndarray, final: float, rate: np.ndarray,
    generator: np.random.Generator,
) -> Curve:  # fmt: skip
    """The curve as metrics.jsonl has it: relative noise of 0.15 a step, 0.3% at the end."""
    num_steps = len(expected)
    steps = np.array(sorted(log_spaced(num_steps, CURVE_POINTS)))
    sums = np.concatenate([[0], np.cumsum(expected * generator.normal(1, 0.15, num_steps))])
    before = np.concatenate([[0], steps[:-1]])
    loss = (sums[steps] - sums[before]) / (steps - before)
    end = final * generator.normal(1, 0.003)
    return Curve(name, budget, 1.0, steps / num_steps, loss, rate[steps - 1], end, num_steps)


def simulated_rows() -> Iterator[Row]:
    for growth in (0.0, GROWTH / 2, GROWTH):
        for rates, factor in RATES.items():
            generator = np.random.default_rng(0)
            found = [collapse(simulated_sweep(factor, growth, generator)) for _ in range(SIMULATED)]
            kind = f"simulated, noise share as C^{growth:g}"
            yield Row(kind, rates, [one for one in found if one])


@dataclass(frozen=True)
class Recipe:
    """How real sweeps are trained: the rate that suits the smallest budget, and the batch."""

    words: str
    rate: float
    batch: dict[str, object]


RECIPES = (
    Recipe("mlp on toy as shipped (batch 64)", 0.01, {"batch_size": BATCH}),
    Recipe(
        "mlp on toy, batch as D^0.5",
        0.015,
        {"batch_rule": PowerRule(BATCH / AT_TOKENS**0.5, num_tokens_exponent=0.5)},
    ),
)


def real_sweep(recipe: Recipe, factor: float, seed: int, folder: Path) -> list[Curve]:
    """Trains four budgets of three sizes; runs that are in the folder are not trained again."""
    smallest, largest = REAL_BUDGETS[0], REAL_BUDGETS[-1]

    def rate(num_params: float, num_tokens: float) -> float:
        along = log(6 * num_params * num_tokens / smallest) / log(largest / smallest)
        return recipe.rate * factor ** min(max(along, 0.0), 1.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = find_optimal(
            model_cls=MLP,
            model_size_param="width",
            model_kwargs={"in_features": 8, "depth": 3, "base_width": 32},
            min_size=4,
            dataset=DATA,
            loss_fn=F.mse_loss,
            compute_budgets=REAL_BUDGETS,
            learning_rate_rule=rate,
            center=130,
            span=1.6,
            num_sizes=SIZES_EACH,
            seed=seed,
            data_seed=seed,
            held_out_samples=8192,
            draws=0,
            device="cpu",
            workers=1,
            threads=1,
            kernels={"matmul": "default", "attention": "fused"},
            output_dir=folder / f"{recipe.words}-{seed}",
            **recipe.batch,
        )
    return curves_near_optima(study.runs, StudyFolder(study.folder), study.law)


DATA = Toy(dim=8, num_waves=512, noise=0.3, teacher_seed=1)


def real_rows(seeds: Sequence[int], folder: Path) -> Iterator[Row]:
    """Every seed as a sweep of its own, and every two of them as one."""
    curves: dict[tuple[str, str], list[list[Curve]]] = {}
    for seed, recipe, rates in product(seeds, RECIPES, RATES):
        one = real_sweep(recipe, RATES[rates], seed, folder)
        curves.setdefault((recipe.words, rates), []).append(one)
    for (kind, rates), of_seeds in curves.items():
        for each in (1, 2):
            together = zip(*(of_seeds[i::each] for i in range(each)), strict=False)
            found = [collapse([c for one in some for c in one]) for some in together]
            if found:
                yield Row(f"{kind}, {each} a size", rates, [one for one in found if one])


TEXT = """<!-- made by scripts/collapse_check.py -->
# Do the learning rates suit all sizes? The collapse of the training curves

A law is one of well-trained models. If the learning rate suits the small sizes and not the large
ones, the law bends, and nothing in the losses says so. The training curves may: those of
compute-optimal runs have one shape at all sizes, as long as rates and schedules suit them all (Qiu
et al. 2025, arXiv 2507.02119).

`flops-fit report` warns where they don't; from Python:

```python
from flops_fit import Study

found = Study.open("outputs/mlp-toy").collapse()
if found:  # None where the curves are too few or too short to tell
    print(found.finding, found.drift, found.stderr, found.allowed)
    for run in found.runs:
        print(run.id, run.noise_share, run.deviation)
```

The curves are those of metrics.jsonl, of the five sizes nearest to each budget's optimum. To each
is fitted L(x) - L(1) = R (S(x)^-b - 1) + R v h(x): S(x) is the share of the summed learning rate
that is spent at the share x of the training, h(x) the rate over its peak, b = {descent:g}. v is the
noise share: the loss that the rate keeps up and its decay takes away, in units of the reducible
loss at the end. It needs no irreducible loss. Said is a change of v from the smallest budget to the
largest beyond what sweeps of well-chosen rates show: a fall by more than a factor of {fall:.2g}, or
a rise by more than (C_max / C_min)^{growth:g} times that. A single curve is named where it lies
apart from all others. It takes three budgets over a decade or more, a few
curves at each, of 400 steps and more that see each sample once, and a rate that at least halves
towards the end.

How often it is said, with rates that are right at the smallest budget and off by a factor at the
largest:

| sweeps | rates | number | said in | change of the noise share, median (5% to 95%) |
|---|---|---|---|---|
{rows}

Real sweeps: 4 budgets from 1e8 to 3e9 FLOPs, 3 sizes each with one run or two of each; the rate
that is right was chosen by the loss, and is one for all sizes. Seeds {seeds}. On 12 other sweeps,
with which the limits were chosen, it was said of none with right rates, of 7 of 10 with one too
high by 4, and of 9 of 9 with one too low by 4; with two runs of each size of none of 6, 5 of 5, and
4 of 4. The level at which a change must differ from none was chosen with both.

What this can't do: the noise share of well-chosen rates is not quite the same at all sizes. In
these small runs it grows with C, as C^{growth:g} and more, since the batch stays while the
reducible loss falls. A wrong rate moves it by its own factor on top of that, and only the sum
shows. So where the share doesn't grow by itself, a rate too high by 4 stays inside of what is
allowed over two decades, and where it grows most, one too low by 4 does (the simulated rows). The
limits are those of this model and data; nothing is known of them for others. Train one size at the
largest budget with half and with twice the rate where much hangs on it.
"""


def page(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    return TEXT.format(
        descent=DESCENT,
        growth=GROWTH,
        fall=np.exp(MARGIN),
        rows="\n".join(map(str, rows)),
        seeds=", ".join(map(str, seeds)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--folder", type=Path, help="keeps the runs, which then train only once")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*simulated_rows(), *real_rows(given.seeds, given.folder or Path(folder))]
    print("\n".join(map(str, rows)))
    PAGE.write_text(page(rows, given.seeds), encoding="utf-8")


if __name__ == "__main__":
    main()
