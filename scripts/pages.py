"""Pages of the documentation whose commands can be run, and what they print put under them.

    python scripts/pages.py [--folder FOLDER] [PAGE ...]

Runs each page and notebook (all that show a screen or a figure, unless some are named) in a folder
of its own, from top to bottom as a reader would, and writes screens, figures and outputs into it.
What is in FOLDER from an earlier call is not trained again. A page is Markdown in which

    ```yaml title="conf/model/net.yaml"        is a file that the reader writes
    ```bash                                    are commands, one a line
    ```python                                  is a script
    <!-- test: budget=smoke -->                before commands: words that a test adds to each, so
                                               that it takes seconds
    <!-- not run: it needs the network -->     before a block that stays a block
    <!-- screen --> or <!-- screen: 8 -->      till <!-- end -->: what the commands above it print,
                                               or the first lines of it, 80 columns wide
    <!-- made: outputs/x/latest/figures/y.png -->
                                               before an image: the file that it is a copy of
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 80
TEMPLATE = ROOT / "docs/fitting.template.md"
"""Of which fitting.md is made, itself a page."""

END = "<!-- end -->"

PART = re.compile(
    r"(?:^<!-- (?P<said>(?:test|not run): [^\n]*) -->\n)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$"
    r"|^<!-- screen(?:: (?P<lines>\d+))? -->\n(?P<shown>.*?)^<!-- end -->$"
    r"|^<!-- made: (?P<made>\S+) -->\n!\[[^\]]*\]\((?P<image>[^)]+)\)",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """Code between fences."""

    language: str
    title: str | None
    text: str
    said: str  # in the comment before it

    @property
    def is_run(self) -> bool:
        return not self.said.startswith("not run:")

    @property
    def words(self) -> list[str]:
        """What a test adds to its commands."""
        return shlex.split(self.said.removeprefix("test:")) if self.said[:5] == "test:" else []


def pages() -> list[Path]:
    """Every page of the documentation and of the examples."""
    return [
        ROOT / "README.md",
        *sorted(set(ROOT.glob("docs/*.md")) - {TEMPLATE}),
        *sorted(ROOT.glob("examples/**/*.md")),
    ]


def block_of(part: re.Match[str]) -> Block:
    return Block(part["language"], part["title"], part["text"], part["said"] or "")


def blocks(page: Path) -> list[Block]:
    """What stands between fences, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [block_of(part) for part in PART.finditer(text) if part["language"]]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def prepare(folder: Path) -> None:
    """The shipped tables where commands look for them, as at the top of a checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")


def keep_file(block: Block, folder: Path) -> None:
    """Writes the file that the block is."""
    assert block.title is not None
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def screen(words: list[str], folder: Path) -> str:
    """What the command prints on a terminal of `COLUMNS`; raises if it fails."""
    if words[0] in ("flops-fit", "python"):
        module = ["-m", "flops_fit"] if words[0] == "flops-fit" else []
        words = [sys.executable, *module, *words[1:]]
    terminal, end = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=folder, stdout=end, env=environment) as process:
        os.close(end)
        read = bytearray()
        while piece := _read(terminal):
            read += piece
    os.close(terminal)
    if process.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with exit code {process.returncode}")
    lines = read.decode().replace("\r\n", "\n").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so where the other end is closed
        return b""


def shown(printed: list[str], num_lines: str | None) -> str:
    """What was printed as a block, or its first lines."""
    lines = [line for text in printed for line in text.splitlines()]
    if num_lines and len(lines) > int(num_lines):
        lines = [*lines[: int(num_lines)], "..."]
    return "```text\n" + "\n".join(lines).strip("\n") + "\n```\n"


def written(page: Path, folder: Path) -> str:
    """The page with today's screens; copies its figures."""
    prepare(folder)
    text, done, printed = page.read_text(encoding="utf-8"), 0, [""]
    block = Block("", None, "", "")
    out = []
    for part in PART.finditer(text):
        out.append(text[done : part.start()])
        done, whole = part.end(), part[0]
        if part["made"]:
            image = page.parent / part["image"]
            image.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / part["made"], image)
        elif part["shown"] is not None:
            head = whole.split("\n", 1)[0]
            whole = f"{head}\n{shown(printed, part['lines'])}{END}"
        else:
            block = block_of(part)
            if not block.is_run:
                pass
            elif block.title:
                keep_file(block, folder)
            elif block.language == "bash":
                printed = [screen(words, folder) for words in commands(block.text)]
            elif block.language == "python":
                printed = [screen(["python", "-c", block.text], folder)]
        out.append(whole)
    return "".join([*out, text[done:]])


def with_outputs(notebook: Path, folder: Path) -> str:
    """The notebook with what its cells print today, run beside the tables; raises if one fails."""
    import nbformat
    from nbclient import NotebookClient

    shutil.copytree(ROOT / "examples", folder, dirs_exist_ok=True)
    cells = nbformat.read(notebook, as_version=4)
    NotebookClient(
        cells, timeout=300, record_timing=False, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return nbformat.writes(cells) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    showing = [p for p in pages() if re.search(r"^<!-- (screen|made:)", p.read_text("utf-8"), re.M)]
    showing += ROOT.glob("examples/*.ipynb")
    for page in asked.pages or showing:
        page = page.resolve()
        parent = asked.folder.resolve() if asked.folder else Path(tempfile.mkdtemp())
        print(page.relative_to(ROOT), flush=True)
        folder = parent / page.relative_to(ROOT).with_suffix("")
        made = with_outputs if page.suffix == ".ipynb" else written
        page.write_text(made(page, folder), encoding="utf-8")


if __name__ == "__main__":
    main()
