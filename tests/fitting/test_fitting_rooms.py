"""Imports of the fitting half go down only, and its two methods know nothing of each other."""

import ast
from pathlib import Path

import flops_fit.fitting

FOLDER = Path(flops_fit.fitting.__file__).parent

FLOORS = [
    {"errors", "provenance"},
    {"points", "metrics", "simulation"},
    {"noise", "bootstrap", "selection", "contract"},
    {"tabulated"},
    {"isoflop", "surface", "envelope", "own"},
    {"methods"},
    {"examine"},
    {"result", "refusal"},
    {"fit"},
]
"""From the lowest up. A room may use the floors below it, and itself."""


def test_every_room_uses_the_floors_below_it_only():
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    upward = {
        (room, used)
        for path in FOLDER.rglob("*.py")
        if path != FOLDER / "__init__.py"
        for room in [path.relative_to(FOLDER).with_suffix("").parts[0]]
        for used in rooms_used(path) - {room}
        if floors[used] >= floors[room]
    }
    assert upward == set()


def rooms_used(path: Path) -> set[str]:
    imports = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom))
    names = [node.module.split(".") for node in imports if node.module]
    return {name[2] for name in names if name[:2] == ["flops_fit", "fitting"] and len(name) > 2}
