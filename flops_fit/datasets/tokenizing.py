"""Text made into files of token ids, once: later processes map them into memory."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from filelock import FileLock

from flops_fit.datasets.documents import Corpus, HasText
from flops_fit.datasets.tokens import TokenStreams
from flops_fit.errors import ConfigError
from flops_fit.files import user_cache

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 1
"""Of the files, and of how text becomes tokens: raise it with every change to either."""

BPE = "bpe"

DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""Names that the end of a document has in common vocabularies; our own takes the first."""

SMALLEST_BPE = 256 + 1
"""Ids of a byte-level BPE without a single merge: the bytes and the end of a document."""

FEWEST_SEEN = 2
"""A pair of tokens that occurs less often is not made one."""

PIECE_CHARS = 2**16
"""Longer documents are encoded in pieces of this and at most twice this length."""

SAFE_CUT = re.compile(r"\S\n(?=\S)")
"""A line break between two lines of text: byte-level tokenizers never join across its end."""

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""OWNER/NAME, or one of the first names without an owner."""

GROUP_CHARS = 2**22
"""Encoded at a time, in parallel: about 100 MB while they are (83 bytes a token)."""


@dataclass(frozen=True)
class TokenFiles:
    """What a folder of token files says of itself, in `INFO`."""

    vocab_size: int
    dtype: str
    training_tokens: int
    held_out_tokens: int
    bytes_per_token: float | None
    corpus: str
    tokenizer: str


INFO, TOKENIZER, TRAINING, HELD_OUT = "info.json", "tokenizer.json", "training.bin", "held_out.bin"


class TokenizerSource(Protocol):
    """Where a tokenizer comes from."""

    @property
    def key(self) -> str:
        """Tells two of them apart that make different tokens of the same documents."""

    def tokenizer(self, training: Iterable[HasText]) -> Tokenizer:
        """Raises `ConfigError` where there is none to be had."""


@dataclass(frozen=True)
class SavedTokenizer:
    """A JSON file of the `tokenizers` library."""

    path: Path

    @property
    def key(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def tokenizer(self, training: Iterable[HasText]) -> Tokenizer:
        library = tokenizers_library()
        try:
            return library.Tokenizer.from_file(str(self.path))  # type: ignore[no-any-return]
        except Exception as error:  # the library raises no type of its own
            raise ConfigError(
                f"dataset.tokenizer {self.path} can't be read ({error}): give a tokenizer.json as "
                "the tokenizers library saves it"
            ) from error


@dataclass(frozen=True)
class HubTokenizer:
    """A tokenizer by its name on the Hugging Face hub, or from what is kept of it here."""

    name: str

    @property
    def key(self) -> str:
        return hashlib.sha256(self._loaded.to_str().encode()).hexdigest()

    def tokenizer(self, training: Iterable[HasText]) -> Tokenizer:
        return self._loaded

    @cached_property
    def _loaded(self) -> Tokenizer:
        library = tokenizers_library()
        try:
            return library.Tokenizer.from_pretrained(self.name)  # type: ignore[no-any-return]
        except Exception as error:  # the library raises no type of its own
            said = " ".join(f"{error}".split())[:200]
            raise ConfigError(
                f"dataset.tokenizer is {self.name}, which is no file, nor can a tokenizer.json of "
                f"this name be had from the Hugging Face hub ({said}): give the tokenizer.json of "
                f"a tokenizer, {BPE} to train one, or null to read bytes"
            ) from error


@dataclass(frozen=True)
class TrainedBpe:
    """Byte-level BPE, trained on the documents; any text can be encoded and decoded again."""

    vocab_size: int

    def __post_init__(self) -> None:
        if self.vocab_size < SMALLEST_BPE:
            raise ConfigError(
                f"dataset.vocab_size is {self.vocab_size}: {BPE} needs at least {SMALLEST_BPE}, "
                "set it to 4096, say"
            )

    @property
    def key(self) -> str:
        return f"{BPE}-{self.vocab_size}"

    def tokenizer(self, training: Iterable[HasText]) -> Tokenizer:
        library = tokenizers_library()
        byte_level = library.pre_tokenizers.ByteLevel
        tokenizer: Tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=FEWEST_SEEN,
            special_tokens=[DOCUMENT_ENDS[0]],
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        )
        every_piece = itertools.chain.from_iterable(map(pieces, training))
        tokenizer.train_from_iterator((piece.text for piece in every_piece), trainer)
        return tokenizer


def tokenized(
    corpus: Corpus, tokenizer: str, vocab_size: int, cache_dir: str | Path | None
) -> TokenStreams:
    """Both parts of the corpus as token ids, memory-mapped from files in `cache_dir`.

    The files are made by the first process that needs them and found by what they are made of.
    Raises `ConfigError` for a tokenizer that can't be had, or with more ids than `vocab_size`.
    """
    source = tokenizer_source(tokenizer, vocab_size)
    folder = kept_files(
        Path(cache_dir) if cache_dir else user_cache(),
        repr((FORMAT, corpus.fingerprint, source.key)),
        lambda folder: write_files(folder, corpus, source, vocab_size),
    )
    return open_files(folder, vocab_size)


def tokenizer_source(tokenizer: str, vocab_size: int) -> TokenizerSource:
    """What a setting names: BPE, a file, a folder with one, or a name on the Hugging Face hub."""
    if tokenizer == BPE:
        return TrainedBpe(vocab_size)
    path = Path(tokenizer).expanduser()
    for file in (path, path / TOKENIZER):
        if file.is_file():
            return SavedTokenizer(file)
    if not HUB_NAME.fullmatch(tokenizer) or tokenizer.endswith(".json"):
        raise ConfigError(
            f"dataset.tokenizer is {tokenizer}, which is no file: give the tokenizer.json of a "
            f"tokenizer, a name on the Hugging Face hub, {BPE} to train one, or null to read bytes"
        )
    return HubTokenizer(tokenizer)


def kept_files(cache: Path, key: str | None, write: Callable[[Path], None]) -> Path:
    """The folder in `cache` that `write` fills for this key, the first time that it is asked for.

    The whole folder or nothing; one process makes it, others wait for it. Without a key it is made
    every time, and named after what is in it.
    """
    if key is None:
        return _kept_by_content(cache, write)
    folder = cache / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    if folder.exists():
        return folder
    unfinished = folder.with_suffix(".tmp")
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            return folder
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
        unfinished.mkdir()
        try:
            write(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _kept_by_content(cache: Path, write: Callable[[Path], None]) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as made:
        write(Path(made))
        digest = hashlib.sha256()
        for file in (Path(made) / name for name in (INFO, TRAINING, HELD_OUT)):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        folder = cache / f"tokens-{digest.hexdigest()[:32]}"
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                shutil.copytree(made, folder.with_suffix(".tmp"), dirs_exist_ok=True)
                folder.with_suffix(".tmp").rename(folder)
    return folder


def write_files(folder: Path, corpus: Corpus, source: TokenizerSource, vocab_size: int) -> None:
    encoder = Encoder.of(source.tokenizer(corpus.training))
    check_vocab_size(encoder.num_ids, vocab_size)
    encoder.tokenizer.save(str(folder / TOKENIZER))
    with TokenWriter.both(folder, encoder) as (training, held_out):
        training.write(corpus.training)
        held_out.write(corpus.held_out)
        write_info(folder, encoder, corpus.fingerprint, source.key, training, held_out)


def write_info(
    folder: Path,
    encoder: AnyEncoder,
    corpus: str,
    tokenizer: str,
    training: TokenWriter,
    held_out: TokenWriter,
) -> None:
    """What was written. Raises `ConfigError` where a part has no tokens."""
    for writer in (training, held_out):
        if not writer.tokens:
            raise ConfigError(
                f"there are no tokens of the {writer.part} part: give more text or another share "
                "to hold out"
            )
    info = TokenFiles(
        vocab_size=encoder.num_ids,
        dtype=training.dtype,
        training_tokens=training.tokens,
        held_out_tokens=held_out.tokens,
        bytes_per_token=None if held_out.bytes is None else held_out.bytes / held_out.tokens,
        corpus=corpus,
        tokenizer=tokenizer,
    )
    (folder / INFO).write_text(json.dumps(asdict(info), indent=2) + "\n")


def open_files(folder: Path, vocab_size: int) -> TokenStreams:
    try:
        info = TokenFiles(**json.loads((folder / INFO).read_text()))
        training = np.memmap(folder / TRAINING, info.dtype, mode="r", shape=info.training_tokens)
        held_out = np.memmap(folder / HELD_OUT, info.dtype, mode="r", shape=info.held_out_tokens)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the token files in {folder} can't be read ({error}): remove that folder, and they "
            "are made again"
        ) from error
    check_vocab_size(info.vocab_size, vocab_size)
    return TokenStreams(training, held_out, info.bytes_per_token)


def check_vocab_size(num_ids: int, vocab_size: int) -> None:
    if vocab_size < num_ids:
        raise ConfigError(
            f"dataset.vocab_size is {vocab_size}, the tokenizer has {num_ids} ids: "
            f"set dataset.vocab_size={num_ids}"
        )


@dataclass(frozen=True)
class Piece:
    """A document, or a part of a long one."""

    text: str
    ends_document: bool


def pieces(document: HasText) -> Iterator[Piece]:
    """The document's text in order, cut where a tokenizer cuts anyway if there is such a place."""
    text, start = document.text(), 0
    while start < len(text):
        end = cut_after(text, start)
        yield Piece(text[start:end], ends_document=end == len(text))
        start = end


