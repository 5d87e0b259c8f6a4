"""How large may the batch be, and does the law bend as it grows? Writes docs/batch-size.md.

    python scripts/check_batch.py [mlp-toy] [transformer-python_source] [--only scan,law] [--keep F]

For the pairs whose recipe has a batch rule. The scan trains compute-optimal points of the law with
many batches, each at half, once and twice the recipe's learning rate, on one thread. The law is
that of a sweep whose budgets reach where the rule acts, with one batch for all and with the rule,
as a user would train it. What is done is kept in F/batch.json and not measured again.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from check_width_scaling import Scan, experiment, held_out_loss, shipped

from flops_fit.shown import short_number

COMMAND = Path(sys.executable).parent / "flops-fit"
PAGE = Path(__file__).parents[1] / "docs" / "batch-size.md"

FACTORS = (0.5, 1.0, 2.0)
"""On the recipe's learning rate."""

METHODS = ("isoflop", "surface", "combined")

HEAD = """# The batch grows with the tokens

Made by `scripts/check_batch.py`.

A batch that is right for a million tokens makes a billion take millions of steps, and a GPU does
nothing in each. How many samples a step can average over before they stop being worth it grows
with the length of the run. So the recipes of these pairs set a `batch_rule`: one batch for runs as
short as those below, which is about as many as they bear, and beyond them as the square root of D.
It is slower than the 0.571 of Li et al. 2025 (Step Law, arXiv 2503.04715): a batch that is too
small costs time, one that is too large bends the law, as it does most where steps are few.
`batch_size=64` is one batch for all runs, `batch_rule=power` another rule.
"""


@dataclass(frozen=True)
class Check:
    """A pair, its compute-optimal points (size, D), and budgets at which the rule acts, if a CPU
    can train them."""

    scan: Scan
    points: tuple[tuple[int, float], ...]
    batches: tuple[int, ...]  # samples
    budgets: tuple[float, ...]
    one_batch: int  # samples


