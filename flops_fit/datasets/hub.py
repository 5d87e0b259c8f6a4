"""Datasets of the Hugging Face `datasets` library as files of token ids, made once.

A row is a document: its text is tokenized, or its ready ids are taken as they are, and documents
are packed one after the other into samples of the context's length.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flops_fit.datasets.documents import goes_to_held_out
from flops_fit.datasets.source import check_held_out_fraction
from flops_fit.datasets.tokenizing import (
    FORMAT,
    AnyEncoder,
    EncodedPiece,
    Encoder,
    TokenWriter,
    check_vocab_size,
    kept_files,
    open_files,
    tokenizer_source,
    write_info,
)
from flops_fit.datasets.tokens import WindowSource
from flops_fit.errors import ConfigError
from flops_fit.files import user_cache

TEXT_COLUMNS = ("text", "content")
ID_COLUMNS = ("input_ids", "tokens", "ids", "token_ids")
"""Of a dataset whose column isn't named the first that is there."""

MASK = "attention_mask"
"""A column beside the ids that is 0 where they are padding."""

BUILDERS = {
    **{".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text"},
    **{".parquet": "parquet", ".arrow": "arrow"},
}
"""What reads a local file, by the end of its name (before .gz, .zst and the like)."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")

ROWS = 1000
"""Rows that are read and tokenized at a time."""

BYTES_END = b"\0"
"""Between documents that are read as bytes: no UTF-8 text contains it."""

NUM_BYTE_VALUES = 256


class Hub(WindowSource):
    """A dataset by its name on the Hugging Face hub, local files or folders, or one of Python.

    `name` is what `datasets.load_dataset` takes (with `subset`, `split` and `revision`), a file or
    glob that it can read (.parquet, .jsonl, .csv, .txt), a folder of `save_to_disk`, or a Dataset
    or IterableDataset itself. `column` holds text or lists of ids; null: the first of TEXT_COLUMNS
    and ID_COLUMNS that is there. Text is tokenized as in `Text`, where `tokenizer` may also be a
    name on the hub. `held_out` of the rows, told by their content, are kept for evaluation, or all
    of `held_out_split`. With `streaming` nothing is downloaded but what is read: the first
    `max_tokens` to train on; tokens are kept in `cache_dir`, so that runs shuffle them and resume.
    """

    def __init__(
        self,
        name: Any,
        subset: str | None = None,
        split: str = "train",
        revision: str | None = None,
        column: str | None = None,
        context_length: int = 128,
        vocab_size: int = NUM_BYTE_VALUES,
        tokenizer: str | None = None,
        held_out: float = 0.05,
        held_out_split: str | None = None,
        streaming: bool = False,
        max_tokens: float | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        check_held_out_fraction(held_out)
        if max_tokens is not None and not max_tokens >= 1:
            raise ConfigError(f"dataset.max_tokens is {max_tokens:g}: give a number above 0")
        opened = Opened(name, subset, revision, streaming)
        rows = opened.rows(split, column)
        rest = held_out if held_out_split is None else opened.rows(held_out_split, rows.column.name)
        encoding = Encoding.of(rows.column, tokenizer, vocab_size)
        parts = Parts(rows, rest, held_out, max_tokens)
        folder = kept_files(
            Path(cache_dir) if cache_dir else user_cache(),
            parts.key and repr((FORMAT, encoding.key, parts.key)),
            lambda folder: write_parts(folder, parts, encoding, vocab_size),
        )
        super().__init__(open_files(folder, vocab_size), vocab_size, context_length)


@dataclass(frozen=True)
class Opened:
    """Where splits come from: a name, local files, a saved folder, or objects of Python."""

    name: Any
    subset: str | None
    revision: str | None
    streaming: bool

    def rows(self, split: str, column: str | None) -> Rows:
        """Raises `ConfigError` for what isn't there."""
        dataset = self.split(split)
        chosen = column_of(dataset, column)
        names = [chosen.name, *([MASK] if chosen.has_mask else [])]
        known = getattr(dataset, "_fingerprint", None) or self.described(split)
        return Rows(dataset.select_columns(names), chosen, known)

    def described(self, split: str) -> str | None:
        """What a stream is known by, which nothing else is known of; None of an object."""
        if not isinstance(self.name, str | Path):
            return None
        files = (Path(f) for f in glob.iglob(str(Path(self.name).expanduser()), recursive=True))
        local = sorted((f"{f}", f.stat().st_size, f.stat().st_mtime_ns) for f in files)
        return repr((f"{self.name}", self.subset, self.revision, split, local))

    def split(self, split: str) -> Any:
        """A Dataset or IterableDataset. Raises `ConfigError` with what the library says."""
        library = datasets_library()
        if not isinstance(self.name, str | Path):
            return self._of_object(library, split)
        try:
            return self._of_object(library, split, self._loaded(library, split))
        except ConfigError:
            raise
        except Exception as error:  # the library's own, and those of what it reads with
            said = " ".join(f"{error}".split())[:300]
            raise ConfigError(
                f"dataset.name={self.name}, split {split}: can't be loaded "
                f"({type(error).__name__}: {said}): give a name on the hub, local files or a folder"
            ) from error

    def _loaded(self, library: ModuleType, split: str) -> Any:
        path = Path(self.name).expanduser()
        if any((path / f).is_file() for f in ("state.json", "dataset_dict.json")):
            return library.load_from_disk(str(path))
        common = {"split": split, "streaming": self.streaming}
        if path.is_file() or (glob.has_magic(str(path)) and glob.glob(str(path), recursive=True)):
            builder = builder_of(path)
            settings = {"sample_by": "document"} if builder == "text" else {}
            settings |= {"sep": "\t"} if ".tsv" in path.suffixes else {}
            return library.load_dataset(builder, data_files=str(path), **settings, **common)
        if is_local(self.name) and not path.is_dir():
            raise ConfigError(f"dataset.name={self.name}: there is no such file or folder")
        name = str(path) if path.is_dir() else str(self.name)
        return library.load_dataset(name, self.subset, revision=self.revision, **common)

    def _of_object(self, library: ModuleType, split: str, found: Any = None) -> Any:
        """The split of what is a dict of them, or the only one."""
        found = self.name if found is None else found
        if isinstance(found, library.DatasetDict | library.IterableDatasetDict):
            if split not in found:
                raise ConfigError(
                    f"dataset.split is {split}: there are {', '.join(map(str, found))}"
                )
            return found[split]
        if not isinstance(found, library.Dataset | library.IterableDataset):
            raise ConfigError(
                f"dataset.name is {type(found).__qualname__}: give a name, a path, or a Dataset or "
                "IterableDataset of the datasets library"
            )
        return found


