"""A block of a Markdown file that a script writes, between `<!-- NAME -->` and `<!-- end -->`."""

from __future__ import annotations

from pathlib import Path

END = "<!-- end -->"


def block(path: Path, name: str) -> str:
    """What stands between the marks. Raises `ValueError` where they are not in the file."""
    return _parts(path, name)[1]


def write_block(path: Path, name: str, text: str) -> None:
    head, _, tail = _parts(path, name)
    path.write_text(f"{head}\n{text.strip()}\n{tail}", encoding="utf-8")


def _parts(path: Path, name: str) -> tuple[str, str, str]:
    start = f"<!-- {name} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(start)
    inside, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{path} has no {start} ... {END}")
    return before + start, inside, END + after
