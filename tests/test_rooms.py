"""The house: imports go down, no room needs one above it, docs/architecture.md maps it as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import flops_fit

PACKAGE = Path(flops_fit.__file__).parent
MAP = PACKAGE.parent / "docs/architecture.md"

LONGEST_FILE = 450
"""Lines."""


def modules() -> dict[str, Path]:
    """Dotted name inside the package -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
ROOMS = sorted({name.partition(".")[0] for name in MODULES} - {"", "__main__"})


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it; those for types alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flops_fit."):
            module = str(node.module).removeprefix("flops_fit.")
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole in MODULES else module


def rooms_of_the_map() -> list[str]:
    """The rooms in the order of the map, the lowest first."""
    table = MAP.read_text(encoding="utf-8").split("## Where things are")[1].split("\n\n")[2]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    return re.findall(r"`(\w+)(?:/|\.py)`", " ".join(rows))


def test_the_map_has_every_room_once():
    assert sorted(rooms_of_the_map()) == ROOMS


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_the_map(name):
    order = rooms_of_the_map()
    room = name.partition(".")[0]
    if room not in order:
        return  # the doors of the house: flops_fit itself and python -m flops_fit
    for other in imported(MODULES[name]):
        assert order.index(other.partition(".")[0]) <= order.index(room), f"{name} needs {other}"


def test_no_module_needs_itself_through_others():
    needs = {name: set(imported(path)) & MODULES.keys() for name, path in MODULES.items()}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs


def test_files_tell_one_story_each():
    long = {n: p for n, p in MODULES.items() if p.read_text().count("\n") >= LONGEST_FILE}
    assert not long


def test_settings_are_read_as_attributes():
    """No mapping of settings goes below the door: users' `_target_` nodes apart."""
    for name, path in MODULES.items():
        assert 'config["' not in path.read_text(encoding="utf-8"), name
