"""What a sweep goes through on a machine that is hard on it, and what must be left at the end.

    python scripts/torture.py [--rounds 30] [--seed 0] [CASE ...]

Each case trains a sweep of 40 runs, or some of them, with `flops-fit train`, and does something to
it: kill -9 of workers and of the command, races of several commands with the same plan and with
others, stops and continuations, a terminal that is closed, Ctrl-C once to six times, a disk without
room, without inodes, read-only, a study that is removed, too few open files. In the end all runs
must be there, none trained once it was, their losses those of a sweep that nobody disturbed, no
traceback on any screen and no process left. What happens to files is scripts/corrupt_store.py's.

Cases with a disk of their own need root on Linux and are left out, with a word, elsewhere.
About 40 minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WORDS = [
    "train", "model=mlp", "dataset=toy", "sizes=[8,12,16,24,32]", "min_steps=20", "draws=0",
    "threads=1", "precision=fp32", "together=false", "max_epochs=1e9", "study=s",
    "kernels={matmul: default, attention: blocks}", "held_out_samples=640",
    "checkpoint_seconds=0.2",
]  # fmt: skip
"""What all commands of a study say, so that runs have the same ids whatever the budgets."""

BUDGETS = [3e7, 4e7, 5e7, 6.3e7, 8e7, 1e8, 1.25e8, 1.6e8]
"""FLOPs: 40 runs of up to a second or two each."""

NO_LAW = 3
"""The exit code of a sweep that was trained and gives none."""

LONGEST_SECONDS = 300.0
"""That one command may take before it counts as one that hangs."""

LEAVING_SECONDS = 30
"""That workers may take to notice that the command is gone: those that are still being made, when
they are."""

AT_ONCE_SECONDS = 3.0
"""In which a second Ctrl-C must have ended a command."""

Results = dict[str, tuple[str, float | None]]
"""Of each run by its id: status and loss."""


def words(workers: int, budgets: Sequence[float] = BUDGETS, *more: str) -> list[str]:
    return [*WORDS, f"budgets=[{','.join(f'{b:g}' for b in budgets)}]", f"workers={workers}", *more]


@dataclass
class Command:
    """`flops-fit` in a folder, in a process group of its own; its lines are kept in a file."""

    arguments: Sequence[str]
    folder: Path
    limits: Callable[[], None] | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    said: Path = field(init=False)

    def __post_init__(self) -> None:
        number, name = tempfile.mkstemp(prefix="said-", dir=self.folder.parent)
        self.said = Path(name)
        with os.fdopen(number, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flops_fit", *self.arguments],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True, preexec_fn=self.limits,
            )  # fmt: skip

    def send(self, number: signal.Signals, *, to_group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_group else os.kill)(self.process.pid, number)

    @property
    def lines(self) -> str:
        return self.said.read_text(errors="replace")

    def ended(self, seconds: float = LONGEST_SECONDS) -> int:
        return self.process.wait(seconds)

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None


def family(root: int) -> list[int]:
    """Numbers of the processes below one, by /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, left = [], [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def of_session(session: int) -> list[int]:
    """Processes that a command has left: those of its session, which outlive their parents."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def workers_of(command: Command) -> list[int]:
    """Those that train: forked off by the process that is forked off from, so two below."""
    below = family(command.process.pid)
    with contextlib.suppress(OSError):
        parents = {
            pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            for pid in below
        }
        return [pid for pid in below if parents[pid] != command.process.pid]
    return []


@dataclass
class Seen:
    """Looks at results as they come: one that is completed must stay as it is."""

    folder: Path
    stamps: dict[str, int] = field(default_factory=dict)
    rewritten: set[str] = field(default_factory=set)

    def look(self) -> int:
        """How many are completed."""
        for path in self.folder.glob("outputs/s/runs/*/result.json"):
            name = path.parent.name
            with contextlib.suppress(OSError, ValueError):
                stamp = path.stat().st_mtime_ns
                if json.loads(path.read_text()).get("status") != "completed":
                    continue
                if self.stamps.setdefault(name, stamp) != stamp:
                    self.rewritten.add(name)
        return len(self.stamps)


def results(folder: Path) -> Results:
    found = {}
    for path in folder.glob("outputs/s/runs/*/result.json"):
        run = json.loads(path.read_text())
        found[run["id"]] = (run["status"], run["loss"])
    return found


@dataclass
class Torture:
    """The cases, against the results of a sweep that nobody disturbed."""

    place: Path
    draw: random.Random
    rounds: int
    workers: int = 4
    budgets: Sequence[float] = tuple(BUDGETS)
    found: list[str] = field(default_factory=list)
    known: Results = field(default_factory=dict)

    def begin(self) -> None:
        folder = self.fresh("undisturbed")
        command = Command(words(2, self.budgets), folder)
        code = command.ended()
        self.known = results(folder)
        assert len(self.known) == 5 * len(self.budgets), (code, command.lines)
        assert all(status == "completed" for status, _ in self.known.values()), command.lines

    def fresh(self, name: str) -> Path:
        """An empty folder with the package's own cache of nothing in it."""
        folder = self.place / f"{name} {len(list(self.place.iterdir()))}"
        folder.mkdir()
        return folder

    def wrong(self, case: str, what: str) -> None:
        self.found.append(f"{case}: {what}")
        print(f"WRONG {self.found[-1]}", flush=True)

    def said_well(self, case: str, command: Command) -> None:
        if "Traceback" in command.lines or "fault in flops-fit" in command.lines:
            last = [line for line in command.lines.splitlines() if line.strip()][-6:]
            self.wrong(case, "traceback: " + " | ".join(last))
        for _ in range(10 * LEAVING_SECONDS):
            left = of_session(command.process.pid)
            if not left:
                return
            time.sleep(0.1)
        names = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:60] for pid in left]
        self.wrong(case, f"processes left: {names}")

    def all_there(self, case: str, folder: Path, seen: Seen | None = None) -> None:
        """Every run once, with the loss that it has undisturbed, and nothing beside them."""
        there = results(folder)
        if there != self.known:
            missing = sorted(self.known.keys() - there.keys())
            others = [name for name in there if there[name] != self.known.get(name)]
            self.wrong(case, f"{len(missing)} runs missing, {len(others)} others: {others[:3]}")
        if seen and (seen.look(), seen.rewritten) != (len(self.known), set()):
            self.wrong(case, f"trained again: {sorted(seen.rewritten)[:3]}")
        left = [p.name for p in folder.glob("outputs/s/runs/*/*") if p.name.endswith(".tmp")]
        left += [p.name for p in folder.glob("outputs/s/runs/*/checkpoint.pt")]
        if left:
            self.wrong(case, f"left over: {left[:3]}")

    def finished(self, case: str, folder: Path, seen: Seen | None = None) -> None:
        """The same command again, undisturbed, twice where a worker's death failed a run."""
        for _ in range(2):
            command = Command(words(2, self.budgets), folder)
            command.ended()
            self.said_well(case, command)
            if all(status == "completed" for status, _ in results(folder).values()):
                break
        self.all_there(case, folder, seen)

    # The cases, by their names.

    def kills(self) -> None:
        """kill -9 of a random worker, or of the command, every now and then until all is done; not
        before a command has done a run."""
        for number in range(self.rounds):
            folder, killed = self.fresh("kills"), [0, 0]
            seen = Seen(folder)
            for _ in range(200):
                command = Command(words(self.workers, self.budgets), folder)
                self.under_way(command, seen, len(seen.stamps) + 1)
                next_kill = time.monotonic() + self.draw.uniform(0.0, 1.0)
                while not command.is_over:
                    time.sleep(0.05)
                    seen.look()
                    if time.monotonic() < next_kill:
                        continue
                    if self.draw.random() < 0.4:
                        command.send(signal.SIGKILL)
                        killed[1] += 1
                    elif workers := workers_of(command):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(self.draw.choice(workers), signal.SIGKILL)
                            killed[0] += 1
                    next_kill = time.monotonic() + self.draw.uniform(0.3, 3.0)
                self.said_well("kills", command)
                done = [status == "completed" for status, _ in results(folder).values()]
                if len(done) == len(self.known) and all(done):
                    break
            self.finished("kills", folder, seen)
            print(f"kills {number + 1}: {killed[0]} workers, {killed[1]} commands", flush=True)
            shutil.rmtree(folder)

    def races(self) -> None:
        """Two and three commands at once on a fresh study, with the same plan and with others."""
        half = len(self.budgets) // 2
        plans = {
            "two alike": [self.budgets] * 2,
            "three alike": [self.budgets] * 3,
            "two halves": [self.budgets[:half], self.budgets[half:]],
            "three that overlap": [self.budgets[:-1], self.budgets[1:], self.budgets],
        }
        for name, budgets in plans.items():
            for workers in (1, 2):
                self.race(f"race of {name}", budgets, workers)
                print(f"race of {name}, {workers} workers each", flush=True)

    def race(self, case: str, budgets: Sequence[Sequence[float]], workers: int) -> None:
        """A command for each of the plans, started at once."""
        folder = self.fresh("races")
        seen = Seen(folder)
        commands = [Command(words(workers, part), folder) for part in budgets]
        while not all(command.is_over for command in commands):
            time.sleep(0.05)
            seen.look()
        for command in commands:
            self.said_well(case, command)
            if command.process.returncode not in (0, NO_LAW):
                self.wrong(case, command.lines[-300:])
        self.all_there(case, folder, seen)

    def pauses(self) -> None:
        """SIGSTOP and SIGCONT of workers and of the command."""
        folder = self.fresh("pauses")
        seen = Seen(folder)
        command = Command(words(2, self.budgets), folder)
        self.under_way(command, seen)
        while not command.is_over:
            chosen = self.draw.choice([command.process.pid, *workers_of(command)])
            with contextlib.suppress(ProcessLookupError):
                os.kill(chosen, signal.SIGSTOP)
                time.sleep(self.draw.uniform(0.2, 1.5))
                os.kill(chosen, signal.SIGCONT)
            time.sleep(0.2)
            seen.look()
        self.said_well("pauses", command)
        self.all_there("pauses", folder, seen)

    def under_way(self, command: Command, seen: Seen, count: int = 3) -> None:
        """Returns when some runs are done."""
        while seen.look() < count and not command.is_over:
            time.sleep(0.05)

    def stops(self) -> None:
        """Ctrl-C once, twice and six times, early and late, with one worker and with several; and
        SIGTERM."""
        for workers in (1, 2):
            for presses, late in ((1, False), (1, True), (2, True), (6, True), (6, False)):
                case = f"{presses} Ctrl-C, {workers} workers, {'late' if late else 'early'}"
                folder = self.fresh("stops")
                seen = Seen(folder)
                command = Command(words(workers, self.budgets), folder)
                if late:
                    self.under_way(command, seen)
                else:
                    self.building(command, workers)
                    time.sleep(self.draw.uniform(0.0, 3.0))
                pressed = time.monotonic()
                for _ in range(presses):
                    command.send(signal.SIGINT, to_group=True)
                    time.sleep(0.15)
                code = command.ended()
                took = time.monotonic() - pressed
                if presses > 1 and took > AT_ONCE_SECONDS:
                    self.wrong(case, f"ended after {took:.1f} s")
                if code not in (0, 130, -signal.SIGINT):
                    self.wrong(case, f"exit code {code}: {command.lines[-200:]}")
                self.said_well(case, command)
                seen.look()
                if presses != 6 or late:
                    self.finished(case, folder, seen)
                print(f"{case}: exit {code} after {took:.1f} s", flush=True)

    def building(self, command: Command, workers: int) -> None:
        """Returns when the first workers are about to start."""
        while "new, " not in command.lines and not command.is_over:
            time.sleep(0.02)

    def terminal(self, *counts: int) -> None:
        """The terminal in which it runs is closed."""
        for workers in counts or (1, 2):
            folder = self.fresh("terminal")
            seen = Seen(folder)
            child, terminal = pty.fork()
            if child == 0:
                os.chdir(folder)
                arguments = words(workers, self.budgets)
                os.execv(sys.executable, [sys.executable, "-m", "flops_fit", *arguments])
            while seen.look() < 3:
                with contextlib.suppress(OSError):
                    os.read(terminal, 65536)
            os.close(terminal)  # SIGHUP to all of its session
            closed = time.monotonic()
            _, status = os.waitpid(child, 0)
            took = time.monotonic() - closed
            code = os.waitstatus_to_exitcode(status)
            if code != 130:
                self.wrong("terminal", f"exit code {code}")
            time.sleep(1.0)
            if left := of_session(child):
                self.wrong("terminal", f"{len(left)} processes left")
            self.finished("terminal", folder, seen)
            print(f"terminal closed, {workers} workers: exit {code} after {took:.1f} s", flush=True)

    def disks(self) -> None:
        """No room, no inodes, read-only in mid-sweep: a sentence, and the next command goes on."""
        options = {"no room": "size=300k", "no inodes": "nr_inodes=60", "read-only": "size=50m"}
        for case, option in options.items():
            for workers in (1, 2):
                folder = self.fresh("disks")
                with mounted(folder, option) as remount:
                    if remount is None:
                        print(f"{case}: left out, no tmpfs can be mounted here", flush=True)
                        return
                    seen = Seen(folder)
                    command = Command(words(workers, self.budgets), folder)
                    if case == "read-only":
                        self.under_way(command, seen)
                        remount("ro")
                    code = command.ended()
                    self.said_well(case, command)
                    errors = [x for x in command.lines.splitlines() if x.startswith("error: ")]
                    if code != 1 or len(errors) != 1:
                        self.wrong(case, f"exit code {code}, errors {errors}")
                    seen.look()
                    remount("rw,size=50m,nr_inodes=10000")
                    self.finished(case, folder, seen)
                print(f"{case}, {workers} workers: {(errors or [''])[0][:140]}", flush=True)

    def removed(self) -> None:
        """The folder of the study is removed in mid-sweep."""
        for workers in (1, 2):
            folder = self.fresh("removed")
            seen = Seen(folder)
            command = Command(words(workers, self.budgets), folder)
            self.under_way(command, seen)
            while (folder / "outputs").exists():
                shutil.rmtree(folder / "outputs", ignore_errors=True)
            command.ended()
            self.said_well("removed", command)
            self.finished("removed", folder)
            last = command.lines.strip().splitlines()[-1:]
            print(f"removed, {workers} workers: exit {command.process.returncode} {last}")

    def few_files(self) -> None:
        """As few open files as may be: an error in a sentence, or no matter."""
        for most in (16, 24, 32, 48, 64):
            folder = self.fresh("few files")
            limit = lambda most=most: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # noqa: E731
            command = Command(words(self.workers, self.budgets), folder, limit)
            code = command.ended()
            self.said_well(f"{most} open files", command)
            last = command.lines.strip().splitlines()[-1:]
            print(f"{most} open files: exit {code} {last}", flush=True)
            self.finished("few files", folder)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None] | None]:
    """A small disk there, and what changes its options; None where it can't be."""

    def mount(words: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", words, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not sys.platform.startswith("linux") or not mount(options):
        yield None
        return
    try:
        yield (
            lambda words: (
                subprocess.run(["mount", "-o", f"remount,{words}", str(folder)], check=True)
                and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


CASES = ("kills", "races", "pauses", "stops", "terminal", "disks", "removed", "few_files")


def set_surroundings(set_variable: Callable[[str, str], None]) -> None:
    """What commands are to find in their environment: this package, and one thread each."""
    set_variable("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    set_variable("OMP_NUM_THREADS", "1")


def tortured(cases: Sequence[str], torture: Torture) -> list[str]:
    """What went wrong."""
    set_surroundings(os.environ.__setitem__)
    torture.begin()
    for case in cases:
        started = time.monotonic()
        getattr(torture, case)()
        print(f"== {case}: {time.monotonic() - started:.0f} s", flush=True)
    return torture.found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if unknown := set(asked.cases) - {*CASES}:
        parser.error(f"{', '.join(unknown)} is no case: use {', '.join(CASES)}")
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as place:
        torture = Torture(Path(place), random.Random(asked.seed), asked.rounds)
        found = tortured(asked.cases, torture)
    print(f"{len(found)} things that must not be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