def cut_after(text: str, start: int) -> int:
    """Where the piece that begins at `start` ends."""
    first, last = start + PIECE_CHARS, start + 2 * PIECE_CHARS
    if last >= len(text):
        return len(text)
    cut = SAFE_CUT.search(text, first, last)
    return cut.end() if cut else last


def groups(documents: Iterable[HasText]) -> Iterator[list[Piece]]:
    """The pieces of all documents, GROUP_CHARS or a little more at a time."""
    group: list[Piece] = []
    num_chars = 0
    for piece in itertools.chain.from_iterable(map(pieces, documents)):
        group.append(piece)
        num_chars += len(piece.text)
        if num_chars >= GROUP_CHARS:
            yield group
            group, num_chars = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class EncodedPiece:
    """Token ids and the bytes they stand for; the end of a document counts as one byte.

    None where the bytes aren't known.
    """

    ids: Sequence[int] | np.ndarray
    num_bytes: int | None


class AnyEncoder(Protocol):
    """Makes tokens of documents."""

    @property
    def num_ids(self) -> int:
        """Above all ids that it can make."""

    def encoded(self, documents: Iterable[Any]) -> Iterator[EncodedPiece]: ...


@dataclass(frozen=True)
class Encoder:
    """Makes tokens of documents; `document_end` is the id after each, if the tokenizer has one."""

    tokenizer: Tokenizer
    document_end: int | None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Encoder:
        """With what a tokenizer does beyond encoding switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # their names in a text are text like any other
        ids = map(tokenizer.token_to_id, DOCUMENT_ENDS)
        return cls(tokenizer, next((i for i in ids if i is not None), None))

    @property
    def num_ids(self) -> int:
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encoded(self, documents: Iterable[HasText]) -> Iterator[EncodedPiece]:
        for group in groups(documents):
            texts = [piece.text for piece in group]
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            for piece, encoding in zip(group, encodings, strict=True):
                end = self.end_of(piece)
                yield EncodedPiece([*encoding.ids, *end], len(piece.text.encode()) + len(end))

    def end_of(self, piece: Piece) -> list[int]:
        has_end = piece.ends_document and self.document_end is not None
        return [self.document_end] if has_end else []  # type: ignore[list-item]


class TokenWriter:
    """A part's file of ids, and what it holds so far."""

    def __init__(self, part: str, file: IO[bytes], dtype: str, encoder: AnyEncoder) -> None:
        self.part, self.dtype = part, dtype
        self.tokens = 0
        self.bytes: int | None = 0
        self._file, self._encoder = file, encoder

    @classmethod
    @contextmanager
    def both(cls, folder: Path, encoder: AnyEncoder) -> Iterator[tuple[TokenWriter, TokenWriter]]:
        """Of both parts in the folder."""
        dtype = "uint16" if encoder.num_ids <= 2**16 else "uint32"
        with (folder / TRAINING).open("wb") as training, (folder / HELD_OUT).open("wb") as held_out:
            yield (
                cls("training", training, dtype, encoder),
                cls("held-out", held_out, dtype, encoder),
            )

    def write(self, documents: Iterable[Any]) -> None:
        self.write_until(None, documents)

    def write_until(self, most: float | None, documents: Iterable[Any]) -> bool:
        """Whether there is room for more than these documents, up to `most` tokens in all."""
        for piece in self._encoder.encoded(documents):
            room = None if most is None else max(0, int(most) - self.tokens)
            ids = np.asarray(piece.ids, self.dtype)[:room]
            ids.tofile(self._file)
            self.tokens += len(ids)
            known = self.bytes is not None and piece.num_bytes is not None
            self.bytes = self.bytes + piece.num_bytes if known else None  # type: ignore[operator]
            if most is not None and self.tokens >= int(most):
                return False
        return True


def tokenizers_library() -> ModuleType:
    """Imported where it is needed: an optional extra."""
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            "dataset.tokenizer needs the tokenizers library: pip install 'flops-fit[text]', "
            "or tokenizer=null to read bytes"
        ) from error
    return tokenizers
