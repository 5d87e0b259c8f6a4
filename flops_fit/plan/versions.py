"""Versions of the files that last: what an earlier flops-fit wrote is brought up to date here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flops_fit.errors import StudyError

SCHEMA_VERSION = 1
"""The version in which plan.json, result.json and law.json are written today."""

ID_VERSION = 1
"""Part of every run's id. Another one would orphan all runs there are: files change, this stays."""

Upgrade = Callable[[Mapping[str, Any]], Mapping[str, Any]]

UPGRADES: Mapping[tuple[str, int], Upgrade] = {}
"""(file, version) -> what makes it the next version. Whoever raises `SCHEMA_VERSION` adds one for
each file that it changes; the studies in tests/assets are of version 1."""


def upgraded(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The contents of a file of any earlier version as today's would be.

    Raises `StudyError` for a version that is not known, such as one of a later flops-fit.
    """
    found = data.get("schema_version")
    if not isinstance(found, int) or not 1 <= found <= SCHEMA_VERSION:
        raise StudyError(
            f"{name} has schema version {found}, this flops-fit reads up to {SCHEMA_VERSION}: "
            "use the flops-fit that wrote it, or name another study"
        )
    for version in range(found, SCHEMA_VERSION):
        upgrade = UPGRADES.get((name, version))
        data = data if upgrade is None else upgrade(data)
    return data
