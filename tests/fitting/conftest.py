import csv
import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ELSEWHERE = "FLOPS_FIT_PUBLIC_TABLES"  # folder of those whose licence lets nobody ship them


@pytest.fixture(scope="session")
def public_table():
    """Rows of one of the public tables as dicts of text; skips where it can't be shipped."""
    folders = [EXAMPLES, *map(Path, filter(None, [os.environ.get(ELSEWHERE)]))]

    def rows(name: str) -> list[dict[str, str]]:
        found = [folder / name for folder in folders if (folder / name).exists()]
        if not found:
            pytest.skip(f"{name} may not be shipped: name a folder that has it in {ELSEWHERE}")
        with found[0].open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return rows
