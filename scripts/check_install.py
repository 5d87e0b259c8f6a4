"""From nothing to a law of one's own table with the light install: checked, and timed.

    python scripts/check_install.py [--wheel FILE] [--write]

Makes an environment, installs light/ (or its wheel) with the versions of constraints.txt, fits the
table of docs/own-table.md and asks it, and sees that a training ends in a sentence. With --write
the seconds are put into that page. Needs nothing but Python's own library.
"""

from __future__ import annotations

import argparse
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
PAGE = ROOT / "docs" / "own-table.md"
TABLE = re.compile(r'^```csv title="mine.csv"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^flops-fit (.*)$", re.MULTILINE)


def run(*words: object, cwd: Path, code: int = 0) -> str:
    """What the command prints; raises where it ends otherwise than expected."""
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--wheel", type=Path, default=ROOT / "light")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        venv = folder / "venv" / "bin"
        run(venv / "pip", "install", "-q", "-c", ROOT / "constraints.txt", asked.wheel, cwd=folder)
        installed = time.monotonic()
        (folder / "mine.csv").write_text(TABLE.search(page)[1], encoding="utf-8")  # type: ignore[index]
        fit, predict = COMMAND.findall(page)[:2]
        run(venv / "flops-fit", *shlex.split(fit), cwd=folder)
        said = run(venv / "flops-fit", *shlex.split(predict), cwd=folder)
        answered = time.monotonic()
        if not re.search(r"\d", said):
            raise SystemExit(f"predict answers without a number: {said}")
        run(venv / "python", "-c", "import torch", cwd=folder, code=1)
        without = run(venv / "flops-fit", "train", "model=mlp", "dataset=toy", cwd=folder, code=1)
        if without.count("\n") != 1 or "pip install torch" not in without:
            raise SystemExit(f"train without torch says: {without}")
        megabytes = sum(f.stat().st_size for f in (folder / "venv").rglob("*") if f.is_file()) / 1e6
    measured = (
        f"{installed - start:.0f} s to make an environment and install ({megabytes:.0f} MB), "
        f"{answered - installed:.0f} s to fit the table and ask it"
    )
    print(measured)
    if asked.write:
        where = f"{platform.machine()}, Python {platform.python_version()}"
        made = f"Measured by `scripts/check_install.py` ({where}): {measured}."
        write_block(PAGE, "figures: install", made)


if __name__ == "__main__":
    main()
