"""Versions of the files that last: what an earlier flops-fit wrote is brought up to date here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flops_fit.errors import StudyError

ID_VERSION = 1
"""Part of every run's id. Another one would orphan all runs there are: files change, this stays."""

Upgrade = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class VersionError(StudyError):
    """A file of a version that is not known, such as one of a later flops-fit."""


@dataclass(frozen=True)
class FileVersions:
    """A file by its name, the version in which it is written today, and the way there.

    `upgrades` has for each earlier version what makes it the next one: whoever raises `current`
    adds one. The studies in tests/assets are of version 1.
    """

    file: str
    current: int = 1
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)

    def upgraded(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The contents of such a file of any earlier version as today's would be.

        Raises `VersionError` for a version that is not known.
        """
        found = data.get("schema_version")
        if type(found) is not int or not 1 <= found <= self.current:
            raise VersionError(
                f"{self.file} has schema version {str(found)[:40]}, this flops-fit reads up to "
                f"{self.current}: use the flops-fit that wrote it, or name another study"
            )
        for version in range(found, self.current):
            data = self.upgrades[version](data)
        return data


PLAN_VERSIONS, RESULT_VERSIONS = FileVersions("plan.json"), FileVersions("result.json")
