"""What the two distributions say of themselves: one version, one list of dependencies."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

import flops_fit

ROOT = Path(__file__).parents[1]


def project(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    return read


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[><=\[]", one)[0].casefold() for one in requirements}


WHOLE, LIGHT = project(ROOT), project(ROOT / "light")


@pytest.mark.parametrize("folder", [ROOT, ROOT / "light"], ids=["whole", "light"])
def test_the_version_is_that_of_the_package(folder):
    asked = project(folder)
    assert "version" not in asked["project"]
    place = folder / asked["tool"]["hatch"]["version"]["path"]
    assert place.resolve() == Path(flops_fit.__file__)


def test_the_light_distribution_is_the_whole_without_torch():
    whole, light = WHOLE["project"], LIGHT["project"]
    without = [one for one in whole["dependencies"] if not one.startswith("torch")]
    assert light["dependencies"] == without
    assert len(without) == len(whole["dependencies"]) - 1
    assert light["optional-dependencies"]["tables"] == whole["optional-dependencies"]["tables"]
    for key in ("requires-python", "license", "authors", "scripts"):
        assert light[key] == whole[key]


def test_both_hold_the_package_and_its_configs():
    wheel = WHOLE["tool"]["hatch"]["build"]["targets"]["wheel"]
    held = {name: name for name in wheel["packages"]} | wheel["force-include"]
    light = LIGHT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert light == {f"../{source}": target for source, target in held.items()}


def test_what_is_released_is_dated_once_and_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", changes, re.MULTILINE)
    assert found is not None
    assert citation["version"] == found[1] == flops_fit.__version__
    assert citation["date-released"] == found[2]
    date.fromisoformat(found[2])


def test_every_package_of_the_extras_is_pinned():
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    held = names([line for line in pinned if not line.startswith("#")])
    asked = [one for extra in WHOLE["project"]["optional-dependencies"].values() for one in extra]
    assert names([*asked, *WHOLE["project"]["dependencies"]]) - held == {"flops-fit"}