def is_local(name: str | Path) -> bool:
    """Whether a name can only be that of files: the hub knows OWNER/NAME without an ending."""
    text = str(name)
    ends = [suffix.lower() for suffix in Path(text).suffixes]
    return (
        text.startswith(("/", "./", "../", "~"))
        or glob.has_magic(text)
        or text.count("/") > 1
        or any(end in BUILDERS for end in ends)
    )


def builder_of(path: Path) -> str:
    """Raises `ConfigError` where nothing is known that reads the file."""
    ends = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED]
    if not ends or ends[-1] not in BUILDERS:
        raise ConfigError(
            f"dataset.name={path}: files must end in {', '.join(BUILDERS)}, or these with .gz"
        )
    return BUILDERS[ends[-1]]


@dataclass(frozen=True)
class Column:
    """Where a row's document stands: text or ids."""

    name: str
    holds_ids: bool
    has_mask: bool

    def document(self, row: Mapping[str, Any]) -> RowDocument:
        """Raises `ConfigError` for a row of another kind than the first."""
        value = row[self.name]
        if self.holds_ids:
            ids = np.asarray([] if value is None else value)
            if ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size):
                ids = ids.astype(np.int64)
                kept = ids[np.asarray(row[MASK]) != 0] if self.has_mask and ids.size else ids
                return RowDocument("", kept)
        elif value is None or isinstance(value, str):
            return RowDocument((value or "").encode("utf-8", "replace").decode())
        raise ConfigError(
            f"dataset.column {self.name} holds {value!r:.60} in one row: it must hold text, or a "
            "list of whole numbers, in all of them"
        )


@dataclass(frozen=True)
class RowDocument:
    """The text of a row, or its ids (num_ids,), int64."""

    content: str
    ids: np.ndarray | None = None

    def text(self) -> str:
        return self.content

    @property
    def is_empty(self) -> bool:
        return not (self.content if self.ids is None else self.ids.size)

    @property
    def digest(self) -> bytes:
        content = self.content.encode() if self.ids is None else self.ids.data
        return hashlib.sha256(content).digest()


def column_of(dataset: Any, named: str | None) -> Column:
    """The column that is named, else the first of the usual ones. Raises `ConfigError`."""
    row = next(iter(dataset), None)
    if row is None:
        raise ConfigError("the dataset is empty: it has no row")
    known = (*TEXT_COLUMNS, *ID_COLUMNS) if named is None else (named,)
    name = next((name for name in known if name in row), None)
    if name is None:
        which = "no column with a usual name" if named is None else f"no column {named}"
        raise ConfigError(
            f"the dataset has {which}: there are {', '.join(row)}; set dataset.column to the one "
            "with text or token ids"
        )
    value = next((r[name] for r in itertools.islice(dataset, ROWS) if r[name] is not None), "")
    if isinstance(value, str):
        return Column(name, holds_ids=False, has_mask=False)
    ids = np.asarray(value)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ConfigError(
            f"dataset.column {name} holds {type(value).__name__} such as {str(value)[:40]!r}: it "
            "must hold text, or a list of whole numbers in each row"
        )
    return Column(name, holds_ids=True, has_mask=MASK in row)


