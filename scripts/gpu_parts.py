"""What `gpu_check` measures: each part is a program of its own that says a JSON line a number.

    python gpu_parts.py PART --device DEVICE --seconds SECONDS [--small]

Trains through the command line, in the folder it is started in, so that what is measured is what
users get; single steps are timed by the engine's own `step_seconds`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EAGER = ("cuda_graphs=false", "compile_above=null")
"""Words by which a run is trained op by op; those that name no setting are left out."""

ALONE = ("runs_per_gpu=1", "together=false", "workers=1")
"""Words by which every run is trained by itself, one after the other."""

COMPILED = ("compile_above=0",)
UNCOMPILED = ("compile_above=null",)

SAYS_EAGER = re.compile(r"without a CUDA graph of its step")
"""What a warning says that a model can't be captured."""

NAMED_ERROR = re.compile(r"[\w.]*(Error|Exception): ")

CAUSAL_SHARE = 0.5
"""Of attention's products that count: those that the causal mask leaves. `mfu` of result.json
counts all of them."""

QUIET = ("draws=0", "max_epochs=1e6", "min_steps=1")
"""Of runs that no law is fitted to."""

PEAK = 989.4e12
"""FLOP/s of an H100 or H200 in bf16, dense, by NVIDIA's datasheet."""

FLOPS_PER_PARAM = 6.0
"""To train a weight on a token, forward and backward."""

SMALL_TOY = ("budgets=[3e7,1e8]", "num_sizes=4")
SMALL_SOURCE = ("budgets=[1e9,3e9]", "num_sizes=3", "span=2", "min_steps=5")

MEMORY_STEPS = 3
COMMANDS = itertools.count(1)
SEEDS = 8
UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
TOLD_TIME = re.compile(r"about (\d+) (second|minute|hour|day)s? here")

START_SECONDS = 15.0
"""Of a command, before it trains and after."""

MARGIN = 1.3
"""By which the training of a part may exceed its plan."""

SMALLEST_BUDGET = 1e8
"""FLOPs; with a tenth of it the toy sweep has too few steps to be planned."""

LOSS_OK = (0, 3)
"""Exit codes of `train`: with a law, and without one, which so few runs don't give."""


@dataclass(frozen=True)
class Place:
    """Where and how large a part is to measure, and until when (by `time.monotonic`)."""

    device: str
    small: bool
    until: float

    @property
    def seconds_left(self) -> float:
        return self.until - time.monotonic()

    @property
    def words(self) -> tuple[str, ...]:
        return (f"device={self.device}",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    place = Place(asked.device, asked.small, time.monotonic() + asked.seconds)
    measures = PARTS[asked.part]
    if asked.part in AT_ONCE:
        with ThreadPoolExecutor(len(measures)) as pool:
            done = list(pool.map(lambda measure: succeeds(measure, place), measures))
    else:  # in the main thread, as programs that capture and compile expect it
        done = [succeeds(measure, place) for measure in measures]
    if not all(done):
        sys.exit(1)


def succeeds(measure: Callable[[Place], None], place: Place) -> bool:
    """Measures; what goes wrong is said on stderr, and the others of a part go on."""
    try:
        measure(place)
    except Exception:
        traceback.print_exc()
        return False
    return True


def say(row: str, value: float | None, note: str = "", *, at_least: bool = False,
        **detail: Any) -> None:  # fmt: skip
    """A reading, for `gpu_checks.Said` to hear."""
    said = {"row": row, "value": value, "note": note, "at_least": at_least, "detail": detail}
    sys.stdout.write(f"{json.dumps(said)}\n")  # whole lines, whoever else writes
    sys.stdout.flush()


class measuring:
    """Says of the row what went wrong where nothing else was said; raises it again."""

    def __init__(self, row: str) -> None:
        self.row = row

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception):
            said = str(error).strip().split("\n")[-1][:300]
            named = said if NAMED_ERROR.match(said) else f"{type(error).__name__}: {said}"
            say(self.row, None, named)


