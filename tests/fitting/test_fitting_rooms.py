"""Imports of the fitting half go down only, and its methods know nothing of each other.

But for the one that combines others: it stands above them and names those it weighs.
"""

import ast
import importlib
import re
from pathlib import Path

import flops_fit.fitting
from flops_fit.fitting.methods import kinds, named_kind

FOLDER = Path(flops_fit.fitting.__file__).parent
PACKAGE = FOLDER.parent

METHODS = {path.parent.name for path in FOLDER.glob("*/__init__.py") if "KIND" in path.read_text()}

COMBINING = {"combined"}

FLOORS = [
    {"errors", "provenance", "answer"},
    {"points", "metrics", "simulation"},
    {"noise", "bootstrap", "selection", "contract"},
    {"collapse"},
    {"tabulated"},
    METHODS - COMBINING,
    {"methods"},
    COMBINING,
    {"fits"},
    {"examine", "earlier"},
    {"result", "refusal"},
    {"fit"},
]
"""From the lowest up. A room may use the floors below it, and itself."""


def test_the_methods_are_found():
    assert {kind.name for kind in kinds()} == METHODS
    assert {"isoflop", "surface", "combined", "envelope", "own", "repeated"} == METHODS


def test_a_kind_is_named_after_its_room():
    for room in METHODS:
        assert named_kind(room).name == room


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


NAMES_METHODS = ("fitting/__init__.py", *(f"fitting/{room}/" for room in COMBINING))
"""The door, and what combines others."""

OTHER_MEANINGS = {
    ("report/figures/isoflop.py", "isoflop"),
}
"""Strings outside of the methods' rooms with the name of a method in them."""


def test_methods_are_named_in_their_own_rooms_and_where_they_are_combined_only():
    """Classes, modules and strings; `surface` is also what a `LossSurface` is called."""
    named = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).as_posix()
        for method in METHODS - {"own"}:
            if not room.startswith((f"fitting/{method}/", *NAMES_METHODS)):
                named |= {(room, said) for said in of_method(path, method)}
    assert named == OTHER_MEANINGS


NO_NAME = "(?! seeds| data| tokens)"
"""Not followed by these: what is repeated in words is not the method."""


def of_method(path: Path, method: str) -> set[str]:
    """What a file says that names a method: imports, its classes, strings that are no docstrings.

    `fit=<name>` is a config, by which people ask for it.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    strings = {
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docstrings
    }
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    used |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    imports = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    own = importlib.import_module(f"flops_fit.fitting.{method}").__all__
    return {
        *(text for text in strings if re.search(rf"(?<!fit=)\b{method}\b{NO_NAME}", text)),
        *(module for module in imports if f"fitting.{method}" in module),
        *used.intersection(own),
    }
