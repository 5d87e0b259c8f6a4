"""Files of token ids in the shapes that people have: which there are, and what is in them.

Flat binaries as nanoGPT writes them, the same behind the header of llm.c and modded-nanogpt, and
one-dimensional arrays as `numpy.save` writes them.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flops_fit.datasets.source import hashed_blocks
from flops_fit.errors import ConfigError

Stream = np.ndarray | tuple[np.ndarray, ...]
"""Token ids (num_tokens,), or several such arrays, of which no sample has parts of two."""

Paths = str | Path | Sequence[str | Path]
"""A file, a folder or a glob, or a list of them."""

FLAT_DTYPES = ("uint8", "uint16", "uint32", "int32", "int64")
"""Of files that don't say it themselves."""

SUFFIXES = (".bin", ".npy")
"""Of the files that a folder is looked through for."""

HEADER_INTS = 256
"""Signed integers of 32 bits at the start of a file of llm.c: magic number, version, tokens."""

MAGIC = {20240520: "<u2", 20240801: "<u4"}
"""What files of llm.c begin with (dev/data/data_common.py there), and what ids are behind it: those
of GPT-2 and of Llama 3. 20240520 are the ids 55,432 and 308, the first of them none of GPT-2's."""

TELLING_LETTERS = 16
"""In a row that no ids would make."""

MOST_HEADER_INTS = 8
"""That say something; the others are 0."""

OTHER_FORMATS = (
    (b"PK\x03\x04", "an archive, as .npz and torch.save make them"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"PAR1", "a Parquet table (dataset=hub reads these)"),
    (b"ARROW1", "an Arrow table (dataset=hub reads these)"),
    (b"\x80\x04", "a pickle"),
)
"""First bytes of files that hold tokens otherwise, and what they are."""

HUGE = 256
"""Times the vocabulary: ids beyond are pairs of ids, rather than of a larger vocabulary."""

HELD_OUT_WORDS = frozenset(("val", "valid", "validation", "dev", "eval", "heldout"))
TEST_WORDS = frozenset(("test",))
"""Words in the names of files that are not trained on: of both kinds the first is evaluated on."""


@dataclass(frozen=True)
class TokenPaths:
    """Files to train on, those whose names say that they are for evaluation, and all there are."""

    training: tuple[Path, ...]
    held_out: tuple[Path, ...]
    all: tuple[Path, ...]


def token_paths(paths: Paths) -> TokenPaths:
    """The files that are named, in order; of folders and globs in the order of their names.

    What was found in a folder or by a glob is parted by names, such as fineweb_train_000001.bin
    and fineweb_val_000000.bin, or train/0.bin and val/0.bin; files that are named themselves are
    all trained on. Raises `ConfigError` for a folder or glob without files and for a file that is
    named twice, which would be trained on twice.
    """
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [file for path in named for file in matching(path)]
    if not files:
        raise ConfigError("dataset.path is an empty list: give the path of a file of token ids")
    twice = next((path for path in files if files.count(path) > 1), None)
    if twice is not None:
        raise ConfigError(f"dataset.path names {twice} twice: name each file once")
    if all(is_one_file(path) for path in named):
        return TokenPaths(tuple(files), (), tuple(files))
    return parted_by_name(files)


def parted_by_name(files: Sequence[Path]) -> TokenPaths:
    """Told by words in what differs of the paths; all to train on where none or all say more."""
    common = os.path.commonpath([file.parent.absolute() for file in files])
    words = {f: set(re.findall(r"[a-z]+", os.path.relpath(f, common).lower())) for f in files}
    for_evaluation = [f for f in files if words[f] & HELD_OUT_WORDS]
    for_test = [f for f in files if f not in for_evaluation and words[f] & TEST_WORDS]
    training = [f for f in files if f not in for_evaluation and f not in for_test]
    if not training:
        return TokenPaths(tuple(files), (), tuple(files))
    return TokenPaths(tuple(training), tuple(for_evaluation or for_test), tuple(files))


def is_one_file(path: str | Path) -> bool:
    """Whether the path, there or not, is neither a folder nor a glob."""
    whole = Path(path).expanduser()
    return whole.is_file() or not (whole.is_dir() or glob.has_magic(str(path)))


def matching(path: str | Path) -> list[Path]:
    """The file itself, there or not, or those in the folder or that the glob finds, by name."""
    whole = Path(path).expanduser()
    if is_one_file(path):
        return [whole]
    if whole.is_dir():
        found = sorted(f for f in whole.rglob("*") if f.suffix in SUFFIXES and f.is_file())
        wanted = f"{whole}: there is none that ends in {' or '.join(SUFFIXES)}"
    else:
        found = sorted(f for f in map(Path, glob.iglob(str(whole), recursive=True)) if f.is_file())
        wanted = f"{whole}: nothing matches"
    if not found:
        raise ConfigError(f"no token files {wanted}")
    return found


def read_stream(files: Sequence[Path], dtype: str, vocab_size: int) -> Stream:
    """The ids of all files, each a read-only view of it, checked against `vocab_size`."""
    if len(files) == 1:
        return read_tokens(files[0], dtype, vocab_size)
    sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
    shares = [size / max(1, sum(sizes)) for size in sizes]
    return tuple(read_tokens(f, dtype, vocab_size, s) for f, s in zip(files, shares, strict=True))


