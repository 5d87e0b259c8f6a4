"""Spoil the files of a study, one at a time, and see what the verbs make of it.

    python scripts/corrupt_store.py [--store 1050] [--checkpoints 400] [--seed 0]

A small study is made once. Each round takes a copy, spoils one file (flipped bits, cuts, other
values, folders and links in its place, code that waits to be run) and calls a verb, in-process.
What must not be: a traceback, code that ran, a file outside of the study that was written, and an
answer other than the whole study's without a word. Rounds are the same for the same seed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import pickle
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from flops_fit.cli import main as flops_fit
from flops_fit.datasets.adapters import as_source
from flops_fit.errors import StudyWarning
from flops_fit.files import CHECKSUM, checksum_of
from flops_fit.laws import LossSurface
from flops_fit.learning.schedules import WSD, Cosine
from flops_fit.plan.run import Status, ended_run
from flops_fit.plan.sweep import Sweep
from flops_fit.plan.trunks import SharedTrunks
from flops_fit.store.folder import StudyFolder
from flops_fit.store.protocols import Unwatched
from flops_fit.training.curve import CurvePoint, write_curve
from flops_fit.training.family import SizeSpec
from flops_fit.training.spec import StudySpec, plan_study
from flops_fit.training.state import Trunks
from flops_fit.training.trainer import train

SWEEP = [
    "model=mlp", "dataset=toy", "budgets=[3e6,1e7,3e7]", "num_sizes=5", "span=6", "center=100",
    "batch_size=16", "min_steps=5", "workers=1", "draws=60", "study=s",
]  # fmt: skip

SURFACE = LossSurface(E=0.5, A=4.0, B=90.0, alpha=0.4, beta=0.45)
"""Of the losses: small models that are really trained for a moment show no law."""

VERBS = {
    "plan": ["plan", *SWEEP],
    "status": ["status", "study=s", "json=true"],
    "predict": ["predict", "study=s", "budget=1e8", "json=true"],
    "fit": ["fit", "study=s", "draws=60", "json=true"],
    "compare": ["compare", "studies=[s,whole]", "json=true"],
    "report": ["report", "study=s", "json=true"],
    "train": ["train", *SWEEP, "json=true"],
    "verify": ["verify", *SWEEP, "budget=8e6", "json=true"],
}
SHARES = {"status": 6, "predict": 6, "fit": 3, "compare": 3, "report": 1, "train": 2, "verify": 1}
"""How often each verb is called, of 22 rounds: those that train or draw take seconds."""

CHANGES = ("error", "warning")
"""Words with which a line begins that says what is wrong."""


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


@dataclass(frozen=True)
class Outcome:
    """What a verb said: its exit code, its answer, its lines to people."""

    code: int
    answer: str
    said: str

    @property
    def words(self) -> list[str]:
        return [line for line in self.said.splitlines() if line.startswith(CHANGES)]


def call(verb: str) -> Outcome:
    """Run a verb in the working directory."""
    from flops_fit.report import screen

    out, err = io.StringIO(), io.StringIO()
    screen.messages.cache_clear()
    screen.results.cache_clear()
    said = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with said[0], said[1], warnings.catch_warnings():
        warnings.simplefilter("default")  # as on the command line
        try:
            code = flops_fit(VERBS[verb])
        except BaseException as error:  # whatever comes through is a finding
            code = -1
            err.write(f"Traceback: {type(error).__name__}: {error}")
    return Outcome(code, out.getvalue(), err.getvalue())


def faults(verb: str, whole: Outcome, outcome: Outcome, outside: str) -> list[str]:
    """What must not be."""
    found = []
    if "Traceback" in outcome.said or "fault in flops-fit" in outcome.said:
        found.append("traceback")
    if Path("ran").exists():
        found.append("code ran")
    if Path("outside").read_text() != outside or sorted(os.listdir()) != ["outputs", "outside"]:
        found.append("written outside of the study")
    changed = answer_of(verb, outcome) != answer_of(verb, whole)
    if changed and not outcome.words and not says_missing(verb, outcome):
        found.append("silent change")
    return found


def says_missing(verb: str, outcome: Outcome) -> bool:
    """Whether a run counts as not trained, or is trained: of one that is gone there is no more to
    say. Training gives it its real loss in place of the known one."""
    if verb == "train":
        return re.search(r"\+[1-9]\d* new", outcome.said) is not None
    return verb == "status" and bool(json.loads(outcome.answer).get("missing"))


def answer_of(verb: str, outcome: Outcome) -> Any:
    """What counts of an answer: numbers of laws and runs, not when and where they were written."""
    try:
        value = json.loads(outcome.answer)
    except ValueError:
        return outcome.code, outcome.answer
    for key in ("time", "law_sha256", "provenance", "files"):
        value.pop(key, None)
    return outcome.code, json.dumps(value, sort_keys=True)


# How a file is spoilt: each takes its path and a generator of random numbers.


def flipped(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 4)):
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def garbage(path: Path, draw: random.Random) -> None:
    texts = (b"", b"\0\0\0", b"\xff\xfe{}", b"garbage", b"[" * 100_000, b"null", b"[]", b"{}", b"7",
             b'{"schema_version":1,"loss":' + b"1" * 5000 + b"}", b'"x"', b"NaN",
             b'{"a":' * 3000 + b"1" + b"}" * 3000, pickle.dumps(Payload()))  # fmt: skip
    path.write_bytes(draw.choice(texts))


def in_its_place(path: Path, draw: random.Random) -> None:
    """A folder, links to itself, to nothing, out of the study, a pipe, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    match draw.randrange(7):
        case 0:
            path.mkdir()
        case 1:
            path.symlink_to(path.name)
        case 2:
            path.symlink_to("nowhere")
        case 3:
            path.symlink_to(Path("outside").absolute())
        case 4:
            os.mkfifo(path)
        case 5:
            path.symlink_to("/dev/zero")
        case 6:
            path.parent.joinpath("deep").mkdir(exist_ok=True)
            path.symlink_to("deep")


