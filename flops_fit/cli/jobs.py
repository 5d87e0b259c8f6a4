"""What came of each job of a command, whatever process it ran in: jobs leave it in a folder.

A multirun may send its jobs to other processes (hydra/launcher=joblib), from which nothing else
comes back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from flops_fit.files import read_json, write_json

FOLDER = "FLOPS_FIT_JOBS"
"""Environment variable: the folder in which jobs leave what came of them."""

VARIANTS, EXIT_CODES = "variant-*.json", "exit-code-*.json"


@contextmanager
def job_folder() -> Iterator[Path]:
    """The folder, while a command runs."""
    with tempfile.TemporaryDirectory(prefix="flops-fit-") as folder:
        try:
            yield Path(folder)
        finally:
            os.environ.pop(FOLDER, None)


def leave_in(folder: Path) -> None:
    """What comes of this job goes into the folder. The job brings it along: the process that it
    runs in may be older than the command."""
    os.environ[FOLDER] = str(folder)


def is_multirun() -> bool:
    return bool(HydraConfig.get().mode is RunMode.MULTIRUN)


def path_of_job(pattern: str) -> Path:
    """Where this job leaves its file of a kind."""
    number = HydraConfig.get().job.num if is_multirun() else 0
    return Path(os.environ[FOLDER]) / pattern.replace("*", f"{number:06d}")


def keep_exit_code(code: int) -> None:
    """Leave the exit code of this job."""
    write_json(path_of_job(EXIT_CODES), code)


def exit_codes(folder: Path) -> list[int]:
    """The exit codes of all jobs that came to an end."""
    return [read_json(path) for path in sorted(folder.glob(EXIT_CODES))]
