"""Does one learning rate serve all sizes? Scan it for each shipped model, write the table.

    python scripts/check_width_scaling.py [mlp-toy] [transformer-python_source] [vit-images]
    python scripts/check_width_scaling.py [gpt] [gpt-depth]

Every size is trained for the same steps at the configured rate, half of it, and 2 and 4 times it,
on one thread, by the trainer of the sweeps: widths of a 16-fold range, or depths of a 6-fold one
with the width in proportion, and of an 8-fold one with it fixed. One rate must reach a held-out
loss within 5% of the best at every size. Without names all are scanned, and
docs/width-scaling.md is written anew.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flops_fit.building.from_config import build_spec
from flops_fit.cli.compose import values_of
from flops_fit.plan.experiment import Experiment
from flops_fit.settings import SweepSettings, from_plain
from flops_fit.store.protocols import Unwatched
from flops_fit.training.recipe import Recipe
from flops_fit.training.spec import StudySpec
from flops_fit.training.trainer import train

PAGE = Path(__file__).parents[1] / "docs" / "width-scaling.md"

FACTORS = (0.5, 1.0, 2.0, 4.0)
"""On the recipe's learning rate."""

LIMIT = 1.05
"""Largest loss at the common rate over the best loss of a size."""


@dataclass(frozen=True)
class Scan:
    """What is trained; the rest is the pair's recipe, with `words` in place of some of it."""

    model: str
    dataset: str
    sizes: tuple[int, ...]
    num_steps: int
    held_out_samples: int
    num_seeds: int = 1
    words: tuple[str, ...] = ()


SHORT_TEXTS = ("dataset.context_length=64", "batch_size=8", "optimizer.lr=0.0024")
"""For a model without a recipe for this dataset."""

ANY_BUDGET = "budgets=[1e12]"
"""The number of steps is that of the scan."""

SCANS = {
    "mlp-toy": Scan("mlp", "toy", (8, 16, 32, 64, 128), 2000, 8192),
    "transformer-python_source": Scan(
        "transformer", "python_source", (16, 32, 64, 128, 256), 200, 128
    ),
    "vit-images": Scan("vit", "images", (16, 32, 64, 128, 256), 450, 2048, num_seeds=2),
    "gpt": Scan(
        "gpt",
        "python_source",
        (2, 4, 8, 12),
        200,
        256,
        words=("model.width_per_layer=8", "model.head_dim=8", *SHORT_TEXTS),
    ),
    "gpt-depth": Scan(
        "gpt",
        "python_source",
        (2, 4, 8, 16),
        200,
        256,
        words=("model.width=32", "model.head_dim=8", *SHORT_TEXTS),
    ),
}


