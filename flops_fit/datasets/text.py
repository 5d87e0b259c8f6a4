"""Text as bytes: any files, or the source code of Python's own standard library."""

from __future__ import annotations

import glob
import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from flops_fit.datasets.source import check_held_out_fraction
from flops_fit.datasets.tokens import WindowSource
from flops_fit.errors import ConfigError

NUM_BYTE_VALUES = 256

DOCUMENT_END = b"\0"
"""Between files: a byte that no UTF-8 text contains."""

INSTALLED_PACKAGES = ("site-packages", "dist-packages")
"""Folders inside the standard library's that are not part of it."""


class Text(WindowSource):
    """UTF-8 files read as bytes: the ids are 0..255 and a token is a byte.

    `files` are paths, folders or globs (`docs/**/*.md`).
    Each file goes, by the hash of its content, to training or to the `held_out` part, so neither
    names nor the order of folders matter, and copies of a file count once.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        context_length: int = 128,
        held_out: float = 0.05,
        vocab_size: int = NUM_BYTE_VALUES,
    ) -> None:
        if vocab_size < NUM_BYTE_VALUES:
            raise ConfigError(
                f"dataset.vocab_size is {vocab_size}: text is read as bytes, which need "
                f"{NUM_BYTE_VALUES}"
            )
        patterns = [files] if isinstance(files, str) else list(files)
        paths = set().union(*map(find_files, patterns))
        documents = distinct(path.read_bytes() for path in paths)
        if not documents:
            raise ConfigError(f"no text in files {patterns}: nothing matches, or all are empty")
        training, evaluation = split(documents, held_out)
        super().__init__(training, evaluation, vocab_size, context_length)


class PythonSource(Text):
    """The standard library of the running Python: its `.py` files, on every machine with Python.

    About 31 MB where the library's own tests are installed, 14 MB otherwise.
    """

    def __init__(
        self,
        context_length: int = 128,
        held_out: float = 0.05,
        vocab_size: int = NUM_BYTE_VALUES,
    ) -> None:
        super().__init__(standard_library_globs(), context_length, held_out, vocab_size)


def standard_library_globs() -> list[str]:
    """Globs for the library's `.py` files, installed packages left out without a walk there."""
    library = Path(sysconfig.get_path("stdlib"))
    folders = [p for p in library.iterdir() if p.is_dir() and p.name not in INSTALLED_PACKAGES]
    inside = [f"{glob.escape(str(folder))}/**/*.py" for folder in folders]
    return [f"{glob.escape(str(library))}/*.py", *inside]


def find_files(pattern: str) -> set[Path]:
    """The file, everything in the folder, or what the glob `pattern` finds."""
    everything_inside = f"{glob.escape(pattern)}/**/*"
    wanted = everything_inside if Path(pattern).is_dir() else pattern
    return {path for path in map(Path, glob.iglob(wanted, recursive=True)) if path.is_file()}


def distinct(documents: Iterable[bytes]) -> dict[bytes, bytes]:
    """SHA-256 -> content, in the order of the hashes, empty documents left out."""
    by_hash = {hashlib.sha256(content).digest(): content for content in documents if content}
    return dict(sorted(by_hash.items()))


def split(documents: dict[bytes, bytes], held_out: float) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out bytes (uint8), documents going by the value of their hash."""
    threshold = int(check_held_out_fraction(held_out) * 2**64)
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for digest, content in documents.items():
        parts[int.from_bytes(digest[:8]) < threshold].append(content)
    for name, part in zip(("training", "held-out"), parts, strict=True):
        if not part:
            raise ConfigError(
                f"{len(documents)} files and held_out {held_out:g} leave the {name} part empty: "
                "give more files or another fraction"
            )
    training, evaluation = (DOCUMENT_END.join((*part, b"")) for part in parts)
    return np.frombuffer(training, np.uint8), np.frombuffer(evaluation, np.uint8)
