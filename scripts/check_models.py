"""Plan and train models of others (scripts/models_of_others.py), into docs/models-of-others.md.

    python scripts/check_models.py [NAME ..]        all, or these, each in a process of its own
    python scripts/check_models.py --one NAME       one here; prints what came of it as JSON

Each is swept over two sizes and two budgets of some dozens of steps; then once more with a Ctrl-C
in the middle, and on. Minutes on two cores. Of the packages those that aren't installed are said:
pip install transformers x-transformers timm
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from marked_block import write_block
from models_of_others import MODELS, Other

from flops_fit import find_optimal

PAGE = Path(__file__).parents[1] / "docs/models-of-others.md"

STEPS = 24
"""Of the larger size at the lower budget."""

BATCH_SIZE = 8

POLL_SECONDS = 0.002
MOST_SECONDS = 600


@dataclass(frozen=True)
class Outcome:
    """What came of a model."""

    name: str
    problem: str | None = None
    num_params: tuple[int, ...] = ()
    num_steps: tuple[int, ...] = ()
    first_loss: float = 0.0  # on training batches, of the largest run's first step
    loss: float = 0.0  # held out, at its end
    together: bool = False
    resumed: str = ""  # equal; or by how much losses differ
    notes: tuple[str, ...] = ()


def budget_of(model: Other) -> float:
    """FLOPs for which the larger size makes about STEPS steps."""
    data = model.data()
    built = model.make(model.sizes[-1])
    tokens = tokens_per_sample(data)
    num_params = sum(p.numel() for p in built.parameters() if p.numel()) if is_plain(built) else 300
    return 6.0 * num_params * tokens * BATCH_SIZE * STEPS


def is_plain(built: torch.nn.Module) -> bool:
    """Whether its parameters have their shapes already."""
    return not any(torch.nn.parameter.is_lazy(p) for p in built.parameters())


def tokens_per_sample(data: Any) -> int:
    """A row of ids counts its length, everything else 1."""
    parts = list(data.values()) if isinstance(data, dict) else list(data)
    return parts[0].shape[1] if parts[0].ndim == 2 and not parts[0].is_floating_point() else 1


def swept(model: Other, folder: Path, **settings: Any) -> Any:
    budget = budget_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries; what flops-fit has to say is in the study
        return find_optimal(
            model_cls=model.make,
            model_size_param=model.size_name,
            dataset=model.data(),
            loss_fn=model.loss,
            compute_budgets=[budget, 2 * budget],
            sizes=list(model.sizes),
            batch_size=BATCH_SIZE,
            min_steps=10,
            max_epochs=1e6,
            learning_rate=3e-3,
            draws=10,
            workers=1,
            threads=1,
            output_dir=str(folder),
            **{**model.settings, **settings},
        )


def interrupted(model: Other, folder: Path) -> bool:
    """Sweep, with Ctrl-C as soon as a run has left a checkpoint; whether that came to pass."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            if any(folder.glob("runs/*/checkpoint.pt")):
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.signal(signal.SIGINT, lambda *_: None)  # one that comes when all is done
    watcher.start()
    try:
        swept(model, folder, checkpoint_seconds=0.01)
    except KeyboardInterrupt:
        return True
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGINT, before)
    return False


def tried(name: str, folder: Path) -> Outcome:
    """Everything about one model."""
    model = MODELS[name]
    if model.package and importlib.util.find_spec(model.package) is None:
        return Outcome(name, f"{model.package} is not installed")
    whole = swept(model, folder / "whole")
    failed = [run.error for run in whole if run.status != "completed"]
    if failed:
        return Outcome(name, f"{len(failed)} runs failed: {failed[0]}")
    was_interrupted = interrupted(model, folder / "parts")
    again = swept(model, folder / "parts")
    losses = [{run.id: run.loss for run in study} for study in (whole, again)]
    worst = max(abs(losses[1][i] / loss - 1) for i, loss in losses[0].items())
    last = max(whole, key=lambda run: run.num_params * run.num_tokens)
    curve = (folder / f"whole/runs/{last.id}/metrics.jsonl").read_text().splitlines()
    return Outcome(
        name,
        num_params=tuple(sorted({round(run.num_params) for run in whole})),
        num_steps=tuple(sorted(run.num_steps for run in whole)),
        first_loss=json.loads(curve[0])["train_loss"],
        loss=last.loss,
        together=json.loads((folder / "whole/pinned.json").read_text())["together"],
        resumed="" if not was_interrupted else "equal" if worst == 0 else f"{worst:.1e} off",
        notes=tuple(whole.plan.notes),
    )


def in_a_process(name: str) -> Outcome:
    """`tried` in a process of its own."""
    words = [sys.executable, __file__, "--one", name]
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return Outcome(name, f"exit code {done.returncode}: {lines[-1] if lines else ''}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def table(outcomes: list[Outcome]) -> str:
    rows = [
        "| model | wrapper | what else it needed | N | steps | loss, first step to held out "
        "| together | stopped and continued |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*rows, *map(row, outcomes)])


def row(outcome: Outcome) -> str:
    model = MODELS[outcome.name]
    lines = f"{model.wrapper_lines} lines" if model.wrapper_lines else "none"
    start = f"| {model.about} | {lines} | {model.needed or 'nothing'}"
    if outcome.problem:
        return f"{start} | {outcome.problem} | | | | |"
    n = " and ".join(f"{number:,}" for number in outcome.num_params)
    steps = f"{outcome.num_steps[0]} to {outcome.num_steps[-1]}"
    losses = f"{outcome.first_loss:.2f} to {outcome.loss:.2f}"
    together = "yes" if outcome.together else "no"
    return f"{start} | {n} | {steps} | {losses} | {together} | {outcome.resumed or 'not stopped'} |"


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asdict(tried(sys.argv[2], Path(folder)))))
        return
    names = sys.argv[1:] or list(MODELS)
    outcomes = [in_a_process(name) for name in names]
    text = table(outcomes)
    print(text)
    if names == list(MODELS):
        write_block(PAGE, "made by scripts/check_models.py", text)


if __name__ == "__main__":
    main()
