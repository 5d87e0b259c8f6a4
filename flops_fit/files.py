"""Files: JSON written whole or not at all, read with a sentence for all that can be wrong; links,
names that become paths, and the cache folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import secrets
import stat
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import StudyError, StudyWarning, UserError

LARGEST_FILE = 2**30
"""Bytes. The plan of a million runs is smaller."""

DEEPEST = 64
"""Levels of lists and objects in each other; a law has a dozen."""

LONGEST_NUMBER = 300
"""Digits of a whole number: a float holds no more."""

LARGEST_NUMBER = 10 ** (LONGEST_NUMBER - 1)

CHECKSUM = "checksum"
"""Key of a record under which stands what its other keys hash to."""

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
NAME = re.compile(r"[^./\\*?\[\]:|<>\"][^/\\*?\[\]:|<>\"]{0,199}")
"""Of a file in its own folder, on any system, that no pattern of names stands for."""

DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError, pickle.PickleError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What Python, numpy and torch raise of contents that nothing of ours has written."""


def user_cache() -> Path:
    """In the user's cache folder, where the XDG base directory specification has it; a user without
    a home has it among the temporary files."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        cache = Path(tempfile.gettempdir(), f"user-{os.getuid()}")
    return Path(cache) / "flops-fit"


def shipped_configs() -> Path:
    """The configs that ship: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def is_name(text: str) -> bool:
    """Whether the text names a file or folder in its own folder, as all ids of ours do."""
    return text.isprintable() and NAME.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """The text. Raises `StudyError` where it could lead out of its folder as the name of a file."""
    if not is_name(text):
        raise StudyError(f"{text[:80]!r} is no {what}: it would not name a file of its folder")
    return text


def within(root: Path, *names: str) -> Path:
    """The path under `root`. Raises `StudyError` where a link on the way leads out of it."""
    path = os.fspath(root)
    for name in names:
        path = f"{path}{os.sep}{name}"
        if os.path.islink(path) and not is_inside(Path(path), root):
            raise StudyError(
                f"{path} is a link that leads out of {root}, where nothing is read or written: "
                "put in its place what it points to, or remove it"
            )
    return Path(path)


def is_inside(path: Path, root: Path) -> bool:
    """Whether the path, its links followed, lies in `root`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def size_of(path: Path) -> int:
    """Bytes. Raises `OSError`, or `StudyError` for a folder, a pipe (which nobody may ever write
    to) or a device (which may never end)."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device"
        raise StudyError(f"{path} is {kind} where a file should be")
    return found.st_size


def read_bytes(path: Path) -> bytes:
    """Raises `FileNotFoundError`, or `StudyError` for what is no file or can't be read."""
    try:
        size = size_of(path)
        if size > LARGEST_FILE:
            raise StudyError(f"{path} has {size:,} bytes: no such file is that large")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise StudyError(f"{path} is a link to nothing") from None
        raise
    except OSError as error:
        raise StudyError(f"{path} can't be read ({error.strerror})") from error


def read_text(path: Path) -> str:
    """Raises `FileNotFoundError`, or `StudyError` for what is no UTF-8 text."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StudyError(f"{path} is not UTF-8 text ({error.reason})") from error


def read_json(path: Path) -> Any:
    """Raises `FileNotFoundError`, or `StudyError` where the file holds no JSON."""
    content = read_bytes(path)
    try:
        return parsed(content.decode("utf-8"))
    except ValueError as error:
        raise StudyError(f"{path} is not readable JSON ({error})") from error


def parsed(text: str) -> Any:
    """JSON as values, all numbers finite. Raises `ValueError` where it is none, or can't be worked
    with: too deep, numbers beyond all use, halves of characters."""
    try:
        value = json.loads(text)
        is_sound = _is_sound(value)
    except (ValueError, RecursionError):
        is_sound = False
    if not is_sound:
        value = _looked_at(text)
    if SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # raises UnicodeEncodeError for a half
    return value


def _is_sound(value: Any) -> bool:
    """Whether all of it can be worked with; quick, since there may be 10,000 files of 50 values."""
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 1):
        inner = []
        for holder in level:
            for item in holder.values() if type(holder) is dict else holder:
                kind = type(item)
                if kind is float:
                    if not -math.inf < item < math.inf:
                        return False
                elif kind is int:
                    if not -LARGEST_NUMBER < item < LARGEST_NUMBER:
                        return False
                elif kind is dict or kind is list:
                    inner.append(item)
        if not inner:
            return True
        level = inner
    return False


def _looked_at(text: str) -> Any:
    """The value, each of its numbers looked at. Raises `ValueError` with what is wrong."""
    try:
        value = json.loads(
            text, parse_int=whole_number, parse_float=_finite_number, parse_constant=_finite_number
        )
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from error
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, list | dict)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels")
        level = [item for v in level for item in (v.values() if isinstance(v, dict) else v)]
    return value


def whole_number(digits: str) -> int:
    """Raises `ValueError` for one of more digits than any number of use has."""
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {text[:40]}")
    return value


def read_record(path: Path) -> dict[str, Any]:
    """The object that `write_record` wrote. A `StudyWarning` says where it was changed since.

    Raises `FileNotFoundError`, or `StudyError` where the file holds no JSON object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise StudyError(f"{path} holds no JSON object")
    checksum = value.pop(CHECKSUM, None)  # earlier versions wrote none
    if checksum is not None and checksum != checksum_of(value):
        warnings.warn(
            f"{path} was changed after it was written: it is used as it stands",
            StudyWarning,
            stacklevel=2,
        )
    return value


