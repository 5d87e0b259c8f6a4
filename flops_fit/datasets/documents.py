"""Text files as a corpus: which documents there are, and which of them are held out."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flops_fit.datasets.source import check_held_out_fraction
from flops_fit.errors import ConfigError


class HasText(Protocol):
    """What can be tokenized."""

    def text(self) -> str: ...


@dataclass(frozen=True)
class Document:
    """A file, known by the SHA-256 of its content."""

    digest: bytes
    path: Path

    def text(self) -> str:
        """What isn't UTF-8 becomes U+FFFD."""
        return self.path.read_bytes().decode(errors="replace")


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and held-out ones, in the order of their digests."""

    training: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of the content of both parts."""
        parts = (b"".join(d.digest for d in part) for part in (self.training, self.held_out))
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def corpus_of(files: str | Sequence[str], held_out: float) -> Corpus:
    """The documents in `files`: paths, folders or globs.

    Each document goes, by the value of its hash, to training or to the `held_out` part, so neither
    names nor the order of folders matter, and copies of a file count once.
    Raises `ConfigError` where a part would be empty.
    """
    named = [files] if isinstance(files, str) else list(files)
    patterns = [str(Path(pattern).expanduser()) for pattern in named]
    documents = distinct(set().union(*map(find_files, patterns)))
    if not documents:
        raise ConfigError(f"no text in files {patterns}: nothing matches, or all are empty")
    return split(documents, held_out)


def find_files(pattern: str) -> set[Path]:
    """The file, everything in the folder, or what the glob `pattern` finds."""
    everything_inside = f"{glob.escape(pattern)}/**/*"
    wanted = everything_inside if Path(pattern).is_dir() else pattern
    return {path for path in map(Path, glob.iglob(wanted, recursive=True)) if path.is_file()}


def distinct(paths: Iterable[Path]) -> list[Document]:
    """In the order of their digests; empty files and all but one of the same content left out."""
    contents = ((path, path.read_bytes()) for path in sorted(paths))
    by_digest = {hashlib.sha256(content).digest(): path for path, content in contents if content}
    return [Document(digest, path) for digest, path in sorted(by_digest.items())]


def split(documents: Sequence[Document], held_out: float) -> Corpus:
    check_held_out_fraction(held_out)
    parts: tuple[list[Document], list[Document]] = ([], [])
    for document in documents:
        parts[goes_to_held_out(document.digest, held_out)].append(document)
    for name, part in zip(("training", "held-out"), parts, strict=True):
        if not part:
            raise ConfigError(
                f"{len(documents)} files and held_out {held_out:g} leave the {name} part empty: "
                "give more files or another fraction"
            )
    return Corpus(*map(tuple, parts))


def goes_to_held_out(digest: bytes, held_out: float) -> bool:
    """Whether a document of this hash is one of the share `held_out` that is kept."""
    return int.from_bytes(digest[:8]) < int(held_out * 2**64)