# What trains and plans


@dataclass(frozen=True)
class Ended:
    """A command that ended: `stdout`, `stderr` are what it wrote."""

    seconds: float
    stdout: str
    stderr: str


def flops_fit(*words: str, watch: Callable[[float], None] | None = None) -> Ended:
    """`flops-fit` with these words; `watch` is called with the seconds so far, twice a second.

    Raises `RuntimeError` with the last line on stderr where it fails.
    """
    return program([sys.executable, "-m", "flops_fit", *words], watch)


def program(command: Sequence[str], watch: Callable[[float], None] | None = None) -> Ended:
    started = time.monotonic()
    process, files = begun(command)
    while True:
        try:
            code = process.wait(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            if watch is not None:
                watch(time.monotonic() - started)
    seconds = time.monotonic() - started
    stdout, stderr = (path.read_text(encoding="utf-8", errors="replace") for path in files)
    sys.stderr.write(f"$ {' '.join(command[1:])}\n{stderr}")
    if code not in LOSS_OK:
        raise RuntimeError(what_failed(stderr) or f"exit code {code}")
    return Ended(seconds, stdout, stderr)


def what_failed(stderr: str) -> str:
    """The last line that names an error, else the last line."""
    lines = [line.strip() for line in stderr.split("\n") if line.strip()]
    named = [line for line in lines if NAMED_ERROR.match(line)]
    return [*lines, *named][-1][:300] if lines else ""


def begun(command: Sequence[str]) -> tuple[subprocess.Popen[str], tuple[Path, Path]]:
    """The process and the files of its stdout and stderr. It stays in our process group."""
    name = f"command-{next(COMMANDS)}"
    files = Path(f"{name}.out"), Path(f"{name}.err")
    with files[0].open("w") as out, files[1].open("w") as err:
        return subprocess.Popen(command, stdout=out, stderr=err, text=True), files


def is_setting(word: str) -> bool:
    """Whether `train` of this version knows the setting of the word."""
    from dataclasses import fields

    from flops_fit.settings import SweepSettings

    return word.partition("=")[0] in {field.name for field in fields(SweepSettings)}


def known(words: Sequence[str]) -> list[str]:
    return [word for word in words if is_setting(word)]


def few(place: Place) -> list[str]:
    """At small sizes one process: starting workers takes longer than all they'd train."""
    return ["workers=1"] if place.small else []


def results(root: Path) -> list[dict[str, Any]]:
    """The records of the runs under an output_root, those completed."""
    found = (json.loads(path.read_text()) for path in sorted(root.glob("*/runs/*/result.json")))
    return [run for run in found if run["status"] == "completed"]


def num_planned(root: Path) -> int | None:
    """Runs of the plan under an output_root that was written last; None before it is."""
    plans = sorted(root.glob("*/plans/*/plan.json"), key=lambda path: path.stat().st_mtime)
    return len(json.loads(plans[-1].read_text())["experiments"]) if plans else None


def span(root: Path) -> float:
    """Seconds from the begin of the first run under an output_root to the end of its last."""
    begins = [*root.glob("*/runs/*/.lock"), *root.glob("*/pinned.json")]
    ends = root.glob("*/runs/*/result.json")
    return max(p.stat().st_mtime for p in ends) - min(p.stat().st_mtime for p in begins)


def only_run(*words: str, root: str) -> dict[str, Any]:
    """The record of a study's one run."""
    flops_fit("train", *words, *QUIET, f"output_root={root}")
    (run,) = results(Path(root))
    return run


# The parts


def machine(place: Place) -> None:
    """What there is: said once, for the page."""
    import torch

    found: dict[str, Any] = {
        "name": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if place.device == "cuda":
        found["name"] = f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
        found["CUDA of torch"] = torch.version.cuda
        found |= asked_of_driver()
    print(json.dumps({"machine": found}), flush=True)


def asked_of_driver() -> dict[str, str]:
    """What nvidia-smi tells of the card; changes nothing."""
    names = ("driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem",
             "power.limit", "temperature.gpu", "mig.mode.current")  # fmt: skip
    asked = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"nvidia-smi": str(error)}
    values = told.splitlines()[0].split(", ")
    return dict(zip(names, values, strict=False))


@dataclass(frozen=True)
class Shape:
    """Of a transformer, and of its batch in sequences."""

    width: int
    depth: int
    num_heads: int
    batch_size: int


STEP_SHAPES = {
    "0.2M": Shape(width=64, depth=4, num_heads=4, batch_size=16),
    "3.2M": Shape(width=256, depth=4, num_heads=4, batch_size=32),
    "25M": Shape(width=512, depth=8, num_heads=8, batch_size=32),
}
BIG_SHAPES = {
    "124M": Shape(width=768, depth=12, num_heads=12, batch_size=32),
    "50M": Shape(width=512, depth=8, num_heads=8, batch_size=32),
}


def steps(place: Place) -> None:
    shapes, context = STEP_SHAPES, 256
    if place.small:
        widths = dict(zip(STEP_SHAPES, (16, 32, 64), strict=True))
        shapes, context = {name: Shape(width, 2, 2, 4) for name, width in widths.items()}, 32
    path = token_file(2**16 if place.small else 2**20, vocab_size=256)
    text = {
        name: [*transformer_words(path, 256, context, shape), "precision=bf16"]
        for name, shape in shapes.items()
    }
    mlp = ["model=mlp", "dataset=toy", "sizes=[32]", "budgets=[1e9]", "precision=fp32"]
    plain = {f"step_{name}": [*words, *UNCOMPILED] for name, words in {**text, "mlp": mlp}.items()}
    compiled = {f"step_{name}_compiled": [*words, *COMPILED] for name, words in text.items()}
    if place.small:
        for row in compiled:
            say(row, None, "not at small sizes: compiling takes a minute on a CPU")
        compiled = {}
    measure_each({
        row: functools.partial(time_steps, row, place, words)
        for row, words in (plain | compiled).items()
    })  # fmt: skip


def measure_each(measures: Mapping[str, Callable[[], None]]) -> None:
    """Row -> what measures it. All are tried; raises the last error."""
    failed: Exception | None = None
    for row, measure in measures.items():
        try:
            with measuring(row):
                measure()
        except Exception as error:
            traceback.print_exc()
            failed = error
    if failed is not None:
        raise failed


def time_steps(row: str, place: Place, words: Sequence[str]) -> None:
    from flops_fit.training.timing import step_seconds

    began = time.monotonic()
    experiment, recipe = planned([*words, *QUIET, *place.words])
    with recipe.kernels_in_force():
        seconds = step_seconds(experiment, recipe)
    num_params, took = experiment.num_params, time.monotonic() - began
    note = f"{num_params:,} parameters, {experiment.batch_tokens:,} tokens a step; {took:.1f} s"
    say(row, 1e3 * seconds, f"{note} to plan, prepare and time it", num_params=num_params)


def planned(words: Sequence[str]) -> tuple[Any, Any]:
    """The first experiment and the recipe of the study that these words of `train` describe."""
    from flops_fit.building.from_config import build_spec
    from flops_fit.cli.compose import values_of
    from flops_fit.settings import SweepSettings, from_plain
    from flops_fit.store.folder import StudyFolder
    from flops_fit.training.spec import StudySpec, plan_study

    settings = from_plain(SweepSettings, values_of("train", [*words, "study=timed"]))
    spec = build_spec(settings, {})
    assert isinstance(spec, StudySpec)  # no command of a user's
    plan, recipe = plan_study(spec, StudyFolder(Path("timed")))
    return plan.experiments[0], recipe


def token_file(num_tokens: int, vocab_size: int) -> Path:
    """A file of uint16 ids below `vocab_size`, drawn with probability in proportion to 1 / rank."""
    weights = 1 / np.arange(1, vocab_size + 1)
    draws = np.random.default_rng(0).random(num_tokens)
    ids = np.searchsorted(np.cumsum(weights / weights.sum()), draws).clip(max=vocab_size - 1)
    path = Path(f"tokens-{num_tokens}-{vocab_size}.bin").resolve()
    ids.astype(np.uint16).tofile(path)
    return path


def transformer_words(
    path: Path, vocab_size: int, context: int, shape: Shape, num_steps: int = 400
) -> list[str]:
    """A run of `num_steps` on a token file, one sequence having `context` tokens."""
    width, depth, num_heads, batch_size = vars(shape).values()
    num_params = 12 * depth * width**2 + vocab_size * width
    budget = FLOPS_PER_PARAM * num_params * batch_size * context * num_steps
    return [
        "model=transformer", "dataset=tokens", f"dataset.path={path}", "flops=formula",
        f"dataset.vocab_size={vocab_size}", f"dataset.context_length={context}",
        f"model.depth={depth}", f"model.num_heads={num_heads}", f"sizes=[{width}]",
        f"model.size.min={2 * num_heads}", f"model.size.multiple_of={2 * num_heads}",
        f"batch_size={batch_size}", f"budgets=[{budget:.6e}]", f"held_out_samples={batch_size}",
    ]  # fmt: skip


def toy(place: Place) -> None:
    words = SMALL_TOY if place.small else ()
    sweep("toy", place, "model=mlp", "dataset=toy", "ladder=true", *words)


def source(place: Place) -> None:
    words = SMALL_SOURCE if place.small else ()
    sweep("source", place, "model=transformer", "dataset=python_source", *words)


def sweep(row: str, place: Place, *words: str) -> None:
    """A whole sweep by the shipped configs; until it ends, the row says how far it has come."""
    root = Path("sweep").resolve()

    def told() -> str:
        return f"{len(results(root))} of {num_planned(root) or '?'} runs"

    def watch(seconds: float) -> None:
        say(row, seconds, told(), at_least=True)

    with measuring(row):
        ended = flops_fit(
            "train",
            *words,
            *place.words,
            *few(place),
            "json=true",
            f"output_root={root}",
            watch=watch,
        )
        runs = results(root)
        if len(runs) != num_planned(root):
            raise RuntimeError(f"only {told()} completed")
    law = json.loads(ended.stdout)
    answer = law.get(law.get("answer", ""), {})
    note = told()
    if "a" in answer:
        note += f", N_opt ~ C^{answer['a']:.2f}"
    note += f"; {span(root):.1f} s of them training"
    say(row, ended.seconds, note, training_seconds=span(root), steps=sum_of(runs, "num_steps"))


def sum_of(runs: Sequence[dict[str, Any]], name: str) -> float:
    return math.fsum(run[name] or 0 for run in runs)


def big(place: Place) -> None:
    """The shares of both sizes first, then what they take of memory."""
    vocab_size, context, num_steps = (512, 64, 20) if place.small else (50304, 1024, 120)
    path = token_file(2**16 if place.small else 2**23, vocab_size)
    shapes = BIG_SHAPES
    if place.small:
        shapes = {"124M": Shape(64, 2, 2, 4), "50M": Shape(32, 2, 2, 4)}
    common = ["precision=bf16", *place.words]
    how = () if place.small else COMPILED

    def share(name: str, shape: Shape) -> None:
        words = transformer_words(path, vocab_size, context, shape, num_steps)
        run = only_run(*words, *common, *how, root=name)
        say_share(f"share_{name}", run, shape.depth * shape.width * context)

    def memory(name: str, shape: Shape) -> None:
        words = transformer_words(path, vocab_size, context, shape, MEMORY_STEPS)
        say_memory(f"memory_{name}", [*words, *common])

    measure_each({
        f"{measured.__name__}_{name}": functools.partial(measured, name, shape)
        for measured in (share, memory)
        for name, shape in shapes.items()
    })  # fmt: skip


def say_share(row: str, run: dict[str, Any], attention: float) -> None:
    """`attention` is depth width context: scores and values together take 12 FLOPs of training a
    token for each of it, where nothing is masked."""
    in_full = 2 * FLOPS_PER_PARAM * attention
    per_token = FLOPS_PER_PARAM * run["num_params"] + CAUSAL_SHARE * in_full
    speed, peak = run["tokens_per_second"], peak_of(run["device"])
    parts = [f"{speed:,.0f} tokens/s", f"{run['num_steps']} steps"]
    parts.append(f"{run['wall_time_seconds']:.0f} s with compiling")
    parts.append(f"{gib(run['peak_memory_bytes'])} at most")
    share = None
    if peak is None:
        parts.append("no peak known of this device")
    else:
        share = 100 * speed * per_token / peak
        whole = 100 * speed * (per_token + (1 - CAUSAL_SHARE) * in_full) / peak
        parts.append(f"{whole:.1f}% with all of attention")
    if run.get("mfu") is not None:
        parts.append(f"mfu {run['mfu']:.3f} of {run.get('mfu_of')}")
    say(row, share, ", ".join(parts), run=run)


def peak_of(device: str) -> float | None:
    """bf16 FLOP/s of what `Run.device` names."""
    if re.search(r"H[12]00", device):
        return PEAK
    try:
        from flops_fit.training.hardware import peak_flops
    except ImportError:
        return None
    found = peak_flops(device, "bf16")
    return None if found is None else found[0]


def say_memory(row: str, words: Sequence[str]) -> None:
    """Estimates are of steps that run op by op, so a few of these are trained."""
    from flops_fit.training.memory import estimated_step_bytes

    estimated = estimated_step_bytes(*planned([*words, *QUIET]))
    if estimated is None:
        raise RuntimeError("the step can't be run without numbers, so it is not estimated")
    run = only_run(*words, *known((*EAGER, *ALONE)), root=row)
    found = run["peak_memory_bytes"]
    note = f"{gib(estimated)} estimated, {gib(found)} measured"
    if not run["device"].startswith("cuda"):
        say(row, None, f"{note}; off CUDA the whole process is measured, not its tensors")
        return
    say(row, 100 * abs(estimated / found - 1), note, estimated=estimated, measured=found)


def gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def captured(place: Place) -> None:
    """One run in fp32, as it is trained by default and eagerly."""
    budget, width = (2e9, 16) if place.small else (2e10, 32)
    words = ["model=transformer", "dataset=python_source", f"budgets=[{budget:g}]"]
    words += [f"sizes=[{width}]", "precision=fp32", *place.words]
    with measuring("captured"):
        default = only_run(*words, root="default")
        eager = only_run(*words, *known((*EAGER, *ALONE)), root="eager")
        note = f"loss {default['loss']:.6f} by default, {eager['loss']:.6f} eager"
        say(
            "captured",
            apart(default["loss"], eager["loss"]),
            f"{note}, {default['num_steps']} steps",
        )


def apart(a: float, b: float) -> float:
    """Relative difference."""
    return abs(a - b) / abs(b)


def resumed(place: Place) -> None:
    """A run killed as soon as it has a checkpoint, and trained to its end."""
    budget = 1e9 if place.small else 1e10
    words = [
        "train",
        "model=mlp",
        "dataset=toy",
        f"budgets=[{budget:g}]",
        "sizes=[32]",
        "workers=1",
    ]
    words += [*QUIET, *place.words]
    with measuring("resumed"):
        flops_fit(*words, "output_root=undisturbed")
        often = [*words, "output_root=killed", "checkpoint_seconds=0.02"]
        killed(often, Path("killed"))
        flops_fit(*words, "output_root=killed")
        (whole,), (parted,) = results(Path("undisturbed")), results(Path("killed"))
        note = f"loss {parted['loss']:.7f} after kill -9, {whole['loss']:.7f} undisturbed"
        difference = apart(parted["loss"], whole["loss"])
        if difference and place.device != "cpu":
            flops_fit(*words, "output_root=again")
            (again,) = results(Path("again"))
            note += f"; two undisturbed differ by {apart(again['loss'], whole['loss']):.1e}"
        if difference and place.device == "cpu":
            raise AssertionError(f"{note}: on a CPU they must be equal")
        say("resumed", difference, note)


def killed(words: Sequence[str], root: Path) -> None:
    """Kills the command with -9 once a checkpoint is there. Raises where it is through by then."""
    process, _ = begun([sys.executable, "-m", "flops_fit", *words])
    while process.poll() is None and not any(root.glob("*/runs/*/checkpoint.pt")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if results(root):
        raise RuntimeError("the run was through before it could be killed")
    if not any(root.glob("*/runs/*/checkpoint.pt")):
        raise RuntimeError("the run ended without a checkpoint")


def study_of(what: str, place: Place, num_steps: int) -> Ended:
    """A study of gpu_nets.py, in a folder of its name."""
    script = str(Path(__file__).with_name("gpu_nets.py"))
    command = [sys.executable, script, what, "--device", place.device]
    return program([*command, "--folder", what, "--steps", str(num_steps)])


def uncapturable(place: Place) -> None:
    with measuring("uncapturable"):
        ended = study_of("uncapturable", place, 200)
        runs = [json.loads(p.read_text()) for p in Path("uncapturable").glob("runs/*/result.json")]
        told = [
            line
            for line in ended.stderr.split("\n")
            if SAYS_EAGER.search(line) and not line.startswith(" ")  # the source of a warning
        ]
        trained = len(runs) == 2 and all(run["status"] == "completed" for run in runs)
        due = 0 if place.device == "cpu" else 1
        note = f"{len(runs)} runs {'completed' if trained else 'of 2'}; said {len(told)} times"
        say(
            "uncapturable", float(trained and len(told) == due), f"{note} {told[0] if told else ''}"
        )


def dropout(place: Place) -> None:
    with measuring("dropout"):
        study_of("dropout", place, 400)
        (path,) = Path("dropout").glob("runs/*/metrics.jsonl")
        points = [json.loads(line) for line in path.read_text().splitlines()]
        single = [p["train_loss"] for p, q in zip(points[1:], points, strict=False)
                  if p["step"] == q["step"] + 1]  # fmt: skip
        spread = (max(single) - min(single)) / (sum(single) / len(single))
        differ = spread > 1e-3 and len(set(single)) == len(single)
        note = f"{len(single)} losses of single steps, {100 * spread:.1f}% between the extremes"
        say("dropout", float(differ), note)


def side(place: Place) -> None:
    """Studies of 3 sizes and 8 seeds by default, and one seed of each eagerly one by one."""
    toy_budget, text_budget, seeds = (3e7, 1e8, 2) if place.small else (1e9, 2e10, SEEDS)
    studies = {
        "mlp": ["dataset=toy", "sizes=[16,32,64]", f"budgets=[{toy_budget:g}]"],
        "transformer": ["dataset=python_source", "sizes=[16,24,32]", f"budgets=[{text_budget:g}]"],
    }
    alone: dict[str, float] = {}
    default: dict[str, float] = {}
    with measuring("side"):
        for model, words in studies.items():
            common = ("train", f"model={model}", *words, *QUIET, *place.words)
            flops_fit(*common, *known((*EAGER, *ALONE)), f"output_root={model}-alone")
            alone[model] = seeds * span(Path(f"{model}-alone"))
            root = Path(model)
            flops_fit(*common, *few(place), f"seeds={seeds}", f"output_root={root}")
            if len(results(root)) != 3 * seeds:
                raise RuntimeError(f"{len(results(root))} of {3 * seeds} runs completed")
            default[model] = span(root)
            say_side(alone, default, 3 * seeds)


def say_side(alone: dict[str, float], default: dict[str, float], num_runs: int) -> None:
    """Seconds of each model's runs, those that are measured by now."""
    ratio = sum(alone.values()) / sum(default.values())
    note = "; ".join(
        f"{num_runs} of {model}: {alone[model]:.1f} s one by one, {default[model]:.1f} s by default"
        for model in default
    )
    say("side", ratio, note, one_by_one=alone, default=default)


def plan_hours(place: Place) -> None:
    with measuring("plan_hours"):
        seconds, said = planned_seconds(place, 1.0)
        say("plan_hours", seconds / 3600, said)


def budgets(place: Place) -> tuple[float, ...]:
    return (1e8, 3e8) if place.small else (1e15, 1e16)


def toy_words(place: Place, fraction: float) -> list[str]:
    """The toy sweep with this fraction of each budget."""
    listed = ",".join(f"{fraction * budget:g}" for budget in budgets(place))
    return ["model=mlp", "dataset=toy", f"budgets=[{listed}]", *place.words]


@functools.cache
def planned_seconds(place: Place, fraction: float) -> tuple[float, str]:
    """What `flops-fit plan` says that the sweep takes, and the line that says it."""
    words = [*toy_words(place, fraction), f"output_root=plan-{fraction:g}", *few(place)]
    ended = flops_fit("plan", *words, "json=true")
    told = json.loads(ended.stdout)
    line = next((x for x in ended.stderr.split("\n") if TOLD_TIME.search(x)), "")
    exact = told.get("estimate", {}).get("seconds")
    if exact is not None:
        return float(exact), line or f"{exact:.0f} s"
    found = TOLD_TIME.search(line)
    if found is None:
        raise RuntimeError(f"plan doesn't say how long it takes: {ended.stderr[-200:]}")
    return float(found[1]) * UNITS[found[2]], line


def plan_error(place: Place) -> None:
    """The largest part of the sweep that fits is trained, and held against its own plan."""
    with measuring("plan_error"):
        fraction, seconds, line = part_that_fits(place)
        note, began = f"{fraction:g} of the budgets: {line}", time.monotonic()

        def watch(_: float) -> None:
            over = (time.monotonic() - began - START_SECONDS) / seconds - 1
            if over > 0:
                say("plan_error", 100 * over, f"{note}; still training", at_least=True)

        words = [*toy_words(place, fraction), "draws=0", "output_root=trained", *few(place)]
        flops_fit("train", *words, watch=watch)
        took = span(Path("trained"))
        say("plan_error", 100 * abs(took / seconds - 1), f"{note}; {took:.1f} s trained",
            planned=seconds, trained=took)  # fmt: skip


def part_that_fits(place: Place) -> tuple[float, float, str]:
    """A fraction of the budgets, the seconds that it takes by plan, and the line that says so.

    At most a tenth; a budget's steps, and so its seconds, go about with its square root.
    """
    whole, _ = planned_seconds(place, 1.0)
    spare = (place.seconds_left - 3 * START_SECONDS) / MARGIN
    lowest = min(-1, math.ceil(math.log10(SMALLEST_BUDGET / budgets(place)[0])))
    exponent = max(lowest, min(-1, math.floor(2 * math.log10(max(spare, 1.0) / whole))))
    while True:
        fraction = 10.0**exponent
        seconds, line = planned_seconds(place, fraction)
        if MARGIN * seconds + START_SECONDS < place.seconds_left:
            return fraction, seconds, line
        exponent -= 1
        if exponent < lowest:
            raise RuntimeError(f"no part of the sweep fits into this one's time: {line}")


PARTS: dict[str, tuple[Callable[[Place], None], ...]] = {
    "machine": (machine,),
    "steps": (steps,),
    "toy": (toy,),
    "source": (source,),
    "big": (big,),
    "exact": (captured, resumed, uncapturable, dropout),
    "side": (side,),
    "plan": (plan_hours, plan_error),
}

AT_ONCE = frozenset({"exact"})
"""Parts whose numbers are no times: what they measure, they measure side by side."""

if __name__ == "__main__":
    main()