CHECKS = {
    "mlp-toy": Check(
        Scan("mlp", "toy", (8,), 2000, 8192),
        points=((12, 1e5), (28, 2.5e5), (52, 7.8e5), (106, 2.1e6)),
        batches=(32, 64, 128, 256, 512, 1024),
        budgets=(1e10, 3e10, 1e11, 3e11),
        one_batch=64,
    ),
    "transformer-python_source": Check(
        Scan("transformer", "python_source", (16,), 200, 128),
        points=((24, 1e6), (40, 2e6)),
        batches=(2, 4, 8, 16, 32),
        budgets=(),  # of hours, where the rule acts
        one_batch=4,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", nargs="*", default=list(CHECKS))
    parser.add_argument("--only", default="scan,law")
    parser.add_argument("--keep", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="flops-fit-"))
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for pair in arguments.pairs:
        if "scan" in arguments.only:
            scan(pair, folder)
        if "law" in arguments.only and CHECKS[pair].budgets:
            laws(pair, folder)
    PAGE.write_text(page(kept(folder)), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
    return 0


def kept(folder: Path) -> dict[str, Any]:
    file = folder / "batch.json"
    return json.loads(file.read_text()) if file.exists() else {}


def keep(folder: Path, key: str, value: Any) -> None:
    (folder / "batch.json").write_text(json.dumps({**kept(folder), key: value}, indent=1))


def scan(pair: str, folder: Path) -> None:
    """Held-out losses at FACTORS of the rate, for each point and batch."""
    check = CHECKS[pair]
    spec, lr = shipped(check.scan)
    recipe = spec.recipe("cpu", "fp32", check.scan.held_out_samples)
    tokens = recipe.source.tokens_per_sample
    for size, num_tokens in check.points:
        for batch in check.batches:
            key = f"{pair} {size} {num_tokens:g} {batch}"
            if key in kept(folder):
                continue
            steps = replace(check.scan, num_steps=max(1, round(num_tokens / (batch * tokens))))
            runs = [experiment(steps, size, lr * f, recipe, batch) for f in FACTORS]
            losses = [held_out_loss(run, recipe) for run in runs]
            rule = spec.sweep.batch_tokens
            assert rule is not None, f"the recipe of {pair} has no batch rule"
            num_params = runs[0].num_params
            keep(
                folder,
                key,
                {
                    "num_params": num_params,
                    "losses": losses,
                    "rule": rule(num_params, num_tokens) / tokens,
                },
            )
            print(key, losses, flush=True)


def laws(pair: str, folder: Path) -> None:
    """The law with one batch and by the rule; runs that have the same batch are trained once."""
    check = CHECKS[pair]
    words = [f"model={check.scan.model}", f"dataset={check.scan.dataset}"]
    words.append(f"budgets=[{','.join(f'{b:g}' for b in check.budgets)}]")
    one, rule = (f"{pair}-{name}" for name in ("one", "rule"))
    subprocess.run(
        [COMMAND, "train", *words, f"batch_size={check.one_batch}", f"study={one}"],
        cwd=folder,
        check=True,
    )
    outputs = folder / "outputs"
    if not (outputs / rule).exists():
        shutil.copytree(outputs / one, outputs / rule, symlinks=True)
    subprocess.run([COMMAND, "train", *words, f"study={rule}"], cwd=folder, check=True)
    for study in (one, rule):
        keep(folder, f"{study} law", law_of(outputs / study))


def law_of(study: Path) -> dict[str, Any]:
    plan = study / "latest"
    law = json.loads((plan / "law.json").read_text())
    experiments = json.loads((plan / "plan.json").read_text())["experiments"]
    return {
        "budgets": law["isoflop"]["budgets"],
        "a": {m: law[m]["a"] for m in METHODS},
        "intervals": {m: law["intervals"][f"{m}.a"]["95"] for m in METHODS},
        "steps": sum(e["num_steps"] for e in experiments),
        "batches": sorted({e["batch_size"] for e in experiments}),
    }


def page(cells: dict[str, Any]) -> str:
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    sections = [section(pair, check, cells) for pair, check in CHECKS.items()]
    return f"{HEAD}\nOn {machine}.\n" + "".join(f"\n{text}\n" for text in sections if text)


def section(pair: str, check: Check, cells: dict[str, Any]) -> str:
    lines = [f"## model={check.scan.model} dataset={check.scan.dataset}", ""]
    points = [(p, found) for p in check.points if (found := at_point(pair, check, p, cells))]
    if points:
        lines += [
            "Held-out loss of compute-optimal runs at the best of half, once and twice the "
            "recipe's learning rate, by samples in a batch; in brackets that at the recipe's own "
            "rate where it is another. The last column is what the rule takes.",
            "",
            "| N | D | " + " | ".join(f"{b}" for b in check.batches) + " | rule |",
            "|---" * (len(check.batches) + 3) + "|",
        ]
        lines += [scan_row(check, point, found) for point, found in points]
        lines.append("")
    laws = [cells.get(f"{pair}-{name} law") for name in ("one", "rule")]
    if all(laws):
        lines += law_lines(check, *laws)
    return "\n".join(lines) if len(lines) > 2 else ""


def at_point(
    pair: str, check: Check, point: tuple[int, float], cells: dict[str, Any]
) -> dict[int, Any]:
    keys = {b: f"{pair} {point[0]} {point[1]:g} {b}" for b in check.batches}
    return {batch: cells[key] for batch, key in keys.items() if key in cells}


def scan_row(check: Check, point: tuple[int, float], found: dict[int, Any]) -> str:
    def cell(batch: int) -> str:
        if batch not in found:
            return "–"
        losses = found[batch]["losses"]
        best, own = min(losses), losses[FACTORS.index(1.0)]
        return f"{best:.4f}" if best == own else f"{best:.4f} ({own:.4f})"

    first = next(iter(found.values()))
    cells = " | ".join(cell(batch) for batch in check.batches)
    return (
        f"| {short_number(first['num_params'])} | {short_number(point[1])} | {cells} "
        f"| {round(first['rule'])} |"
    )


def law_lines(check: Check, one: dict[str, Any], rule: dict[str, Any]) -> list[str]:
    def optimum(b: dict[str, Any]) -> str:
        return (
            f"{b['N_opt']:.3g} | {b['loss']:.4f}" if b["verdict"] == "ok" else f"{b['verdict']} |"
        )

    batches = f"{rule['batches'][0]} to {rule['batches'][-1]}"
    lines = [
        f"The law of the sweep with {check.one_batch} samples in every batch ({one['steps']:,} "
        f"steps in all) and by the rule ({batches} samples, {rule['steps']:,} steps):",
        "",
        "| budget | N_opt, one batch | loss | N_opt, rule | loss |",
        "|---|---|---|---|---|",
        *(
            f"| {a['budget']:.3g} | {optimum(a)} | {optimum(b)} |"
            for a, b in zip(one["budgets"], rule["budgets"], strict=True)
        ),
        "",
        "| N_opt ~ C^a by | a, one batch (95%) | a, rule (95%) |",
        "|---|---|---|",
    ]
    for method in one["a"]:
        texts = []
        for law in (one, rule):
            low, high = law["intervals"][method]
            texts.append(f"{law['a'][method]:.3f} ({low:.3f} to {high:.3f})")
        lines.append(f"| {method} | {' | '.join(texts)} |")

    def inside(a: dict[str, Any], b: dict[str, Any], method: str) -> bool:
        low, high = b["intervals"][method]
        return bool(low <= a["a"][method] <= high)

    within = [m for m in METHODS if inside(one, rule, m) and inside(rule, one, m)]
    others = [m for m in METHODS if m not in within]
    pairs = list(zip(one["budgets"], rule["budgets"], strict=True))
    ratios = ", ".join(f"{b['N_opt'] / a['N_opt']:.2f}" for a, b in pairs)
    changes = ", ".join(f"{b['loss'] / a['loss'] - 1:+.1%}" for a, b in pairs)
    lines += [
        "",
        f"By the rule N_opt is {ratios} times that with one batch, where losses are flat: those at "
        f"the minima change by {changes}. Either exponent lies inside the other's interval by "
        f"{' and '.join(within) or 'no method'}"
        + (f", not by {' and '.join(others)}." if others else "."),
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