@dataclass(frozen=True)
class Table:
    """Held-out losses, means over seeds: a row for each size, a column for each rate."""

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]

    @property
    def best(self) -> list[float]:
        """Lowest loss of each size."""
        return [min(row) for row in self.losses]

    @property
    def excess(self) -> list[float]:
        """For each rate, its loss over the best where that is worst."""
        columns = zip(*self.losses, strict=True)
        return [max(a / b for a, b in zip(c, self.best, strict=True)) for c in columns]

    @property
    def common_rate(self) -> float:
        """The rate that comes closest to the best of every size."""
        return self.rates[self.excess.index(min(self.excess))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", nargs="*", default=list(SCANS))
    names = parser.parse_args().scans
    torch.set_num_threads(1)
    tables, sections = [], []
    for name in names:
        started = time.process_time()
        tables.append(scanned(SCANS[name], FACTORS))
        sections.append(section(SCANS[name], tables[-1], time.process_time() - started))
        print(sections[-1], flush=True)
    if names == list(SCANS):
        PAGE.write_text(page(sections), encoding="utf-8")
    return 1 if any(min(table.excess) > LIMIT for table in tables) else 0


def scanned(scan: Scan, factors: Sequence[float]) -> Table:
    """All its sizes trained at all rates."""
    spec, lr = shipped(scan)
    rates = tuple(lr * factor for factor in factors)
    recipe = spec.recipe("cpu", "fp32", scan.held_out_samples)
    rule = spec.sweep.batch_tokens
    batch_size = spec.sweep.batch_size
    if rule is not None:  # that of its shortest runs
        batch_size = round(rule(1.0, 1.0) / recipe.source.tokens_per_sample)

    def mean_loss(size: int, rate: float) -> float:
        planned = experiment(scan, size, rate, recipe, batch_size)
        runs = (replace(planned, seed=seed) for seed in range(scan.num_seeds))
        return statistics.fmean(held_out_loss(run, recipe) for run in runs)

    losses = tuple(tuple(mean_loss(size, rate) for rate in rates) for size in scan.sizes)
    return Table(scan.sizes, rates, losses)


def shipped(scan: Scan) -> tuple[StudySpec, float]:
    """The pair as its recipe has it, and the recipe's learning rate."""
    words = [f"model={scan.model}", f"dataset={scan.dataset}", "study=scaling"]
    words += [*scan.words, *([ANY_BUDGET] if scan.words else [])]
    settings = from_plain(SweepSettings, values_of("train", words))
    return build_spec(settings, {}), settings.optimizer["lr"]


def experiment(scan: Scan, size: int, rate: float, recipe: Recipe, batch_size: int) -> Experiment:
    measured = recipe.family.at(size)
    batch_tokens = batch_size * recipe.source.tokens_per_sample
    flops_per_token = measured.counted_flops_per_token
    return Experiment(
        budget=scan.num_steps * batch_tokens * flops_per_token,
        size=measured.size,
        num_params=measured.num_params,
        num_params_total=measured.num_params_total,
        num_steps=scan.num_steps,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        flops_per_token=flops_per_token,
        flops_per_token_counted=flops_per_token,
        flops_per_token_formula=flops_per_token,
        unique_tokens=None,
        seed=0,
        learning_rate=rate,
    )


def held_out_loss(experiment: Experiment, recipe: Recipe) -> float:
    """Of one run; infinite where it diverged."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(experiment, recipe, Path(folder), Unwatched())
    return float("inf") if run.loss is None else run.loss


def page(sections: Iterable[str]) -> str:
    head = (
        "# One learning rate for all sizes\n\n"
        "Made by `scripts/check_width_scaling.py`: held-out loss after a short training, the same "
        "steps at every size, one thread. Bold is the best of a size; the last line says how far "
        "above it a rate ends where it does worst.\n"
    )
    return head + "".join(f"\n{text}" for text in sections)


def section(scan: Scan, table: Table, seconds: float) -> str:
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    num_runs = len(table.sizes) * len(table.rates) * scan.num_seeds
    size_name = shipped(scan)[0].size.name
    excess = " | ".join(f"{value - 1:+.1%}" for value in table.excess)
    rows = [row(*each) for each in zip(table.sizes, table.losses, strict=True)]
    lines = [
        f"## {' '.join((f'model={scan.model}', f'dataset={scan.dataset}', *scan.words))}",
        "",
        f"{scan.num_steps:,} steps, {num_runs} runs ({scan.num_seeds} for each cell) in "
        f"{seconds:.0f} CPU seconds on {machine}. At {table.common_rate:g} every size ends within "
        f"{min(table.excess) - 1:.1%} of its best.",
        "",
        f"| {size_name} | {' | '.join(f'lr {rate:g}' for rate in table.rates)} |",
        "|---" * (len(table.rates) + 1) + "|",
        *rows,
        f"| worst | {excess} |",
        "",
    ]
    return "\n".join(lines)


def row(size: int, losses: Sequence[float]) -> str:
    best = min(losses)
    cells = (f"**{loss:.4f}**" if loss == best else f"{loss:.4f}" for loss in losses)
    return f"| {size} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
