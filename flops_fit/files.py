"""Files: JSON written whole or not at all, links, and the cache folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from flops_fit.errors import StudyError


def user_cache() -> Path:
    """In the user's cache folder, where the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flops-fit"


def shipped_configs() -> Path:
    """The configs that ship: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def read_json(path: Path) -> Any:
    """Raises `FileNotFoundError`, or `StudyError` where the file holds no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise StudyError(f"{path} is not readable JSON ({error})") from error


def write_json(path: Path, value: Any) -> None:
    """Write the whole file or leave what was there: a reader never sees half of it.

    Raises `StudyError` where the disk is full or the folder can't be written to.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StudyError(
            f"{path} can't be written ({error.strerror}): what was there before is as it was; make "
            "room or mend the permissions, and run the same command again"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def point_to(pointer: Path, folder: Path) -> None:
    """Make `pointer` a link to `folder`, or where links don't exist a file with its path."""
    target = os.path.relpath(folder, pointer.parent)
    temporary = pointer.with_name(f".{pointer.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target, target_is_directory=True)
    except OSError:
        temporary.write_text(target, encoding="utf-8")
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
