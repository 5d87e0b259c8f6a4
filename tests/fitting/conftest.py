import csv
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def public_table():
    """Rows of one of the public tables as dicts of text; skips where they are not at hand."""
    beside = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("FLOPS_FIT_SHARED_DATA", beside))

    def rows(name: str) -> list[dict[str, str]]:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in {folder}: set FLOPS_FIT_SHARED_DATA")
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return rows
