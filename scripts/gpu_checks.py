"""`gpu_check`: its parts one after the other, each in a process of its own with a time limit.

A part that takes too long is killed with all its processes, and what it had measured counts; the
others go on. After each part the table, FOLDER/gpu_check.json and FOLDER/gpu.md are up to date.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from gpu_table import BLOCK, PARTS, Check, Reading, page, plain_table
from marked_block import END, write_block

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs/gpu.md"
TITLE = "# GPU\n\n"

LIMIT = 560.0
"""Seconds for all parts together: a machine is lent for ten minutes a command."""

LIMITS = {
    "machine": 60.0, "steps": 120.0, "toy": 60.0, "source": 100.0, "big": 170.0,
    "exact": 110.0, "side": 120.0, "plan": 120.0,
}  # fmt: skip
"""Seconds after which a part is killed."""

LEAST = {"steps": 30.0, "toy": 25.0, "source": 40.0, "big": 60.0, "exact": 40.0, "side": 40.0,
         "plan": 15.0}  # fmt: skip
"""A part is left out where fewer seconds are left: it would measure nothing."""

SMALL_LEAST, SMALL_SLACK = 5.0, 3.0
"""At small sizes: the same for every part; and the times that its limit is longer, since CPUs are
slow and seldom alone."""

DONE = "done"
"""How a part ended that measured all it could."""


def main(words: Sequence[str] | None = None) -> int:
    """0 where all parts came to their end and no goal was missed, else 1."""
    asked = arguments(words)
    if asked.known is not None:
        check = Check.from_json(json.loads(asked.known.read_text(encoding="utf-8")))
    else:
        check = checked(asked)
    print(plain_table(check))
    if asked.write_docs:
        write_docs(check, DOCS)
        print(f"\nwrote {DOCS}")
    return 0 if not check.missed and set(check.parts.values()) == {DONE} else 1


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="minutes on a CPU, to try the script")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/gpu_check", metavar="FOLDER")
    parser.add_argument("--only", type=chosen_parts, default=PARTS, metavar="PART,PART",
                        help=f"of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="in all")
    parser.add_argument("--commit", default=None, help="where git can't be asked")
    parser.add_argument("--write-docs", action="store_true", help="docs/gpu.md in this checkout")
    parser.add_argument("--from", dest="known", type=Path, metavar="FILE",
                        help="a gpu_check.json that is there: measure nothing")  # fmt: skip
    return parser.parse_args(words)


def chosen_parts(text: str) -> tuple[str, ...]:
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"no part {name!r}: use {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in names)


def checked(asked: argparse.Namespace) -> Check:
    """Runs the parts; the folder always holds what was found so far."""
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # parts end too
    asked.out.mkdir(parents=True, exist_ok=True)
    check = Check(
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        commit=asked.commit or commit(),
        machine={},
        device=asked.device,
        small=asked.small,
        seconds=0.0,
        parts=dict.fromkeys(asked.only, "not begun"),
        readings={},
    )
    for part in ("machine", *asked.only):
        left = asked.limit - (time.monotonic() - started)
        ended = part_ended(part, asked, left)
        found = check.machine if ended.machine is None else ended.machine
        check = replace(
            check,
            machine=found,
            seconds=time.monotonic() - started,
            parts={**check.parts, **({} if part == "machine" else {part: ended.how})},
            readings={**check.readings, **ended.readings},
        )
        write(check, asked.out)
        print(f"{part}: {ended.how}, {check.seconds:.0f} s so far", file=sys.stderr, flush=True)
    return check


def part_ended(part: str, asked: argparse.Namespace, left: float) -> Ended:
    """The part, within its own limit and the seconds that are left of all."""
    least = SMALL_LEAST if asked.small else LEAST.get(part, 0.0)
    if left < least:
        return Ended(
            f"left out: {max(left, 0):.0f} s left of --limit, it takes {least:g} s or more"
        )
    limit = min(LIMITS[part] * (SMALL_SLACK if asked.small else 1), left)
    command = [sys.executable, str(Path(__file__).with_name("gpu_parts.py")), part]
    command += ["--device", asked.device, "--seconds", f"{limit:.0f}"]
    command += ["--small"] if asked.small else []
    return ended_process(command, limit, asked.out / f"{part}.log")


@dataclass(frozen=True)
class Ended:
    """How a part's process ended, in words, and what it had said by then."""

    how: str
    readings: Mapping[str, Reading] = field(default_factory=dict)
    machine: Mapping[str, Any] | None = None


def ended_process(command: Sequence[str], limit: float, log: Path) -> Ended:
    """Runs the command, which says its readings as JSON lines, for `limit` seconds at most.

    Then it is killed with every process that it started. `log` gets what it wrote on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as scratch:
        with log.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=scratch,
                env=environment(scratch),
                start_new_session=True,
            )
            assert process.stdout is not None
            said = Said()
            reader = threading.Thread(target=said.listen, args=(process.stdout,), daemon=True)
            reader.start()
            try:
                code: int | None = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:  # a Ctrl-C too
                kill_group(process)
        reader.join(timeout=5)
        if not reader.is_alive():  # else something that left the group still holds the pipe
            process.stdout.close()
    if code is None:
        how = f"stopped after {limit:.0f} s"
    elif code:
        how = f"failed: {last_line(log) or f'exit code {code}'}"
    else:
        how = DONE
    return Ended(how, said.readings, said.machine)


def environment(scratch: str) -> dict[str, str]:
    """Ours, with this checkout importable from any folder, and temporary files where they go."""
    given = os.environ.get("PYTHONPATH", "")
    paths = [str(Path(path).resolve()) for path in given.split(os.pathsep) if path]
    return {
        **os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)]), "TMPDIR": scratch,
        "XDG_CACHE_HOME": str(Path(scratch, "cache")), "COLUMNS": "160", "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip


def kill_group(process: subprocess.Popen[str]) -> None:
    """The process, which leads its group, and whatever it left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Said:
    """What a part has said so far; of each row the last word counts."""

    def __init__(self) -> None:
        self.readings: dict[str, Reading] = {}
        self.machine: dict[str, Any] | None = None

    def listen(self, lines: IO[str]) -> None:
        for line in lines:
            self.hear(line)

    def hear(self, line: str) -> None:
        """Lines that are no JSON object are of libraries that print."""
        try:
            said = json.loads(line)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if "machine" in said:
            self.machine = said["machine"]
        elif "row" in said:
            row = said.pop("row")
            self.readings[row] = Reading(**said)


def last_line(log: Path) -> str:
    """What an error says: the last line with something on it."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:400]


def write(check: Check, folder: Path) -> None:
    """The check as JSON and as a page."""
    text = json.dumps(check.to_json(), indent=2)
    (folder / "gpu_check.json").write_text(f"{text}\n", encoding="utf-8")
    (folder / "gpu.md").write_text(f"{TITLE}{page(check)}\n", encoding="utf-8")


def write_docs(check: Check, path: Path) -> None:
    """The block of the page that this script writes; the whole page where there is none."""
    if not path.exists():
        path.write_text(f"{TITLE}<!-- {BLOCK} -->\n{END}\n", encoding="utf-8")
    write_block(path, BLOCK, page(check))


def commit() -> str:
    """Of the checkout, `+` where files differ from it."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=7", "--dirty=+"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
