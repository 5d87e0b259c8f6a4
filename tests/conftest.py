import os
from collections.abc import Mapping
from pathlib import Path

import pytest

# Before torch is imported: results are compared bit by bit with those of one-thread workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# pytest-xdist says how wide the screen is, where there is none: lines would break there.
os.environ.pop("COLUMNS", None)

LONGEST_ID = 60


def pytest_make_parametrize_id(val):
    """Short names that are the same in every process, as pytest-xdist needs them."""
    name = readable(val)
    return name if len(name) <= LONGEST_ID else name[: LONGEST_ID - 3] + "..."


def readable(value):
    """The value in few words, without addresses, bytes or contents of tensors."""
    match value:
        case str():
            return value.encode("unicode_escape").decode()
        case bytes():
            return f"{len(value)} bytes"
        case Mapping():
            return ",".join(f"{name}={readable(item)}" for name, item in value.items()) or "nothing"
        case list() | tuple():
            return ",".join(map(readable, value)) or "empty"
        case set() | frozenset():
            return ",".join(sorted(map(readable, value))) or "empty"
        case Path():
            return value.name
    if hasattr(value, "shape"):
        return f"{type(value).__name__}{list(value.shape)}".replace(" ", "")
    if hasattr(value, "__name__"):
        return value.__name__.strip("<>")
    text = str(value)
    return type(value).__name__ if " at 0x" in text or "\n" in text else text


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """What is remembered between sweeps stays within the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
