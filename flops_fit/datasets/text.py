"""Text as bytes or tokens: any files, or the source code of Python's own standard library."""

from __future__ import annotations

import glob
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from flops_fit.datasets.documents import Corpus, Document, corpus_of
from flops_fit.datasets.tokenizing import tokenized
from flops_fit.datasets.tokens import TokenStreams, WindowSource
from flops_fit.errors import ConfigError

NUM_BYTE_VALUES = 256

DOCUMENT_END = b"\0"
"""Between files: a byte that no UTF-8 text contains."""

INSTALLED_PACKAGES = ("site-packages", "dist-packages")
"""Folders inside the standard library's that are not part of it."""


class Text(WindowSource):
    """UTF-8 files, each a document, of which `held_out` are kept for evaluation.

    `files` are paths, folders or globs (`docs/**/*.md`), see `corpus_of`. Without a `tokenizer`
    they are read as bytes: the ids are 0..255 and a token is a byte. `tokenizer` is the JSON file
    of a tokenizer of the `tokenizers` library, or "bpe" for one trained on the training part with
    `vocab_size` ids; the tokens are kept in `cache_dir`, see `tokenized`.
    """

    def __init__(
        self,
        files: str | Sequence[str],
        context_length: int = 128,
        held_out: float = 0.05,
        vocab_size: int = NUM_BYTE_VALUES,
        tokenizer: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        corpus = corpus_of(files, held_out)
        if tokenizer is None:
            streams = read_as_bytes(corpus, vocab_size)
        else:
            streams = tokenized(corpus, tokenizer, vocab_size, cache_dir)
        super().__init__(streams, vocab_size, context_length)


class PythonSource(Text):
    """The standard library of the running Python: its `.py` files, on every machine with Python.

    About 31 MB where the library's own tests are installed, 14 MB otherwise.
    """

    def __init__(
        self,
        context_length: int = 128,
        held_out: float = 0.05,
        vocab_size: int = NUM_BYTE_VALUES,
        tokenizer: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        files = standard_library_globs()
        super().__init__(files, context_length, held_out, vocab_size, tokenizer, cache_dir)


def standard_library_globs() -> list[str]:
    """Globs for the library's `.py` files, installed packages left out without a walk there."""
    library = Path(sysconfig.get_path("stdlib"))
    folders = [p for p in library.iterdir() if p.is_dir() and p.name not in INSTALLED_PACKAGES]
    inside = [f"{glob.escape(str(folder))}/**/*.py" for folder in folders]
    return [f"{glob.escape(str(library))}/*.py", *inside]


def read_as_bytes(corpus: Corpus, vocab_size: int) -> TokenStreams:
    """Both parts as bytes (uint8), DOCUMENT_END after each document."""
    if vocab_size < NUM_BYTE_VALUES:
        raise ConfigError(
            f"dataset.vocab_size is {vocab_size}: text is read as bytes, which need "
            f"{NUM_BYTE_VALUES}"
        )
    return TokenStreams(joined(corpus.training), joined(corpus.held_out), bytes_per_token=1.0)


def joined(documents: Iterable[Document]) -> np.ndarray:
    contents = (document.path.read_bytes() for document in documents)
    return np.frombuffer(DOCUMENT_END.join((*contents, b"")), np.uint8)