def read_tokens(path: Path, dtype: str, vocab_size: int, share: float = 1.0) -> np.ndarray:
    """The ids of a file (num_tokens,) as a read-only view of it, checked against `vocab_size`.

    `dtype` is that of files that don't say it themselves; `share` is the file's of all bytes that
    are checked, see `hashed_blocks`.
    """
    if dtype not in FLAT_DTYPES:
        raise ConfigError(f"dataset.dtype is {dtype}: use one of {', '.join(FLAT_DTYPES)}")
    if not path.is_file():
        raise ConfigError(f"no token file {path}: give the path of a flat binary of {dtype} ids")
    tokens, says_dtype = opened(path, dtype)
    largest, smallest = extremes(tokens, share)
    fits = smallest >= 0 and largest < vocab_size
    other = None if says_dtype else other_dtype(path, tokens, vocab_size, fits, share)
    if other and (fits or smallest < 0 or largest >= HUGE * vocab_size):
        what = "holds zeros between its ids" if fits else f"holds the id {largest}"
        raise ConfigError(
            f"{path}, read as {dtype}, {what}; as {other} its ids are all below "
            f"dataset.vocab_size, {vocab_size}: set dataset.dtype={other}"
        )
    if smallest < 0:
        raise ConfigError(
            f"{path} holds the id {smallest}: token ids are 0 and above, take what stands for "
            "padding or masks out of it"
        )
    if largest >= vocab_size:
        raise ConfigError(
            f"{path} holds token id {largest}, dataset.vocab_size is {vocab_size}: "
            f"set it to at least {largest + 1}, or check that the file is {tokens.dtype}"
        )
    return tokens


def opened(path: Path, dtype: str) -> tuple[np.ndarray, bool]:
    """The ids of a file as a view of it, and whether the file itself says of which type they are.

    Raises `ConfigError` for what is no such file.
    """
    with path.open("rb") as file:
        start = file.read(4 * HEADER_INTS)
    if start.startswith(np.lib.format.MAGIC_PREFIX):
        return numpy_array(path), True
    if len(start) == 4 * HEADER_INTS and int.from_bytes(start[:4], "little") in MAGIC:
        return behind_header(path, np.frombuffer(start, "<i4")), True
    for first, what in OTHER_FORMATS:
        if start.startswith(first):
            raise ConfigError(
                f"{path} is {what}: save its ids flat, with numpy.save('ids.npy', ids) or "
                f"ids.astype('{dtype}').tofile('ids.bin')"
            )
    size, itemsize = path.stat().st_size, np.dtype(dtype).itemsize
    if itemsize > 1 and is_text(start):
        raise ConfigError(
            f"{path} holds text, no ids of tokens: dataset=text reads it, or make ids of it"
        )
    if is_other_header(start):
        raise ConfigError(
            f"{path} begins with a header that isn't known ({len(start):,} bytes, of which all but "
            "the first are 0): write the ids without it"
        )
    if size == 0 or size % itemsize:
        raise ConfigError(
            f"{path} has {size} bytes, not a positive multiple of {itemsize}: is it {dtype}?"
        )
    return np.memmap(path, dtype=dtype, mode="r"), False


def is_text(start: bytes) -> bool:
    """Whether the bytes are letters, figures and the like."""
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(start) - 3:  # else it is cut off within a letter
            return False
        text = start[: error.start].decode("utf-8")
    return len(text) >= TELLING_LETTERS and all(c.isprintable() or c in "\n\r\t\f" for c in text)


def is_other_header(start: bytes) -> bool:
    """Whether the file begins as those of llm.c do, with another magic number."""
    if len(start) < 4 * HEADER_INTS:
        return False
    ints = np.frombuffer(start, "<i4")
    return bool(ints[0]) and not ints[MOST_HEADER_INTS:].any()


def numpy_array(path: Path) -> np.ndarray:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(
            f"{path} can't be read as a numpy array ({error}): save whole numbers, with "
            "numpy.save('ids.npy', ids)"
        ) from error
    whole = tokens.dtype.kind in "iu" and tokens.dtype.isnative
    if not whole or tokens.ndim != 1 or not tokens.size:
        raise ConfigError(
            f"{path} is an array {tokens.shape} of {tokens.dtype}: token ids are one row of whole "
            "numbers, save ids.reshape(-1).astype('uint16' or 'uint32')"
        )
    return tokens  # type: ignore[no-any-return]


def behind_header(path: Path, header: np.ndarray) -> np.ndarray:
    """The ids behind a header of llm.c. Raises `ConfigError` where they are not those it tells."""
    dtype, told = np.dtype(MAGIC[int(header[0])]), int(header[2])
    there = (path.stat().st_size - header.nbytes) / dtype.itemsize
    if told != there or told < 1:
        raise ConfigError(
            f"{path} has the header of llm.c, which tells of {told} tokens, and {there:g} behind "
            "it: write or fetch it again"
        )
    return np.memmap(path, dtype=dtype, mode="r", offset=header.nbytes)


def extremes(tokens: np.ndarray, share: float) -> tuple[int, int]:
    """The largest and the smallest id that is looked at."""
    blocks = [(int(b.max()), int(b.min())) for b in hashed_blocks(tokens, share)]
    return max(most for most, _ in blocks), min(least for _, least in blocks)


def other_dtype(
    path: Path, tokens: np.ndarray, vocab_size: int, fits: bool, share: float
) -> str | None:
    """Another type as which all ids of a flat file `tokens` would be below `vocab_size`, if any.

    Larger ids read as smaller ones have zeros between them and look as though they fitted; smaller
    ones read as larger ones are huge. Of several types the largest, as those below it fit too. A
    file of nothing but zeros is left alone.
    """
    itemsize, size = tokens.itemsize, path.stat().st_size
    for other in map(np.dtype, ("int64", "uint32", "uint16")):
        beside = other.itemsize > itemsize if fits else other.itemsize < itemsize
        if beside and size % other.itemsize == 0:
            largest, smallest = extremes(np.memmap(path, dtype=other, mode="r"), share)
            if 0 < largest < vocab_size and smallest >= 0:
                return str(other)
    return None
