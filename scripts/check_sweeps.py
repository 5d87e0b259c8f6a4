"""Run the two shipped sweeps as a user would, check what they promise, write docs/sweeps.md.

    python scripts/check_sweeps.py [toy] [python_source] [--keep FOLDER]

For each: seconds of the first and of a second call, a verdict per budget, exponents of both
methods with intervals, and whether these overlap; and the losses predicted at three and ten times
the top budget against those then trained there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).parent / "flops-fit"
PAGE = Path(__file__).parents[1] / "docs" / "sweeps.md"

HEAD = (
    "# The shipped sweeps\n\nMade by `scripts/check_sweeps.py`, which runs them as a user would.\n"
)

FURTHER = {3.0: 0.02, 10.0: 0.02}
"""Multiple of the top budget at which a prediction is put to the test -> error that it may have."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", nargs="*", default=["toy", "python_source"])
    parser.add_argument("--keep", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="flops-fit-"))
    folder.mkdir(parents=True, exist_ok=True)
    reports, failures = [], []
    for name in arguments.sweeps:
        report = SWEEPS[name](folder)
        reports.append(report)
        failures += [f"{name}: {what}" for what, holds in report["checks"].items() if not holds]
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    PAGE.write_text(page(reports, before), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


def toy(folder: Path) -> dict[str, Any]:
    """`flops-fit train model=mlp dataset=toy`: under 4 minutes, then under 5 seconds."""
    words = ["model=mlp", "dataset=toy"]
    report = sweep(folder, words, limit_seconds=240)
    deleted = next((folder / "outputs/mlp-toy/runs").glob("*/result.json"))
    loss = json.loads(deleted.read_text())["loss"]
    deleted.unlink()
    run(folder, "train", *words)
    report["checks"]["a deleted result comes back the same"] = (
        json.loads(deleted.read_text())["loss"] == loss
    )
    return report | verifications(folder, words, report)


def python_source(folder: Path) -> dict[str, Any]:
    """`flops-fit train model=transformer dataset=python_source`: under 30 minutes, 2% at 3x."""
    words = ["model=transformer", "dataset=python_source"]
    report = sweep(folder, words, limit_seconds=1800)
    return report | verifications(folder, words, report)


def verifications(folder: Path, words: list[str], report: dict[str, Any]) -> dict[str, Any]:
    """What was predicted beyond the top budget, and what was trained there."""
    found, checks = [], dict(report["checks"])
    for multiple, error in FURTHER.items():
        budget = multiple * report["law"]["largest_budget"]
        _, out = run(folder, "verify", *words, f"budget={budget}", "json=true")
        found.append(json.loads(out))
        where = f"loss at {multiple:g}x the top budget"
        checks[f"{where} within {error:.0%}"] = abs(found[-1]["error"]) < error
        checks[f"{where} inside its 95% interval"] = found[-1]["inside"]["95"]
    return {"further": found, "checks": checks}


def sweep(folder: Path, words: list[str], limit_seconds: float) -> dict[str, Any]:
    first, out = run(folder, "train", *words, "json=true")
    law = json.loads(out)
    second, _ = run(folder, "train", *words)
    verdicts = [b["verdict"] for b in law["isoflop"]["budgets"]]
    optima = [b["N_opt"] for b in law["isoflop"]["budgets"]]
    isoflop, surface = (law["intervals"][f"{m}.a"]["95"] for m in ("isoflop", "surface"))
    return {
        "words": words,
        "law": law,
        "first_seconds": first,
        "second_seconds": second,
        "checks": {
            f"first call under {limit_seconds:.0f} s": first < limit_seconds,
            "second call under 5 s": second < 5,
            "at least 4 budgets with a minimum that is believed": verdicts.count("ok") >= 4,
            "no minimum at the edge of a budget's sizes": "edge" not in verdicts,
            "N_opt rises with the budget": optima == sorted(optima),
            "intervals of the two exponents overlap": (
                isoflop[0] <= surface[1] and surface[0] <= isoflop[1]
            ),
        },
    }


def run(folder: Path, *words: str) -> tuple[float, str]:
    """Seconds and standard output of one command; its messages go to our stderr."""
    started = time.perf_counter()
    done = subprocess.run([COMMAND, *words], cwd=folder, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"flops-fit {' '.join(words)} ended with {done.returncode}")
    return time.perf_counter() - started, done.stdout


def page(reports: list[dict[str, Any]], before: str) -> str:
    """The page with a new section for each report; sections of other sweeps stay."""
    sections = {part.splitlines()[0]: part for part in before.split("\n## ")[1:]}
    sections |= {part.splitlines()[0]: part for part in map(section, reports)}
    return HEAD + "".join(f"\n## {part.strip()}\n" for _, part in sorted(sections.items()))


def section(report: dict[str, Any]) -> str:
    law = report["law"]
    lines = [f"flops-fit train {' '.join(report['words'])}", ""]
    machine = f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    first, second = report["first_seconds"], report["second_seconds"]
    lines.append(f"On {machine}: first call {first:.0f} s, second call {second:.1f} s.")
    lines.append(f"{law['diagnostics']['verdict']}.")
    lines += ["", "| budget | N_opt | D_opt | loss | verdict |", "|---|---|---|---|---|"]
    for b in law["isoflop"]["budgets"]:
        optimum = f"{b['N_opt']:.3g} | {b['D_opt']:.3g} | {b['loss']:.4f}"
        lines.append(f"| {b['budget']:.3g} | {optimum} | {b['verdict']} |")
    lines.append("")
    for method in ("isoflop", "surface", "combined"):
        low, high = law["intervals"][f"{method}.a"]["95"]
        lines.append(f"- {method}: N_opt ~ C^{law[method]['a']:.3f} (95%: {low:.3f} to {high:.3f})")
    for further in report["further"]:
        p = further["prediction"]
        low, high = p["intervals"]["loss"]["95"]
        lines.append(
            f"- at {p['budget']:.3g} FLOPs, {p['extrapolation']:.3g} times the top: predicted "
            f"{p['loss']:.4f} (95%: {low:.4f} to {high:.4f}) at N = {p['num_params']:.3g}; trained "
            f"{further['measured']:.4f} at N = {further['num_params']:.3g}: "
            f"{further['error']:+.2%} off"
        )
    lines += [f"- {'yes' if ok else 'NO'}: {what}" for what, ok in report["checks"].items()]
    return "\n".join(lines)


SWEEPS = {"toy": toy, "python_source": python_source}


if __name__ == "__main__":
    sys.exit(main())