def swapped(path: Path, draw: random.Random) -> None:
    """The file of another run, or plan, in its place."""
    others = [p for p in Path("outputs/s").rglob(path.name) if p != path and p.is_file()]
    if others:
        path.write_bytes(draw.choice(others).read_bytes())
    else:
        garbage(path, draw)


VALUES: tuple[Any, ...] = (
    None, [], {}, "x", "", True, -1, 0, 1e300, -0.0, 2**70, 10**299, [1, "x"], {"a": {"b": []}},
    "../../outside", "/etc", "a\nb", "${oc.env:HOME}", "\x1b[2J", float("nan"), float("inf"),
    {"_target_": "os.system", "command": "touch ran"},
    {"_target_": "builtins.open", "file": "outside", "mode": "w"},
    {"_target_": "numpy.load", "file": "outputs/s/extra.npy", "allow_pickle": True},
)  # fmt: skip


def other_value(path: Path, draw: random.Random) -> None:
    """One value of a JSON file is another; by some who knows of checksums, or who doesn't."""
    data = json.loads(path.read_text())
    places = list(places_in(data))
    if draw.random() < 0.5:  # lists of thousands hide the rest
        places = [place for place in places if len(place) <= 3] or places
    *way, last = draw.choice(places)
    holder = functools.reduce(lambda value, key: value[key], way, data)
    match draw.randrange(4):
        case 0:
            del holder[last]
        case 1 if isinstance(holder[last], list):
            holder[last] = holder[last][:-1] or [1, 2, 3]
        case _:
            holder[last] = draw.choice(VALUES)
    if CHECKSUM in data and draw.random() < 0.5:
        del data[CHECKSUM]
        with contextlib.suppress(ValueError):
            data[CHECKSUM] = checksum_of(data)
    path.write_text(json.dumps(data))
    Path("outputs/s/extra.npy").write_bytes(pickle.dumps(Payload()))


