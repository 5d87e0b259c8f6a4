"""Which files a table stands in: one, several, a folder or a pattern."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from flops_fit.fitting.errors import FitError

Asked = str | Path | Sequence[str | Path]

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")

ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".md", ".parquet", ".xlsx")
"""Of the files in a folder that are taken for tables, packed or not."""


def table_files(asked: Asked) -> list[Path]:
    """The files that are asked for, each once, those of a folder or a pattern by name.

    `asked` may be a text as it comes from the command line, `[a.csv,b.csv]`. Raises `FitError`
    where nothing is there.
    """
    if isinstance(asked, str):
        words = _words(asked)
    else:
        words = [asked] if isinstance(asked, Path) else list(asked)
    found = [path for word in words for path in _files(Path(word).expanduser())]
    if not found:
        raise FitError("runs names no file", "give a table, a folder of tables or a pattern")
    return list({path.resolve(): path for path in found}.values())


def _words(text: str) -> Sequence[str | Path]:
    """The files of a text with commas; one that is there with its comma is one."""
    if Path(text).expanduser().exists():
        return [text]
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    return [word for part in inner.split(",") if (word := part.strip().strip("'\""))]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return _of_folder(path)
    if not path.exists() and any(character in str(path) for character in "*?["):
        matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        if files := [match for match in matches if match.is_file()]:
            return files
        raise FitError(f"no file is like {path}", "check the pattern and the folder it starts in")
    return [path]


def _of_folder(folder: Path) -> list[Path]:
    """The tables in a folder, else those anywhere below it."""
    for candidates in (folder.iterdir(), folder.rglob("*")):
        tables = sorted(path for path in candidates if path.is_file() and _is_table(path))
        if tables:
            return tables
    raise FitError(f"{folder} holds no table", f"give a folder of files in {', '.join(ENDINGS)}")


def _is_table(path: Path) -> bool:
    return _unpacked(path.name).lower().endswith(ENDINGS) and not path.name.startswith((".", "~$"))


def _unpacked(name: str) -> str:
    """The name without the ending of what packed it."""
    ending = next((ending for ending in PACKED if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def name_of(asked: Asked, files: Sequence[Path]) -> str:
    """A name for the study of these files: that of the file or folder, without endings."""
    first = Path(_unpacked(files[0].name)).stem or files[0].name
    if len(files) == 1:
        return first
    if isinstance(asked, str | Path) and (folder := Path(asked).expanduser()).is_dir():
        return folder.resolve().name or first
    return f"{first}-and-{len(files) - 1}-more"


def names_beside(files: Sequence[Path]) -> list[str]:
    """What tells the files apart: their names, with folders where names repeat."""
    if len({path.name for path in files}) == len(files):
        return [path.name for path in files]
    parts = [path.resolve().parts for path in files]
    shared = 0
    while len({part[: shared + 1] for part in parts}) == 1:
        shared += 1
    return ["/".join(part[shared:]) for part in parts]
