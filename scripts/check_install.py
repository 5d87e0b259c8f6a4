"""From nothing to a law of one's own, as the documentation says it: checked, and timed.

    python scripts/check_install.py [--model] [--wheel FILE] [--write]

Makes an environment, installs light/ (or its wheel), fits the table of docs/own-table.md and asks
it, and sees that there a training ends in a sentence. With --model installs the whole, writes the
files of docs/own-model.md, plans and trains. Versions are those of constraints.txt. With --write
the seconds are put into the page. Needs nothing but Python's own library.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from marked_block import write_block

ROOT = Path(__file__).resolve().parents[1]
FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^flops-fit (.*)$", re.MULTILINE)
SHOWN = 2
"""Commands of a page that are run: those up to its law."""


def run(*words: object, cwd: Path, code: int = 0) -> str:
    """What the command prints; raises where it ends otherwise than expected."""
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def installed(what: Path, folder: Path) -> Path:
    """The programs of a new environment that has it."""
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    venv = folder / "venv" / "bin"
    run(venv / "pip", "install", "-q", "-c", ROOT / "constraints.txt", what, cwd=folder)
    return venv


def answered(page: str, venv: Path, folder: Path) -> None:
    """Writes the files of the page and types its first commands."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name, content in FILE.findall(text):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    for command in COMMAND.findall(text)[:SHOWN]:
        said = run(venv / "flops-fit", *shlex.split(command), cwd=folder)
        if not re.search(r"\d", said):
            raise SystemExit(f"flops-fit {command} answers without a number: {said}")


def check_no_torch(venv: Path, folder: Path) -> None:
    """It is not there, and a training says so in a sentence."""
    run(venv / "python", "-c", "import torch", cwd=folder, code=1)
    said = run(venv / "flops-fit", "train", "model=mlp", "dataset=toy", cwd=folder, code=1)
    if said.count("\n") != 1 or "pip install torch" not in said:
        raise SystemExit(f"train without torch says: {said}")


def timed(page: str, what: Path, *, without_torch: bool) -> str:
    """What it took, in words."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        venv = installed(what, folder)
        then = time.monotonic()
        answered(page, venv, folder)
        end = time.monotonic()
        if without_torch:
            check_no_torch(venv, folder)
        files = (file for file in (folder / "venv").rglob("*") if file.is_file())
        megabytes = sum(file.stat().st_size for file in files) / 1e6
    return (
        f"{then - start:.0f} s to make an environment and install ({megabytes:,.0f} MB), "
        f"{end - then:.0f} s for the commands up to here"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="store_true")
    parser.add_argument("--wheel", type=Path, default=ROOT / "light")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    page, what = ("own-model.md", ROOT) if asked.model else ("own-table.md", asked.wheel)
    measured = timed(page, what, without_torch=not asked.model)
    print(f"{page}: {measured}")
    if asked.write:
        where = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        said = f"Measured by `scripts/check_install.py` ({where}): {measured}."
        write_block(ROOT / "docs" / page, "figures: install", said)


if __name__ == "__main__":
    main()