@dataclass(frozen=True)
class Rows:
    """The documents of a dataset, in its order, as often as they are asked for.

    `key` tells it from others without a look at them; None where only a look can.
    """

    dataset: Any
    column: Column
    key: str | None

    def __iter__(self) -> Iterator[RowDocument]:
        documents = map(self.column.document, self.dataset)
        return (document for document in documents if not document.is_empty)


@dataclass(frozen=True)
class Parts:
    """Documents to train on and held-out ones: a share of one dataset, or those of another.

    No more than `max_tokens` are wanted to train on, and of another dataset the `share` of that.
    """

    rows: Rows
    held_out: float | Rows
    share: float
    max_tokens: float | None

    @property
    def key(self) -> str | None:
        other = self.held_out.key if isinstance(self.held_out, Rows) else "none"
        if self.rows.key is None or other is None:
            return None
        return repr((self.rows.key, self.rows.column, other, self.share, self.max_tokens))

    def training(self) -> Iterator[RowDocument]:
        return (document for document, is_held_out in self._both() if not is_held_out)

    def write(self, training: TokenWriter, held_out: TokenWriter) -> None:
        """All documents, in one pass through each dataset."""
        if isinstance(self.held_out, Rows):
            most = None if self.max_tokens is None else self.max_tokens * self.share
            held_out.write_until(most, self.held_out)
            training.write_until(self.max_tokens, self.rows)
            return
        both = self._both()
        while group := list(itertools.islice(both, ROWS)):
            held_out.write(document for document, is_held_out in group if is_held_out)
            fresh = (document for document, is_held_out in group if not is_held_out)
            if not training.write_until(self.max_tokens, fresh):
                return

    def _both(self) -> Iterator[tuple[RowDocument, bool]]:
        """Each document of the dataset and whether it is held out."""
        for document in self.rows:
            if isinstance(self.held_out, Rows):
                yield document, False
            else:
                yield document, goes_to_held_out(document.digest, self.held_out)


@dataclass(frozen=True)
class Encoding:
    """How documents become ids: by a tokenizer, as bytes, or not at all."""

    key: str
    encoder: Callable[[Iterable[RowDocument]], AnyEncoder]  # made of the training documents

    @classmethod
    def of(cls, column: Column, tokenizer: str | None, vocab_size: int) -> Encoding:
        if column.holds_ids:
            if tokenizer is not None:
                raise ConfigError(
                    f"dataset.column {column.name} holds ids already: leave out dataset.tokenizer"
                )
            return cls(f"ids-{vocab_size}", lambda training: ReadyIds(vocab_size))
        if tokenizer is None:
            check_vocab_size(NUM_BYTE_VALUES, vocab_size)
            return cls("bytes", lambda training: Utf8())
        source = tokenizer_source(tokenizer, vocab_size)
        return cls(source.key, lambda training: Encoder.of(source.tokenizer(training)))


@dataclass(frozen=True)
class ReadyIds:
    """Ids that the dataset holds already; how many bytes they stand for isn't known."""

    num_ids: int

    def encoded(self, documents: Iterable[RowDocument]) -> Iterator[EncodedPiece]:
        for document in documents:
            ids = document.ids
            assert ids is not None
            if not (ids.min() >= 0 and ids.max() < self.num_ids):
                odd = int(ids.min() if ids.min() < 0 else ids.max())
                raise ConfigError(
                    f"the dataset holds the id {odd}, dataset.vocab_size is {self.num_ids}: ids "
                    "are 0 and above and below it"
                )
            yield EncodedPiece(ids, num_bytes=None)


@dataclass(frozen=True)
class Utf8:
    """Text as its bytes, with BYTES_END after each document."""

    num_ids: int = NUM_BYTE_VALUES

    def encoded(self, documents: Iterable[RowDocument]) -> Iterator[EncodedPiece]:
        for document in documents:
            content = document.text().encode() + BYTES_END
            yield EncodedPiece(np.frombuffer(content, np.uint8), len(content))


def write_parts(folder: Path, parts: Parts, encoding: Encoding, vocab_size: int) -> None:
    """Both parts in one pass. Raises `ConfigError` where one of them is empty."""
    encoder = encoding.encoder(parts.training())
    check_vocab_size(encoder.num_ids, vocab_size)
    with TokenWriter.both(folder, encoder) as writers:
        parts.write(*writers)
        write_info(folder, encoder, parts.key or "", encoding.key, *writers)


def datasets_library() -> ModuleType:
    """Imported where it is needed: an optional extra."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "dataset=hub needs the datasets library: pip install 'flops-fit[hub]'"
        ) from error
    library: ModuleType = datasets
    return library
