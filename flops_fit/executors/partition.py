"""What a partition of the cluster allows."""

from __future__ import annotations

import math
import os
import shutil

from flops_fit.errors import StudyError
from flops_fit.study.jobs import asked


def most_minutes(partition: str | None) -> float:
    """That a job of the partition may take; of several, `a,b`, the most. None: the default one.

    Infinite where there is no limit, and where nobody can tell.
    """
    partition = partition or os.environ.get("SBATCH_PARTITION")
    if shutil.which("sinfo") is None:
        return math.inf
    named = [f"--partition={partition}"] if partition else []
    try:
        said = asked(["sinfo", "--noheader", "--format=%P|%l", *named]).stdout
    except StudyError:
        return math.inf
    limits = [line.rpartition("|") for line in said.splitlines()]
    meant = [limit for name, _, limit in limits if partition or name.endswith("*")]
    minutes = [_minutes(limit) for limit in meant]
    return max(minutes, default=math.inf)


def _minutes(limit: str) -> float:
    """Of [days-]hours:minutes:seconds, hours or all but seconds missing; words are no limit."""
    days, _, clock = limit.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, days or "0")) or len(parts) > 3:
        return math.inf
    seconds = 24 * 60 * 60 * int(days or 0)
    for place, part in enumerate(reversed(parts)):
        seconds += int(part) * (1, 60, 3600)[place]
    return seconds / 60