def checksum_of(record: Mapping[str, Any]) -> str:
    """Sixteen hex digits, the same however its text is spaced or ordered."""
    return hashlib.sha256(_CANONICAL.encode(record).encode()).hexdigest()[:16]


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever its contents make readers raise is a `StudyError` that says that the file is none of
    `what` it should be. A `FileNotFoundError` stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except UserError as error:
        if f"{path}" in f"{error}":
            raise
        raise StudyError(f"{path} is no {what}: {error}") from error
    except DAMAGE as error:
        raise StudyError(f"{path} is no {what} ({type(error).__name__}: {error})") from error


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """As `write_json`, with a checksum by which a later change is noticed."""
    values = json.loads(json.dumps(record, allow_nan=False))
    write_json(path, {**values, CHECKSUM: checksum_of(values)})


def write_json(path: Path, value: Any) -> None:
    """Write the whole file or leave what was there: a reader never sees half of it.

    Raises `StudyError` where the disk is full or the folder can't be written to.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write the whole file or leave what was there; a link is replaced, a folder set aside.

    Raises `StudyError` where the disk is full or the folder can't be written to.
    """
    temporary = temporary_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir() and not path.is_symlink():
            set_aside(path)
        temporary.replace(path)
    except OSError as error:
        raise StudyError(
            f"{path} can't be written ({error.strerror}): what was there before is as it was; make "
            "room or mend the permissions, and run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """A file beside it that no other process writes to, on whatever host."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(6)}.tmp")


TEMPORARY = re.compile(r".+\.\d{1,9}(-[0-9a-f]{12})?\.tmp")
"""The name of a file while a process writes it, which has this number; in earlier versions no more
told it from others."""


def sweep(folder: Path, older_than: float = 0.0) -> None:
    """Remove the temporary files of writers that were killed so many seconds ago, or earlier. Only
    for whoever alone writes there since."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age >= older_than:
                    with suppress(OSError):
                        os.unlink(entry)


def set_aside(path: Path) -> Path:
    """Rename what can't be used, so that nothing is lost; returns its new path."""
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.unusable-{number}")):
        number += 1
    path.rename(free)
    return free


def clear_way(path: Path) -> None:
    """Set aside what nothing can be made of, and say so."""
    warnings.warn(
        f"{path} can't be used and was set aside as {set_aside(path).name}",
        StudyWarning,
        stacklevel=3,
    )


def file_to_write(root: Path, *names: str) -> Path:
    """The path of a file under `root`; a folder, pipe or link to nothing in its place is set aside.

    Raises `StudyError` where a link leads out of `root`.
    """
    path = within(root, *names)
    if os.path.lexists(path) and not path.is_file():
        clear_way(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def folder_to_write(root: Path, *names: str) -> Path:
    """A folder under `root`, made where there is none; anything else in its place is set aside.

    Raises `StudyError` where a link leads out of `root`, or where it can't be made.
    """
    path = within(root, *names)
    try:
        if os.path.lexists(path) and not path.is_dir():
            clear_way(path)
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"{path} can't be made ({error.strerror}): mend the permissions, or make room"
        ) from error
    return path


def point_to(pointer: Path, folder: Path) -> None:
    """Make `pointer` a link to `folder`, or where links don't exist a file with its path."""
    target = os.path.relpath(folder, pointer.parent)
    temporary = temporary_of(pointer)
    try:
        temporary.symlink_to(target, target_is_directory=True)
    except OSError:
        temporary.write_text(target, encoding="utf-8")
    if pointer.is_dir() and not pointer.is_symlink():  # a copy that followed the link
        set_aside(pointer)
    temporary.replace(pointer)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON has them: lists for tuples, objects for mappings and dataclasses, and
    None for what is no finite number."""
    return {str(name): _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return finite(float(value)) if isinstance(value, float) else value


def finite(value: float) -> float | None:
    """The value for JSON, which knows no NaN: None where it is not finite."""
    return value if math.isfinite(value) else None