def places_in(data: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value."""
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield (*way, key)
        yield from places_in(data[key], (*way, key))


def code_in_a_rule(path: Path, draw: random.Random) -> None:
    """The settings of plan.json name what is to be called."""
    data = json.loads(path.read_text())
    name = draw.choice(["batch_rule", "learning_rate_rule", "model", "dataset", "optimizer", "fit"])
    data["settings"][name] = draw.choice(
        [v for v in VALUES if isinstance(v, dict) and "_target_" in v]
    )
    del data[CHECKSUM]
    Path("outputs/s/extra.npy").write_bytes(pickle.dumps(Payload()))
    path.write_text(json.dumps({**data, CHECKSUM: checksum_of(data)}))


def other_draws(path: Path, draw: random.Random) -> None:
    """Objects, NaN, other lengths, none."""
    columns = dict(np.load(path))
    name = draw.choice(list(columns))
    match draw.randrange(4):
        case 0:
            columns[name] = np.array([Payload()], dtype=object)
        case 1:
            columns[name] = np.full(columns[name].shape, np.nan)
        case 2:
            columns[name] = columns[name][..., :7] if columns[name].ndim else np.zeros(3)
        case 3:
            del columns[name]
    np.savez_compressed(path, **columns)
    law = path.with_name("law.json")
    data = json.loads(law.read_text())
    data.pop("draws_sha256")
    data.pop(CHECKSUM)
    law.write_text(json.dumps(data))


OF_ALL = (flipped, cut, garbage, in_its_place)
OF_JSON = (*OF_ALL, swapped, other_value, other_value, other_value)
FILES: dict[str, Sequence[Callable[[Path, random.Random], None]]] = {
    "runs/*/result.json": OF_JSON,
    "plans/*/plan.json": (*OF_JSON, code_in_a_rule),
    "plans/*/law.json": OF_JSON,
    "plans/*/draws.npz": (*OF_ALL, other_draws, other_draws),
    "pinned.json": OF_JSON,
    "latest": (in_its_place,),
    "runs/*/metrics.jsonl": OF_ALL,
    "plans/*/predictions/*.json": OF_JSON,
    "runs/*": (in_its_place,),
    "plans/*": (in_its_place,),
}
WEIGHTS = (5, 5, 4, 2, 2, 1, 1, 1, 1, 1)


def store(rounds: int, seed: int) -> list[str]:
    """Spoil the files of a study so often; returns what must not have been."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as place:
        reference = Path(place) / "reference"
        (reference / "outputs").mkdir(parents=True)
        (reference / "outside").write_text("precious")
        with contextlib.chdir(reference):
            study_of_known_losses()
            shutil.copytree("outputs/s", "outputs/whole", symlinks=True)
            call("predict")
        whole: dict[str, Outcome] = {}
        found: list[str] = []
        spoilt: Counter[str] = Counter()
        folder = Path(place) / "study"
        for number in range(rounds):
            (verb,) = draw.choices(list(SHARES), list(SHARES.values()))
            (pattern,) = draw.choices(list(FILES), WEIGHTS)
            spoil = draw.choice(FILES[pattern])
            if verb not in whole:
                with copied(reference, folder):
                    whole[verb] = call(verb)
            with copied(reference, folder):
                path = draw.choice(sorted(Path("outputs/s").glob(pattern)))
                spoil(path, draw)
                outcome = call(verb)
                wrong = faults(verb, whole[verb], outcome, "precious")
            spoilt[spoil.__name__] += 1
            if (number + 1) % 50 == 0:
                print(f"{number + 1} of {rounds} rounds", file=sys.stderr, flush=True)
            if wrong:
                last = outcome.said.splitlines()[-1:] or [""]
                said = f"{number}: {verb} after {spoil.__name__} of {path}: {', '.join(wrong)}"
                found.append(f"{said} ({last[0][:200]})")
                print(found[-1], flush=True)
    print(f"{rounds} rounds ({', '.join(f'{n} {k}' for k, n in spoilt.items())})")
    return found


def study_of_known_losses() -> None:
    """Plan, results, law and a prediction, as the verbs leave them."""
    assert call("plan").code == 0
    folder = StudyFolder(Path("outputs/s"))
    plan = folder.read_plan()
    for e in plan.experiments:
        run = ended_run(e, Status.COMPLETED, None, num_steps=e.num_steps)
        loss = float(SURFACE(e.num_params, e.num_tokens))
        folder.write_run(replace(run, loss=loss, metrics={"mae": loss / 2}, wall_time_seconds=1.0))
        point = CurvePoint(e.num_steps, e.num_tokens, e.flops, loss, None, 1e-3, 1.0)
        write_curve(folder.run_folder(e.id) / "metrics.jsonl", [point])
    folder.pin({"precision": "fp32", "threads": 1, "together": False,
                "kernels": {"matmul": "default", "attention": "blocks"}})  # fmt: skip
    for verb in ("fit", "predict"):
        outcome = call(verb)
        assert outcome.code == 0, outcome.said


@contextlib.contextmanager
def copied(reference: Path, folder: Path) -> Iterator[None]:
    """A copy of the study, as the working directory."""
    shutil.copytree(reference, folder, symlinks=True)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        shutil.rmtree(folder)


class Net(nn.Module):
    """Two layers and dropout, so that random numbers count."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Stopping(Unwatched):
    """Asks for a stop at its first look."""

    def __init__(self) -> None:
        super().__init__(stop_requested=True)


def checkpoints(rounds: int, seed: int) -> list[str]:
    """Spoil checkpoints and trunks so often: each run must end as though nobody had."""
    draw = random.Random(seed)
    found = []
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as place:
        states = {kind: StatesOnDisk(Path(place) / kind) for kind in ("checkpoint", "trunk")}
        for number in range(rounds):
            kind = draw.choices(["checkpoint", "trunk"], [3, 1])[0]
            if wrong := states[kind].spoilt(kind, draw):
                found.append(f"{number}: {kind}: {wrong}")
                print(found[-1], flush=True)
    print(f"{rounds} damaged checkpoints and trunks")
    return found


class StatesOnDisk:
    """A run that was stopped, or whose trunk was trained, and what becomes of it undisturbed."""

    def __init__(self, folder: Path) -> None:
        x = torch.randn(640, 4, generator=torch.Generator().manual_seed(0))
        shared = folder.name == "trunk"
        spec = StudySpec(
            factory=Net, size=SizeSpec("width", max=64),
            source=as_source((x, x.sum(1, keepdim=True).sin())), loss=F.mse_loss,
            optimizer=functools.partial(torch.optim.AdamW, lr=0.01),
            schedule=WSD() if shared else Cosine(),
            sweep=Sweep(
                budgets=(2e5, 4e5), batch_size=16, sizes=(8,), min_steps=5, max_epochs=100.0,
                trunks=SharedTrunks(0.1, 0.2) if shared else None, seeds=2,
            ),
            identity={}, device="cpu",
        )  # fmt: skip
        plan, self.recipe = plan_study(spec, StudyFolder(folder))
        self.experiment, other = plan.experiments[2], plan.experiments[3]
        self.folder, self.others = folder, folder / "others"
        self.expected = train(self.experiment, self.recipe, folder / "whole", Unwatched()).loss
        if shared:
            trunks = Trunks(self.others)
            for short in plan.experiments[:2]:
                train(short, self.recipe, folder / "short", Unwatched(), trunks)
            (self.path,) = self.others.glob(f"{self.experiment.trunk}-*.pt")
            (self.other,) = self.others.glob(f"{other.trunk}-*.pt")
        else:
            for experiment in (self.experiment, other):
                with contextlib.suppress(KeyboardInterrupt):
                    train(experiment, self.recipe, self.others / experiment.id, Stopping())
            self.path, self.other = (
                self.others / e.id / "checkpoint.pt" for e in (self.experiment, other)
            )

    def spoilt(self, kind: str, draw: random.Random) -> str | None:
        """What is wrong when the run goes on from a spoilt state; None where nothing is."""
        run = self.folder / "run"
        path = run / self.path.name
        run.mkdir()
        shutil.copy(self.path, path)
        how = draw.choice([flipped, flipped, flipped, cut, in_its_place, "other", Payload])
        if how == "other":
            shutil.copy(self.other, path)
        elif how is Payload:
            torch.save({"model": Payload()}, path)
        else:
            how(path, draw)
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always", StudyWarning)
                trunks = Trunks(run) if kind == "trunk" else None
                ended = train(self.experiment, self.recipe, run / "x" if trunks else run,
                              Unwatched(), trunks)  # fmt: skip
        except Exception as error:
            return f"{getattr(how, '__name__', how)}: {type(error).__name__}: {error}"
        finally:
            shutil.rmtree(run)
        if Path("ran").exists():
            return "code ran"
        if ended.loss != self.expected:
            return f"{getattr(how, '__name__', how)}: loss {ended.loss}, not {self.expected}"
        is_other = how in ("other", Payload, cut)
        return f"{how} without a word" if is_other and not said else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=int, default=1050)
    parser.add_argument("--checkpoints", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found = checkpoints(asked.checkpoints, asked.seed) + store(asked.store, asked.seed)
    print(f"{len(found)} of {asked.store + asked.checkpoints} must not be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
